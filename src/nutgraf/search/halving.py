"""Which trials of a search are stopped early: successive halving, as a function of losses alone.

ASHA (Li et al. 2020, arXiv:1810.05934) judges a trial against those that happen to stand at its
rung when it reports, so two runs of one search may stop different trials. Here a trial is judged
against the trials numbered before it, whenever they report: the same cut, but the verdict waits
until all it depends on is known. Until then the trial runs on, and what it did past its rung does
not count.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


@dataclass(frozen=True)
class Course:
    """What is known of one trial: the (finite) loss of each evaluation so far, of `evaluations`.

    Once it has `ended`, completed or failed, no further loss will come.
    """

    losses: tuple[float, ...]
    evaluations: int
    ended: bool


class Verdict(NamedTuple):
    """`stop` is the evaluation after which a trial is stopped, None where it is not (so far).

    It is `settled` when nothing that is still to come can change it: stopped, or at its end and
    let through at every rung.
    """

    stop: int | None
    settled: bool


@dataclass(frozen=True)
class Halving:
    """Rungs at `grace`, `grace * factor`, `grace * factor**2` … evaluations.

    A trial passes a rung if its loss there is among the best 1 / `factor` (the percentile, linear
    between losses) of the trials that reached the rung and are numbered no higher than itself. The
    first `together` trials run at the same time and are judged against each other. Nobody is
    stopped at the last evaluation, where nothing is left to save.
    """

    grace: int
    factor: int
    together: int

    def judge(self, courses: Mapping[int, Course]) -> dict[int, Verdict]:
        """The verdict on each trial of `courses`, by number from 1 on.

        Trials that are missing in `courses`, and evaluations that are missing in a course that has
        not ended, are still to come. More of them never changes a verdict with a `stop`, or a
        settled one.
        """
        stops: dict[int, int] = {}
        waiting: set[int] = set()  # for others, at a rung that they have reached
        for rung in self._rungs(max((c.evaluations for c in courses.values()), default=0)):
            losses = self._standing(rung, courses, stops, waiting)
            for number, loss in losses.items():
                if loss is None or rung >= courses[number].evaluations:
                    continue
                rivals = [losses[n] for n in losses if n <= max(number, self.together)]
                known = [rival for rival in rivals if rival is not None]
                if len(known) < len(rivals):
                    waiting.add(number)
                elif loss > np.percentile(known, 100 / self.factor):
                    stops[number] = rung
        return {
            number: Verdict(
                stops.get(number), number in stops or (course.ended and number not in waiting)
            )
            for number, course in courses.items()
        }

    def _standing(
        self,
        rung: int,
        courses: Mapping[int, Course],
        stops: Mapping[int, int],
        waiting: set[int],
    ) -> dict[int, float | None]:
        """Loss at `rung` of each trial that reaches it; None where that is not known yet."""
        standing: dict[int, float | None] = {}
        for number in range(1, max([self.together, *courses]) + 1):
            course = courses.get(number, Course((), rung, False))
            if number in stops or (course.ended and len(course.losses) < rung):
                continue
            known = number not in waiting and len(course.losses) >= rung
            standing[number] = course.losses[rung - 1] if known else None
        return standing

    def _rungs(self, evaluations: int) -> Iterator[int]:
        rung = self.grace
        while rung <= evaluations:
            yield rung
            rung *= self.factor
