"""Decide which trials of a search are stopped early: successive halving, from losses alone.

ASHA (Li et al. 2020, arXiv:1810.05934) judges a trial against those that happen to stand at its
rung when it reports, so two runs of one search may stop different trials. Here a trial is judged
against the trials numbered before it, whenever they report: the same cut, but the verdict waits
until all it depends on is known. Until then the trial runs on, and its results past its rung do
not count.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


@dataclass(frozen=True)
class TrialProgress:
    """The (finite) losses of a trial so far, of `evaluations`; if it has `ended`, none follow."""

    losses: tuple[float, ...]
    evaluations: int
    ended: bool


class Verdict(NamedTuple):
    """The evaluation after which a trial is stopped, None if it is not (so far).

    It is `settled` if nothing that is still to come can change it: the trial is stopped, or it is
    at its end and has passed every rung.
    """

    stop: int | None
    settled: bool


@dataclass(frozen=True)
class Halving:
    """Rungs at `grace`, `grace * factor`, `grace * factor**2` … evaluations.

    A trial passes a rung if its loss there is among the best 1 / `factor` (the percentile, linear
    between losses) of the trials that reached the rung and are numbered no higher than itself. The
    first `parallel` trials run at the same time and are judged against each other. No trial is
    stopped at the last evaluation, at which nothing is left to save.
    """

    grace: int
    factor: int
    parallel: int

    def judge(self, progress: Mapping[int, TrialProgress]) -> dict[int, Verdict]:
        """Return the verdict on each trial of `progress`, by number from 1 on.

        Trials and evaluations that are missing are still to come, unless their trial has ended.
        More of them never changes a verdict with a `stop`, or a settled one.
        """
        stops: dict[int, int] = {}
        waiting: set[int] = set()  # for others, at a rung that they have reached
        for rung in self._rungs(max((p.evaluations for p in progress.values()), default=0)):
            losses = self._losses_at(rung, progress, stops, waiting)
            for number, loss in losses.items():
                if loss is None or rung >= progress[number].evaluations:
                    continue
                rivals = [losses[n] for n in losses if n <= max(number, self.parallel)]
                known = [rival for rival in rivals if rival is not None]
                if len(known) < len(rivals):
                    waiting.add(number)
                elif loss > np.percentile(known, 100 / self.factor):
                    stops[number] = rung
        return {
            n: Verdict(stops.get(n), n in stops or (trial.ended and n not in waiting))
            for n, trial in progress.items()
        }

    def _losses_at(
        self,
        rung: int,
        progress: Mapping[int, TrialProgress],
        stops: Mapping[int, int],
        waiting: set[int],
    ) -> dict[int, float | None]:
        """Return the loss at `rung` of each trial that reaches it; None if it is still to come."""
        losses: dict[int, float | None] = {}
        for number in range(1, max([self.parallel, *progress]) + 1):
            trial = progress.get(number, TrialProgress((), rung, False))
            reported = len(trial.losses) >= rung
            if number not in stops and (reported or not trial.ended):
                known = reported and number not in waiting
                losses[number] = trial.losses[rung - 1] if known else None
        return losses

    def _rungs(self, evaluations: int) -> Iterator[int]:
        rung = self.grace
        while rung <= evaluations:
            yield rung
            rung *= self.factor
