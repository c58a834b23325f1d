"""What people change in a search: what it does to the table, and that a replay gives the same."""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_scheduler import CONFIG, TRIALS, Machine

from nutgraf.config import Config, load
from nutgraf.core.errors import Failure
from nutgraf.search.ledger import LEDGER, REQUESTS, Request, ask, read_steers
from nutgraf.search.sampler import Sampler
from nutgraf.search.scheduler import TrialScheduler
from nutgraf.search.steering import trial_values
from nutgraf.search.trial import Trial

FIVE = load.with_overrides(CONFIG, {"search.trials": 5})
MINE = {"train.learning_rate": 3e-4, "lora.r": 3, "lora.target_modules": ["q_proj"]}


class Steered(Machine):
    """A machine whose search a person steers `often`, whenever it pleases; drawn by seed."""

    def __init__(
        self, out: Path, seed: int, kills: int = 0, often: int = 0, do: str = "stop add continue"
    ) -> None:
        super().__init__(out, seed, kills)
        self.mood, self.do = random.Random(seed), do.split()
        self.asks_at = {self.mood.randrange(70) for _ in range(often)}

    def _step(self, scheduler: TrialScheduler, number: int) -> bool:
        if self.worked in self.asks_at:
            values = {**MINE, "lora.r": self.mood.choice([2, 7])}  # those of 7 break
            do: Any = self.mood.choice(self.do)
            examples = self.mood.choice([None, 20, 48])
            trial = self.mood.randrange(1, len(scheduler.trials) + 2)
            ask(self.out, Request(do=do, trial=trial, examples=examples, values=values))
        ended = super()._step(scheduler, number)
        if ended:
            scheduler.requeue(number)  # as Ray does, in case that it went on meanwhile
        return ended


@pytest.fixture(scope="module")
def undisturbed(folder: Path) -> list[Trial]:
    return Machine(folder / "undisturbed", seed=0, kills=0).search()


def emptied(out: Path) -> Path:
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    return out


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10**6), kills=st.integers(0, 3))
def test_a_steered_search_gives_the_same_table_however_it_is_killed_and_replayed(
    folder: Path, seed: int, kills: int
) -> None:
    out, again = emptied(folder / "steered"), emptied(folder / "replayed")
    table = Steered(out, seed, kills, often=8).search()
    assert not (out / REQUESTS).exists()
    if (out / LEDGER).exists():
        shutil.copy(out / LEDGER, again)
    before = read_steers(again / LEDGER)
    assert Steered(again, seed + 1, kills).search() == table
    assert read_steers(again / LEDGER) == before
    assert Steered(out, seed + 2).search() == table  # finished, it is read again
    for steer in before:
        assert steer.refused or steer.trial in {trial.number for trial in table}


@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_to_add_trials_or_let_them_go_on_changes_no_other_trial(
    folder: Path, undisturbed: list[Trial], seed: int
) -> None:
    out = emptied(folder / "more")
    table = Steered(out, seed, kills=1, often=8, do="add continue").search()
    steers = [] if not (out / LEDGER).exists() else read_steers(out / LEDGER)
    mine = {steer.trial for steer in steers if not steer.refused}
    same = [trial for trial in table if trial.number not in mine]
    assert same == [trial for trial in undisturbed if trial.number not in mine]
    by = {trial.number: trial.proposed_by for trial in table}
    assert all((by[number] == "person") == (number > TRIALS) for number in mine)


def evaluated(scheduler: TrialScheduler, number: int, *losses: float, whole: bool = False) -> None:
    """Let a trial have these losses at its first evaluations, and report."""
    trial = replace(scheduler.trials[number])
    trial.history = [(16 * i, loss) for i, loss in enumerate(losses, 1)]
    if whole:
        trial.row_nll, trial.row_tokens = [1.0], [1]
    trial.write(scheduler.out / str(number))
    scheduler.update(number)


def asked(scheduler: TrialScheduler, do: Any, **request: Any) -> str:
    """What the search says that it has done."""
    ask(scheduler.out, Request(do=do, **request))
    scheduler.steer()
    return read_steers(scheduler.out / LEDGER)[-1].words


def begun(out: Path, config: Config = FIVE) -> TrialScheduler:
    """A search whose first two trials run; the rule stops the second at its first evaluation."""
    scheduler = TrialScheduler(config, out)
    assert [trial.number for trial in (scheduler.next(), scheduler.next()) if trial] == [1, 2]
    evaluated(scheduler, 1, 1.0)
    evaluated(scheduler, 2, 2.0)
    return scheduler


def test_a_stopped_trial_ends_at_its_last_evaluation_and_counts_until_there(tmp_path: Path) -> None:
    scheduler = begun(tmp_path)
    evaluated(scheduler, 1, 1.0, 0.9)
    assert asked(scheduler, "stop", trial=1) == "a person stopped trial 1 after 32 articles"
    assert scheduler.verdicts()[1].stop == 2
    evaluated(scheduler, 1, 1.0, 0.9, 0.1)  # its process had not heard of it
    assert scheduler.verdicts()[1].stop == 2
    assert asked(scheduler, "stop", trial=3) == "a person stopped trial 3 after 0 articles"
    assert [trial.number for trial in iter(scheduler.next, None)] == [4, 5]
    evaluated(scheduler, 4, 1.5, 1.4)
    # At the second rung the loss of 1 counts, which was stopped there: else 4 would pass.
    evaluated(scheduler, 5, 0.5, 0.8, 0.8, 0.8, whole=True)
    assert {n: v.stop for n, v in scheduler.verdicts().items()} == {1: 2, 2: 1, 3: 0, 4: 2, 5: None}
    assert scheduler.finished
    rows = {trial.number: trial.record(False) for trial in scheduler.results()}
    assert [rows[n]["status"] for n in (1, 3, 5)] == ["stopped", "stopped", "completed"]
    assert (rows[1]["examples"], rows[3]["examples"], rows[3]["validation_loss"]) == (32, 0, None)


def test_a_trial_that_goes_on_is_trained_to_its_end_or_as_far_as_is_asked(tmp_path: Path) -> None:
    scheduler = begun(tmp_path)
    scheduler.requeue(2)  # its process has been stopped
    words = "a person let trial 2 go on, from 16 to 48 articles"
    assert asked(scheduler, "continue", trial=2, examples=40) == words
    first = scheduler.next()
    assert first
    assert first.number == 2  # before those that nobody waits for
    evaluated(scheduler, 2, 2.0, 3.0)  # no rule stops it
    assert scheduler.verdicts()[2] == (None, False)
    evaluated(scheduler, 2, 2.0, 3.0, 4.0)
    assert scheduler.verdicts()[2] == (3, True)
    words = "a person let trial 2 go on, from 48 to 64 articles"
    assert asked(scheduler, "continue", trial=2) == words
    evaluated(scheduler, 2, 2.0, 3.0, 4.0, 0.1, whole=True)
    # To the others it is stopped where the rule stopped it: at the second rung it is not there.
    evaluated(scheduler, 1, 1.0, 5.0)
    assert scheduler.verdicts()[1].stop is None
    for number in (1, 3, 4, 5):
        scheduler.fail(number, "broken")
    result = scheduler.results()[1]
    assert (result.number, result.status, result.loss) == (2, "completed", 0.1)


def test_a_trial_that_goes_on_before_its_process_is_stopped_is_given_to_no_other(
    tmp_path: Path,
) -> None:
    scheduler = begun(tmp_path)
    asked(scheduler, "continue", trial=2)
    assert [trial.number for trial in iter(scheduler.next, None)] == [3, 4, 5]
    scheduler.requeue(2)  # Ray had stopped it all the same
    again = scheduler.next()
    assert again
    assert again.number == 2


def test_what_is_asked_while_nothing_runs_comes_first_and_once(tmp_path: Path) -> None:
    begun(tmp_path)
    ask(tmp_path, Request(do="continue", trial=2))
    ask(tmp_path, Request(do="add", values=MINE))
    again = TrialScheduler(FIVE, tmp_path)
    assert [trial.number for trial in iter(again.next, None)] == [6, 2, 1, 3, 4, 5]


def test_an_added_trial_is_judged_by_nobody_and_the_search_can_still_grow(tmp_path: Path) -> None:
    scheduler = begun(tmp_path)
    said = asked(scheduler, "add", values={**MINE, "lora.r": 4})
    words = "a person added trial 6: learning_rate 0.0003, r 4, target_modules ['q_proj']"
    assert said == words
    first = scheduler.next()
    assert first
    assert (first.number, first.values["train.learning_rate"]) == (6, 3e-4)
    evaluated(scheduler, 6, 9.0, 9.0, 9.0, 9.0, whole=True)
    assert scheduler.verdicts()[6] == (None, True)
    proposed = {n: trial.values for n, trial in scheduler.trials.items() if n != 6}
    grown = TrialScheduler(load.with_overrides(FIVE, {"search.trials": 7}), tmp_path)
    while len(grown.trials) < 8:
        for trial in iter(grown.next, None):
            grown.fail(trial.number, "no")
    assert {n: grown.trials[n].values for n in proposed} == proposed
    assert grown.trials[6].completed
    assert list(grown.proposals) == [1, 2, 3, 4, 5, 7, 8]
    assert {t.number: t.proposed_by for t in grown.results()}[6] == "person"


def test_what_cannot_be_is_refused_with_a_reason_which_the_ledger_has(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scheduler = begun(tmp_path)
    for do, request, words in (
        ("stop", {"trial": 9}, "there is no trial 9 yet"),
        ("stop", {"trial": 2}, "trial 2 has ended already"),
        ("continue", {"trial": 1}, "trial 1 is not stopped, and only a stopped one goes on"),
        ("continue", {"trial": 2, "examples": 16}, "it cannot go on to 16"),
        ("continue", {"trial": 2, "examples": 65}, "its training ends at 64: it cannot go on"),
        ("add", {"values": {"train.learning_rat": 1}}, "not searched: did you mean 'train.l"),
        ("add", {"values": {"lora.dropout": 0.1}}, "lora.dropout is not searched"),
        ("add", {"values": {"lora.r": 0}}, "lora.r is 0: input should be greater than"),
    ):
        said = asked(scheduler, do, **request)
        assert said.startswith("not done: ")
        assert words in said
        assert said in caplog.text
    (tmp_path / REQUESTS / "1.json").write_text("{")
    scheduler.steer()
    assert read_steers(tmp_path / LEDGER)[-1].refused == "a file that is no request"
    assert list((tmp_path / REQUESTS).iterdir()) == []
    assert len(scheduler.trials) == 5


def test_a_request_is_done_once_and_not_to_a_trial_of_other_settings(tmp_path: Path) -> None:
    scheduler = begun(tmp_path)
    name = ask(tmp_path, Request(do="stop", trial=1))
    copy = (tmp_path / REQUESTS / f"{name}.json").read_text()
    scheduler.steer()
    (tmp_path / REQUESTS / f"{name}.json").write_text(copy)  # killed before it was deleted
    again = TrialScheduler(FIVE, tmp_path)
    assert (len(read_steers(tmp_path / LEDGER)), again.verdicts()[1].stop) == (1, 1)
    other = TrialScheduler(load.with_overrides(FIVE, {"search.seed": 7}), tmp_path)
    evaluated(other, 1, 1.0)
    assert other.verdicts()[1].stop is None


def test_tpe_learns_nothing_of_a_trial_that_was_stopped_before_its_first_evaluation() -> None:
    sampler = Sampler(load.with_overrides(CONFIG, {"search.concurrent": 1}).search)
    ended = {}
    for number in range(1, 8):
        ended[number] = Trial(number, sampler.next(ended), "stopped")
    assert sampler.proposed_by == ["random"] * 7


def test_steps_larger_than_the_search_has_rows_for_are_refused() -> None:
    space = {"train.gradient_accumulation_steps": {"choices": [1, 2]}}
    config = load.build_config({"train": {"max_examples": 64}, "search": {"space": space}})
    assert trial_values(config, {"train.gradient_accumulation_steps": 3}) == {
        "train.gradient_accumulation_steps": 3
    }
    with pytest.raises(Exception, match="is larger than the search has rows for: lower train"):
        trial_values(config, {"train.gradient_accumulation_steps": 99})


def test_a_damaged_ledger_is_named(tmp_path: Path) -> None:
    (tmp_path / LEDGER).write_text(json.dumps({"id": "x"}) + "\n")
    with pytest.raises(Failure, match=r"steers\.jsonl is damaged \(.*\): delete it, and"):
        TrialScheduler(FIVE, tmp_path)
