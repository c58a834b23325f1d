"""The table of a search is the same however its trials are scheduled, interrupted and gone on."""

from __future__ import annotations

import random
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nutgraf.config import Config, load
from nutgraf.core.errors import Failure
from nutgraf.core.files import read_json
from nutgraf.search.scheduler import TrialScheduler
from nutgraf.search.trial import Trial

TRIALS, EVALUATIONS = 16, 4
BEGUN_WITH: int | None = None
CONFIG = load.build_config(
    {
        "train": {"max_examples": 64, "eval_every": 16},
        "search": {
            "trials": TRIALS,
            "concurrent": 2,
            "space": {
                "train.learning_rate": {"low": 1e-3, "high": 1e-1, "log": True},
                "lora.r": {"low": 2, "high": 9},
                "lora.target_modules": {"choices": ["all-linear", ["q_proj"]]},
            },
        },
    }
)


def loss(trial: Trial) -> float:
    """Of the next evaluation; about one trial in nine fails instead at some point."""
    rate, rank = trial.values["train.learning_rate"], trial.values["lora.r"]
    return abs(rate - 0.01) * 10 + rank / 50 + 1 / (len(trial.history) + 1)


def broken(trial: Trial) -> bool:
    return trial.values["lora.r"] == 7 and len(trial.history) == 1


class Machine:
    """Runs the trials of a scheduler in one process, in an order and with kills drawn by seed."""

    def __init__(
        self, out: Path, seed: int, kills: int, lost: float = 0.0, config: Config = CONFIG
    ) -> None:
        self.config, self.evaluated = config, 0
        self.lost = lost  # chance that whoever works on a trial is gone, instead of a step
        self.out, self.draw = out, random.Random(seed)
        self.workers = self.draw.choice([1, 2, 5])
        self.kill_at = {self.draw.randrange(60) for _ in range(kills)}
        self.worked = 0

    def search(self) -> list[Trial]:
        while True:
            scheduler = TrialScheduler(self.config, self.out, BEGUN_WITH)
            if self._run(scheduler):
                assert scheduler.finished
                scheduler.remove_scratch()
                return [replace(trial, seconds=0.0) for trial in scheduler.results()]

    def _run(self, scheduler: TrialScheduler) -> bool:
        """Until the search is finished, or killed (False)."""
        running: list[int] = []
        while running or not scheduler.finished:
            while len(running) < self.workers and (trial := scheduler.next()):
                running.append(trial.number)
            assert running, "nothing runs, and nothing is given to run"
            self.worked += 1
            if self.worked in self.kill_at:
                return False
            number = self.draw.choice(running)
            if self.draw.random() < self.lost:
                running.remove(number)
                scheduler.requeue(number)
            elif self._step(scheduler, number):
                running.remove(number)
        return True

    def _step(self, scheduler: TrialScheduler, number: int) -> bool:
        """One evaluation of a trial; whether it has come to an end."""
        folder = self.out / str(number)
        trial = Trial.read(folder)
        assert trial
        if broken(trial):
            scheduler.fail(number, "RuntimeError: broken")
            return True
        if len(trial.history) == EVALUATIONS:
            trial.row_nll, trial.row_tokens = [trial.values["train.learning_rate"]], [1]
        else:
            self.evaluated += 1
            trial.history.append((16 * (len(trial.history) + 1), loss(trial)))
        trial.write(folder)
        return scheduler.update(number).stop is not None or trial.completed


def fail_all(scheduler: TrialScheduler) -> list[int]:
    """The numbers of all trials that there is work on; each of them fails."""
    numbers = []
    for trial in iter(scheduler.next, None):
        numbers.append(trial.number)
        scheduler.fail(trial.number, "RuntimeError: broken")
    return numbers


def searched(out: Path, seed: int, kills: int, lost: float = 0.0) -> list[Trial]:
    shutil.rmtree(out, ignore_errors=True)
    return Machine(out, seed, kills, lost).search()


@pytest.fixture(scope="module")
def undisturbed(folder: Path) -> list[Trial]:
    return searched(folder / "undisturbed", seed=0, kills=0)


def test_an_undisturbed_search_has_every_kind_of_trial(undisturbed: list[Trial]) -> None:
    assert [trial.number for trial in undisturbed] == list(range(1, TRIALS + 1))
    assert {trial.status for trial in undisturbed} == {"completed", "stopped", "error"}
    assert [len(t.history) for t in undisturbed if t.status == "error"] == [1]
    assert {len(t.history) for t in undisturbed if t.status == "stopped"} == {1, 2}


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), kills=st.integers(0, 3), lost=st.sampled_from([0.0, 0.1]))
def test_the_table_depends_on_neither_order_nor_kills_nor_cores(
    folder: Path, undisturbed: list[Trial], seed: int, kills: int, lost: float
) -> None:
    assert searched(folder / "disturbed", seed, kills, lost) == undisturbed


def test_what_is_done_is_not_done_again(
    folder: Path, undisturbed: list[Trial], caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(folder / "undisturbed", folder / "again", dirs_exist_ok=True)
    again = TrialScheduler(CONFIG, folder / "again")
    assert again.finished
    assert again.results() == undisturbed
    # Of a search that is not finished errors are tried anew: there may be more memory.
    (folder / "again" / "errors.json").unlink()
    again = TrialScheduler(CONFIG, folder / "again")
    assert fail_all(again) == [t.number for t in undisturbed if t.status == "error"]
    assert again.finished
    assert sum("before" in line for line in caplog.messages) == 2 * TRIALS


@pytest.mark.parametrize("fewer", [1, 4, 9])
def test_a_search_of_more_or_fewer_trials_is_as_if_it_had_begun_with_them(
    folder: Path, undisturbed: list[Trial], fewer: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trials that are there are not trained again, nor are failed ones tried anew."""
    little = load.with_overrides(CONFIG, {"search.trials": fewer, "search.concurrent": 1})
    out = folder / f"grown-{fewer}"
    monkeypatch.setattr(sys.modules[__name__], "BEGUN_WITH", 2)
    shutil.rmtree(out, ignore_errors=True)
    first = Machine(out, 1, 0, config=little)
    begun = first.search()
    more = Machine(out, 2, 0)
    assert more.search() == undisturbed
    whole = Machine(folder / "whole", 3, 0)
    shutil.rmtree(folder / "whole", ignore_errors=True)
    whole.search()
    if fewer > 1:  # the first two are judged against each other, one alone is not
        assert first.evaluated + more.evaluated <= whole.evaluated + 2 * EVALUATIONS
    less = Machine(out, 4, 0, config=little)
    assert less.search() == begun
    assert less.evaluated <= (EVALUATIONS if fewer == 1 else 0)


def test_a_trial_of_other_settings_is_not_taken_over(folder: Path) -> None:
    first = TrialScheduler(CONFIG, folder / "other")
    for number, values in ((1, {"lora.r": 1}), (2, {})):
        trial = Trial(number, {**first.trials[number].values, **values}, history=[(16, 1.0)])
        trial.write(folder / "other" / str(number))
    again = TrialScheduler(CONFIG, folder / "other")
    assert again.trials[1] == first.trials[1]
    assert again.trials[2].history == [(16, 1.0)]


def test_proposals_are_random_until_four_results_are_known(undisturbed: list[Trial]) -> None:
    # The fourth to have a result is the fourth or fifth, as one may fail, and two may still run.
    by = [trial.proposed_by for trial in undisturbed]
    assert by == ["random"] * by.count("random") + ["tpe"] * by.count("tpe")
    failed = sum(trial.status == "error" for trial in undisturbed[:4])
    assert by.count("random") == 4 + failed + 2


def test_a_finished_search_keeps_records_adapters_and_tracebacks(
    folder: Path, undisturbed: list[Trial]
) -> None:
    out = folder / "tidy"
    shutil.copytree(folder / "undisturbed", out)
    for trial in undisturbed:
        for name in ("adapter", ".adapter.checkpoints", "evaluated"):
            (out / str(trial.number) / name).mkdir()
        (out / "errors.json").unlink(missing_ok=True)
        for name in ("error.txt", "hang.txt", ".lock", "rouge.json"):
            (out / str(trial.number) / name).touch()
    scheduler = TrialScheduler(CONFIG, out)
    fail_all(scheduler)
    scheduler.remove_scratch()
    files_by_status = {
        "completed": {"adapter", "rouge.json"},
        "stopped": {"evaluated", "rouge.json"},
        "error": {"evaluated", "error.txt"},
    }
    for trial in undisturbed:
        files = {path.name for path in (out / str(trial.number)).iterdir()}
        assert files == {"trial.json"} | files_by_status[trial.status]


def test_errors_of_an_earlier_search_are_forgotten_if_no_trial_fails(
    folder: Path, undisturbed: list[Trial], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = folder / "mended"
    shutil.copytree(folder / "undisturbed", out)
    failed = [str(trial.number) for trial in undisturbed if trial.status == "error"]
    assert [*read_json(out / "errors.json")] == failed
    monkeypatch.setattr(sys.modules[__name__], "broken", lambda trial: False)
    other = load.with_overrides(CONFIG, {"search.seed": CONFIG.search.seed + 1})
    assert "error" not in {trial.status for trial in Machine(out, 0, 0, config=other).search()}
    assert read_json(out / "errors.json") == {}


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"values": {}, "more": 1}', b"\xff"])
def test_a_damaged_record_of_a_trial_is_named(tmp_path: Path, content: bytes) -> None:
    TrialScheduler(CONFIG, tmp_path)
    (tmp_path / "2" / "trial.json").write_bytes(content)
    with pytest.raises(Failure, match=r"2/trial\.json is damaged \(.+\): delete that folder"):
        TrialScheduler(CONFIG, tmp_path)
