"""The rule by which the search chooses, proposals, and searches that fail."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from nutgraf.config import Config, SearchConfig, load
from nutgraf.config.types import Choices, Range
from nutgraf.core.errors import Failure
from nutgraf.search import ray_tune
from nutgraf.search.sampler import Sampler
from nutgraf.search.scheduler import TrialScheduler
from nutgraf.search.trial import Trial, choose_trial, describe_proposals


def trial(number: int, nll: list[float], rouge: float | None = None, **changes: object) -> Trial:
    loss = sum(nll) / (10 * len(nll))
    done = Trial(
        number, {}, "completed", history=[(8, loss)], row_nll=nll, row_tokens=[10] * len(nll)
    )
    done.rouge = {} if rouge is None else {"rougeLsum": rouge}
    for name, value in changes.items():
        setattr(done, name, value)
    return done


def test_a_clearly_lower_loss_wins_whatever_its_rouge() -> None:
    low = trial(1, [10.0, 11.0, 9.0, 10.0], rouge=20.0)
    high = trial(2, [15.0, 16.1, 14.0, 15.0], rouge=30.0)
    assert choose_trial([high, low], finalists=2) is low


def test_within_the_noise_rouge_decides() -> None:
    low = trial(1, [10.0, 11.0, 9.0, 10.0], rouge=20.0)
    close = trial(2, [9.0, 12.5, 8.0, 10.6], rouge=30.0)
    assert choose_trial([low, close], finalists=2) is close


def test_without_rouge_the_lowest_loss_wins() -> None:
    low = trial(1, [10.0, 11.0, 9.0, 10.0])
    close = trial(2, [9.0, 12.5, 8.0, 10.6])
    assert choose_trial([close, low], finalists=2) is low


def test_stopped_and_failed_trials_are_never_chosen() -> None:
    done = trial(1, [20.0, 21.0])
    stopped = trial(2, [1.0, 1.0], status="stopped")
    failed = trial(3, [1.0, 1.0], status="error")
    assert choose_trial([stopped, done, failed], finalists=2) is done


def test_a_failed_trial_is_a_row_with_its_error_and_no_number() -> None:
    row = Trial(3, {"lora.r": 4}, "error", error="OutOfMemoryError: no room").record(False)
    assert row["status"] == "error"
    assert row["error"] == "OutOfMemoryError: no room"
    assert row["validation_loss"] is None
    assert row["rougeLsum"] is None


def test_whole_numbers_stay_whole_and_lists_can_be_chosen() -> None:
    proposals = Sampler(
        SearchConfig(
            concurrent=50,  # so that none of these waits for results
            space={
                "lora.r": Range(low=4, high=16),
                "train.learning_rate": Range(low=1e-4, high=1e-2, log=True),
                "lora.target_modules": Choices(choices=("all-linear", ["q_proj", "v_proj"])),
            },
        )
    )
    drawn = [proposals.next({}) for _ in range(50)]
    assert all(isinstance(d["lora.r"], int) and 4 <= d["lora.r"] <= 16 for d in drawn)
    assert {d["lora.r"] for d in drawn} >= {4, 5, 10, 16}
    assert all(1e-4 <= d["train.learning_rate"] <= 1e-2 for d in drawn)
    assert {str(d["lora.target_modules"]) for d in drawn} == {
        "all-linear",
        "['q_proj', 'v_proj']",
    }


def distance(values: dict[str, Any]) -> float:
    """From the best learning rate of these searches, in factors of e."""
    return abs(math.log(values["train.learning_rate"] / 0.01))


def proposed(trials: int, concurrent: int, status: str = "completed", seed: int = 42) -> Sampler:
    """All proposals of a search whose trials end in the order of their numbers."""
    proposals = Sampler(SearchConfig(trials=trials, concurrent=concurrent, seed=seed))
    ended: dict[int, Trial] = {}
    for number in range(1, trials + 1):
        values = proposals.next(ended)
        ended[number] = trial(number, [10 * distance(values)], status=status)
    return proposals


def test_tpe_proposes_in_a_search_of_six_and_four_are_a_random_search() -> None:
    assert proposed(6, concurrent=1).proposed_by == ["random"] * 4 + ["tpe"] * 2
    assert proposed(4, concurrent=1).proposed_by == ["random"] * 4


def test_trials_that_failed_teach_tpe_nothing_and_their_successors_stay_random() -> None:
    assert proposed(8, concurrent=1, status="error").proposed_by == ["random"] * 8


def test_what_tpe_proposes_is_nearer_to_the_best_learning_rate_than_what_is_drawn() -> None:
    """Proposals 11 to 20 of ten searches, beside those of the same seeds without results."""
    total = {"completed": 0.0, "error": 0.0}
    for seed in range(10):
        for status in total:
            asked = proposed(20, concurrent=1, status=status, seed=seed).proposals[10:]
            total[status] += sum(distance(one.params) for one in asked)
    assert total["completed"] < 0.9 * total["error"]


def test_what_is_said_of_a_search_counts_random_and_tpe_apart() -> None:
    assert describe_proposals(["random"] * 4) == "4 trials, all drawn at random"
    assert (
        describe_proposals(["random"] * 4 + ["tpe"] * 2)
        == "6 trials: 4 drawn at random, then 2 proposed by TPE"
    )


def test_what_tpe_proposes_follows_results_and_is_repeatable() -> None:
    first, again = (proposed(6, concurrent=1).proposals for _ in range(2))
    assert [asked.params for asked in first] == [asked.params for asked in again]
    blind = proposed(6, concurrent=1, status="error").proposals
    assert [a.params for a in first[:4]] == [a.params for a in blind[:4]]
    assert [a.params for a in first[4:]] != [a.params for a in blind[4:]]


def three_trials() -> Config:
    return load.build_config({"search": {"trials": 3}})


def never(*arguments: Any) -> Sequence[Any]:
    raise AssertionError("no trial is started")


def test_if_every_trial_fails_the_search_fails_and_tries_them_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def fail_all(scheduler: TrialScheduler, *rest: object) -> None:
        for trial in iter(scheduler.next, None):
            tried.append(trial.number)
            scheduler.fail(trial.number, "OutOfMemoryError: no\nroom")

    monkeypatch.setattr(ray_tune, "_run_in_ray", fail_all)
    for _ in range(2):
        with pytest.raises(Failure) as failure:
            ray_tune.run_trials(three_trials(), never, tmp_path)
        assert str(failure.value) == (
            "none of 3 trials was completed, 3 failed, the first with: OutOfMemoryError: no room; "
            "change search.space or raise search.trials"
        )
    assert tried == [1, 2, 3] * 2


def test_a_search_that_ray_ends_early_is_no_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        ray_tune, "_run_in_ray", lambda scheduler, *rest: scheduler.fail(1, "broken")
    )
    with pytest.raises(Failure, match="run the same command again, which goes on"):
        ray_tune.run_trials(three_trials(), never, tmp_path)


def test_where_ray_cannot_start_the_search_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / "file"))
    with pytest.raises(Failure, match=r"^Ray could not start \(.*file.*\): free memory and space"):
        ray_tune.run_trials(three_trials(), never, tmp_path / "out")


def test_a_finished_search_is_read_without_ray(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_tune, "_run_in_ray", never)
    for number, values in TrialScheduler(three_trials(), tmp_path).trials.items():
        history = [(224 * n, number + 1 / n) for n in range(1, 5)]
        whole = Trial(number, values.values, history=history, row_nll=[1.0], row_tokens=[1])
        whole.write(tmp_path / str(number))
    trials = ray_tune.run_trials(three_trials(), never, tmp_path)
    assert [(trial.status, len(trial.history)) for trial in trials] == [
        ("completed", 4),
        ("stopped", 1),
        ("stopped", 1),
    ]
