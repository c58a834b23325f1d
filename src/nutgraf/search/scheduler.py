"""The state of a search: its trials by number, what each has reported, which are settled.

All of it is in the trials' folders, `<number>/trial.json`, and follows from what stands there: a
search that was killed goes on from the files alone. Which settings a trial gets and whether it is
stopped depends on its number and on losses, not on the order in which trials report.
"""

from __future__ import annotations

import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from nutgraf.config import Config, load
from nutgraf.search.halving import Halving, TrialProgress, Verdict
from nutgraf.search.sampler import Sampler
from nutgraf.search.trial import EVALUATED, HANG, Trial
from nutgraf.training.budget import evaluation_steps

logger = logging.getLogger(__name__)

# By how a trial ended. A trial that failed is tried again, so its ROUGE is measured again.
_KEPT = {
    "completed": ("adapter", "rouge.json"),
    "stopped": (EVALUATED, "rouge.json"),
    "error": (EVALUATED, "error.txt"),
}


class TrialScheduler:
    """The trials of the search `config.search`, each in a folder of `out` named by its number."""

    def __init__(self, config: Config, out: Path) -> None:
        search = config.search
        self.config, self.out = config, out
        self.trials: dict[int, Trial] = {}
        self.evaluations: dict[int, int] = {}  # of a whole training
        self.errors: dict[int, str] = {}
        self.full: str | None = None  # where a disk was full, which ends the search
        self.proposals = Sampler(search)
        together = min(search.concurrent, search.trials)
        self.rule = Halving(search.grace_evaluations, search.reduction_factor, together)
        self.waiting: list[int] = []  # proposed, and nobody works on it yet
        self.propose()

    def propose(self) -> None:
        """Take up every trial that can be proposed by now, with what its folder holds."""
        while len(self.trials) < self.config.search.trials:
            verdicts = self.verdicts()
            if not all(verdicts[number].settled for number in self.proposals.needed):
                return
            settled = {n: self._outcome(n, verdicts[n]) for n in self.proposals.needed}
            number, values = len(self.trials) + 1, self.proposals.next(settled)
            folder = self.out / str(number)
            trial = Trial.read(folder)
            if trial is None or trial.values != values:
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir(parents=True)
                trial = Trial(number, values)
                trial.write(folder)
            (folder / HANG).unlink(missing_ok=True)
            settings = load.with_overrides(self.config, values).train
            self.trials[number], self.evaluations[number] = trial, len(evaluation_steps(settings))
            self.waiting.append(number)
            if trial.history:
                self._tell(trial, *trial.history[-1], "before")

    def next(self) -> Trial | None:
        """The next trial to work on, None if none can be given now. Each is given once."""
        if self.full:
            return None
        self.propose()
        verdicts = self.verdicts()
        while self.waiting:
            number = self.waiting.pop(0)
            if not (self.trials[number].completed or verdicts[number].settled):
                return self.trials[number]
        return None

    def again(self, number: int) -> None:
        """Give trial `number` once more: whoever worked on it is gone."""
        self.waiting.append(number)

    @property
    def finished(self) -> bool:
        """Whether every trial has been proposed and is settled."""
        settled = all(verdict.settled for verdict in self.verdicts().values())
        return settled and len(self.trials) == self.config.search.trials

    def look(self, number: int) -> Verdict:
        """Read again what trial `number` has written into its folder; the verdict on it."""
        seen = len(self.trials[number].history)
        trial = Trial.read(self.out / str(number))
        assert trial is not None  # `propose` wrote it
        self.trials[number] = trial
        for point in trial.history[seen:]:
            self._tell(trial, *point, f"{trial.seconds:.0f} s")
        return self.verdicts()[number]

    def fail(self, number: int, error: str) -> None:
        """Take down that an error ended trial `number`; a search that is run again tries it anew.

        An error of a trial that turns out to have been stopped before does not count.
        """
        self.look(number)
        if not self.trials[number].completed:
            self.errors[number] = " ".join(error.split())
            logger.warning(
                f"trial {number}/{self.config.search.trials}  failed: {self.errors[number]}"
            )

    def verdicts(self) -> dict[int, Verdict]:
        return self.rule.judge(
            {
                number: TrialProgress(
                    tuple(loss for _, loss in trial.history),
                    self.evaluations[number],
                    trial.completed or number in self.errors,
                )
                for number, trial in self.trials.items()
            }
        )

    def table(self) -> list[Trial]:
        """All trials of a finished search by number, as if each had been stopped at its rung."""
        return [self._outcome(n, verdict) for n, verdict in sorted(self.verdicts().items())]

    def tidy(self) -> None:
        """Keep of a finished search the trials' records, adapters, tracebacks and ROUGE."""
        for trial in self.table():
            kept = {"trial.json", *_KEPT[trial.status]}
            for path in (self.out / str(trial.number)).iterdir():
                if path.name in kept:
                    continue
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _outcome(self, number: int, verdict: Verdict) -> Trial:
        trial = replace(self.trials[number], proposed_by=self.proposals.proposed_by[number - 1])
        if verdict.stop is None and trial.completed:
            return replace(trial, status="completed")
        ended = replace(trial, row_nll=[], row_tokens=[])
        if verdict.stop is None:
            return replace(ended, status="error", error=self.errors[number])
        return replace(ended, status="stopped", history=trial.history[: verdict.stop])

    def _tell(self, trial: Trial, examples: int, loss: float, when: str) -> None:
        logger.info(
            f"trial {trial.number}/{self.config.search.trials}  {examples:>6,} articles  "
            f"validation loss {loss:.3f}  {when}  "
            + ", ".join(f"{k.split('.')[-1]} {_short(v)}" for k, v in trial.values.items())
        )


def _short(value: Any) -> str:
    return f"{value:.2g}" if isinstance(value, float) else str(value)
