"""The rule by which the search chooses, proposals, and searches that fail."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from nutgraf import config, tuner
from nutgraf.ledger import Ledger
from nutgraf.problems import Failure
from nutgraf.proposals import Proposals
from nutgraf.section import Choices, Range
from nutgraf.settings import Config, SearchConfig
from nutgraf.trials import Trial, choose


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
    assert choose([high, low]) is low


def test_within_the_noise_rouge_decides() -> None:
    low = trial(1, [10.0, 11.0, 9.0, 10.0], rouge=20.0)
    close = trial(2, [9.0, 12.5, 8.0, 10.6], rouge=30.0)
    assert choose([low, close]) is close


def test_without_rouge_the_lowest_loss_wins() -> None:
    low = trial(1, [10.0, 11.0, 9.0, 10.0])
    close = trial(2, [9.0, 12.5, 8.0, 10.6])
    assert choose([close, low]) is low


def test_stopped_and_failed_trials_are_never_chosen() -> None:
    done = trial(1, [20.0, 21.0])
    stopped = trial(2, [1.0, 1.0], status="stopped")
    failed = trial(3, [1.0, 1.0], status="error")
    assert choose([stopped, done, failed]) is done


def test_a_failed_trial_is_a_row_with_its_error_and_no_number() -> None:
    row = Trial(3, {"lora.r": 4}, "error", error="OutOfMemoryError: no room").record(False)
    assert row["status"] == "error"
    assert row["error"] == "OutOfMemoryError: no room"
    assert row["validation_loss"] is None
    assert row["rougeLsum"] is None


def test_whole_numbers_stay_whole_and_lists_can_be_chosen() -> None:
    proposals = Proposals(
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


def three_trials() -> Config:
    return config.build({"search": {"trials": 3}})


def never(*given: Any) -> Sequence[Any]:
    raise AssertionError("no trial is started")


def test_if_every_trial_fails_the_search_fails_and_tries_them_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def fail_all(ledger: Ledger, *rest: object) -> None:
        for trial in iter(ledger.next, None):
            tried.append(trial.number)
            ledger.fail(trial.number, "OutOfMemoryError: no\nroom")

    monkeypatch.setattr(tuner, "_run_in_ray", fail_all)
    for _ in range(2):
        with pytest.raises(Failure) as failure:
            tuner.run(three_trials(), never, tmp_path, lambda text: None)
        assert str(failure.value) == (
            "none of 3 trials was completed, 3 failed, the first with: OutOfMemoryError: no room; "
            "change search.space or raise search.trials"
        )
    assert tried == [1, 2, 3] * 2


def test_a_search_that_ray_ends_early_is_no_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuner, "_run_in_ray", lambda ledger, *rest: ledger.fail(1, "broken"))
    with pytest.raises(Failure, match="run the same command again, which goes on"):
        tuner.run(three_trials(), never, tmp_path, lambda text: None)


def test_where_ray_cannot_start_the_search_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / "file"))
    with pytest.raises(Failure, match=r"^Ray could not start \(.*file.*\): free memory and space"):
        tuner.run(three_trials(), never, tmp_path / "out", lambda text: None)


def test_a_finished_search_is_read_without_ray(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuner, "_run_in_ray", never)
    for number, values in Ledger(three_trials(), tmp_path, lambda text: None).trials.items():
        history = [(224 * n, number + 1 / n) for n in range(1, 5)]
        whole = Trial(number, values.values, history=history, row_nll=[1.0], row_tokens=[1])
        whole.write(tmp_path / str(number))
    found = tuner.run(three_trials(), never, tmp_path, lambda text: None)
    assert [(trial.status, len(trial.history)) for trial in found] == [
        ("completed", 4),
        ("stopped", 1),
        ("stopped", 1),
    ]
