"""Keep the state of a search: its trials, what each has reported, and which are settled.

All of it is in the trials' folders, `<number>/trial.json`, and follows from these files alone, so a
search that was killed resumes from them. Which settings a trial gets and whether it is stopped
depends on its number and on losses, not on the order in which trials report. What people change is
in a ledger beside the folders.
"""

from __future__ import annotations

import itertools
import logging
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from nutgraf.config import Config, load
from nutgraf.core.errors import is_full
from nutgraf.core.files import read_json, write_json
from nutgraf.search.halving import Halving, TrialProgress, Verdict
from nutgraf.search.ledger import Ledger
from nutgraf.search.sampler import Sampler
from nutgraf.search.steering import Steering, Verdicts, decide
from nutgraf.search.trial import CURVES, EVALUATED, HANG, SAMPLES, TRAINED, Trial
from nutgraf.training.budget import evaluation_steps, total_examples

logger = logging.getLogger(__name__)

_ERRORS = "errors.json"  # of a finished search

# What stays of a trial, by its status. A failed trial is tried again, so its ROUGE goes.
_FILES = {
    "completed": ("trial.json", "adapter", TRAINED, "rouge.json", CURVES, SAMPLES),
    "stopped": ("trial.json", EVALUATED, "rouge.json", CURVES, SAMPLES),
    "error": ("trial.json", EVALUATED, "error.txt", CURVES, SAMPLES),
}


class TrialScheduler:
    """The trials of the search `config.search`, each in a folder of `out` named by its number."""

    def __init__(self, config: Config, out: Path, begun_with: int | None = None) -> None:
        """Go on with what `out` holds; `begun_with` is `search.concurrent` at the start of it."""
        search = config.search
        self.config, self.out = config, out
        self.trials: dict[int, Trial] = {}
        self.evaluations: dict[int, int] = {}  # of a whole training
        self.examples: dict[int, int] = {}  # of a whole training
        self.seen: dict[int, int] = {}  # examples, as the trial's process has reported
        # By number. Those of a finished search stay, so that proposals after them do.
        errors = out / _ERRORS
        self.errors = {int(n): e for n, e in read_json(errors).items()} if errors.exists() else {}
        self.full_disk: str | None = None  # the path on a full disk, which ends the search
        self.sampler = Sampler(search, begun_with)
        parallel = min(self.sampler.concurrent, search.trials)
        self.halving = Halving(search.grace_evaluations, search.reduction_factor, parallel)
        self.queue: list[int] = []  # no process runs these
        self.at_work: set[int] = set()  # a process runs these
        self.proposals: dict[int, str] = {}  # who proposed it, by number; no trials of people's
        self.closed = False  # nobody steers it any more
        self.ledger = Ledger(out)
        self._follow()
        self._propose()
        self.steer()

    def _propose(self) -> None:
        """Propose every trial that can be proposed by now, with the results in its folder."""
        numbers = self.steering.proposed()
        for number in itertools.islice(numbers, len(self.proposals), self.config.search.trials):
            verdicts, so_far = self._judge()[0], list(self.proposals)
            needed = {proposal: so_far[proposal - 1] for proposal in self.sampler.needed}
            if not all(verdicts[n].settled for n in needed.values()):
                return
            settled = {proposal: self._result(n, verdicts[n]) for proposal, n in needed.items()}
            values = self.sampler.next(settled)
            self.proposals[number] = self.sampler.proposed_by[-1]
            self._enter(number, values)

    def _enter(self, number: int, values: Mapping[str, Any]) -> None:
        """Take up a trial with the results in its folder, if they are its own; queue it."""
        folder = self.out / str(number)
        trial = Trial.read(folder)
        if trial is None or trial.values != values:
            if trial and trial.history:
                logger.info(f"trial {number} is proposed with other settings: trained anew")
            self.errors.pop(number, None)
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            trial = Trial(number, dict(values))
            trial.write(folder)
        (folder / HANG).unlink(missing_ok=True)
        train = load.with_overrides(self.config, values).train
        self.trials[number], self.evaluations[number] = trial, len(evaluation_steps(train))
        self.examples[number] = total_examples(train)
        self.queue.append(number)
        if trial.history:
            self._log(trial, *trial.history[-1], "before")

    def steer(self) -> None:
        """Do what people have asked for since the last call; the ledger has what became of it."""
        if self.closed or self.full_disk:
            return
        try:
            for name, request in self.ledger.requests():
                folders = [int(path.name) for path in self.out.iterdir() if path.name.isdecimal()]
                new = max([self.config.search.trials, *folders]) + 1
                known = (self.config, self.trials, self.verdicts(), self.errors)
                self.ledger.add(steer := decide(name, request, *known, new))
                logger.log(logging.WARNING if steer.refused else logging.INFO, steer.words)
                self._follow()
                went_on = steer.do == "continue" and not steer.refused
                if went_on and steer.trial not in self.at_work:
                    self.queue = [steer.trial, *(n for n in self.queue if n != steer.trial)]
        except OSError as error:
            if not is_full(error):
                raise
            self.full_disk = str(error.filename)

    def _follow(self) -> None:
        """Hold to the ledger as it is now."""
        self.steering = Steering(self.ledger.steers)
        for number, values in self.steering.added.items():
            if number not in self.trials:
                self._enter(number, values)
                self.queue.insert(0, self.queue.pop())  # somebody waits for it

    def next(self) -> Trial | None:
        """Return the next trial to run, each once; None if there is none for now."""
        self.steer()
        if self.full_disk:
            return None
        self._propose()
        verdicts = self.verdicts()
        while self.queue:
            number = self.queue.pop(0)
            if self._is_open(number, verdicts[number]):
                self.at_work.add(number)
                return self.trials[number]
        return None

    def _is_open(self, number: int, verdict: Verdict) -> bool:
        """Return whether there is work on a trial."""
        ended = self.trials[number].completed or number in self.errors or verdict.settled
        return not ended and verdict.stop is None  # what a person stops may wait for others

    def requeue(self, number: int) -> None:
        """Return trial `number` once more from `next`: the process that ran it is gone.

        If it has ended, it is not returned.
        """
        self.at_work.discard(number)
        if number not in self.queue:
            self.queue.append(number)

    @property
    def finished(self) -> bool:
        """Return whether every trial has been proposed and is settled."""
        settled = all(verdict.settled for verdict in self.verdicts().values())
        return settled and len(self.proposals) == self.config.search.trials

    def progress(self) -> tuple[int, int]:
        """Return the examples that all trials have seen so far, and those that they see at most."""
        verdicts, seen, total = self.verdicts(), 0, 0
        for number, trial in self.trials.items():
            evaluated = trial.history[-1][0] if trial.history else 0
            examples = max(evaluated, self.seen.get(number, 0))
            seen += examples
            total += examples if verdicts[number].settled else self.examples[number]
        unproposed = self.config.search.trials - len(self.proposals)
        return seen, total + unproposed * total_examples(self.config.train)

    def update(self, number: int) -> Verdict:
        """Read again what trial `number` has written into its folder; return the verdict on it."""
        evaluated = len(self.trials[number].history)
        trial = Trial.read(self.out / str(number))
        assert trial is not None  # `_propose` wrote it
        self.trials[number] = trial
        for point in trial.history[evaluated:]:
            self._log(trial, *point, f"{trial.seconds:.0f} s")
        self.steer()
        return self.verdicts()[number]

    def fail(self, number: int, error: str) -> None:
        """Record that an error ended trial `number`; the search tries it anew if it is run again.

        An error of a trial that was trained to its end before does not count.
        """
        self.update(number)
        self.at_work.discard(number)
        if not self.trials[number].completed:
            error = self.errors[number] = " ".join(error.split())
            logger.warning(f"trial {number}/{self._of(number)}  failed: {error}")

    def verdicts(self) -> dict[int, Verdict]:
        """Return the verdict on each trial so far, by number."""
        return self._judge()[1]

    def _judge(self) -> tuple[Verdicts, Verdicts]:
        """Return the verdicts on which others depend, and those that hold (`Steering.judge`)."""
        progress = {
            number: TrialProgress(
                tuple(loss for _, loss in trial.history),
                self.evaluations[number],
                trial.completed or number in self.errors,
            )
            for number, trial in self.trials.items()
        }
        values = {number: trial.values for number, trial in self.trials.items()}
        return self.steering.judge(self.halving, progress, values)

    def results(self) -> list[Trial]:
        """Return the trials of a finished search by number, as if each was stopped at its rung."""
        return [self._result(n, verdict) for n, verdict in sorted(self.verdicts().items())]

    def remove_scratch(self) -> None:
        """Delete everything of a finished search but records, adapters, tracebacks and ROUGE."""
        self.ledger.close()
        if self.errors or (self.out / _ERRORS).exists():  # which may hold those of before
            write_json(self.out / _ERRORS, self.errors)
        for trial in self.results():
            for path in (self.out / str(trial.number)).iterdir():
                if path.name not in _FILES[trial.status]:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _result(self, number: int, verdict: Verdict) -> Trial:
        trial = replace(self.trials[number], proposed_by=self.proposals.get(number, "person"))
        if verdict.stop is None and trial.completed:
            return replace(trial, status="completed")
        ended = replace(trial, row_nll=[], row_tokens=[])
        if verdict.stop is None:
            return replace(ended, status="error", error=self.errors[number])
        return replace(ended, status="stopped", history=trial.history[: verdict.stop])

    def _of(self, number: int) -> int:
        return max(number, self.config.search.trials)

    def _log(self, trial: Trial, examples: int, loss: float, when: str) -> None:
        values = ", ".join(f"{k.split('.')[-1]} {_short(v)}" for k, v in trial.values.items())
        logger.info(
            f"trial {trial.number}/{self._of(trial.number)}  {examples:>6,} articles  "
            f"validation loss {loss:.3f}  {when}  {values}"
        )


def _short(value: Any) -> str:
    return f"{value:.2g}" if isinstance(value, float) else str(value)
