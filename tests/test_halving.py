"""Which trials are stopped, whatever the order in which they report."""

from __future__ import annotations

import math
from types import SimpleNamespace

from ray.tune.schedulers import TrialScheduler

from nutgraf.halving import Halving

LAST = 4
STOP, CONTINUE = TrialScheduler.STOP, TrialScheduler.CONTINUE


def reports(scheduler: Halving, *given: tuple[str, int, float]) -> list[str]:
    return [
        scheduler.on_trial_result(
            None,
            SimpleNamespace(trial_id=name),
            {"evaluation": evaluation, "loss": loss, "last": evaluation == LAST},
        )
        for name, evaluation, loss in given
    ]


def test_the_worse_of_two_is_stopped_whoever_reports_first() -> None:
    better_first = reports(Halving("loss", 1, 2), ("a", 1, 1.0), ("b", 1, 2.0))
    assert better_first == [CONTINUE, STOP]
    worse_first = reports(
        Halving("loss", 1, 2), ("b", 1, 2.0), ("a", 1, 1.0), ("a", 2, 0.8), ("b", 2, 1.5)
    )
    assert worse_first == [CONTINUE, CONTINUE, CONTINUE, STOP]


def test_half_go_on_at_each_rung() -> None:
    losses = {"a": 1.0, "b": 2.0, "c": 3.0, "d": 4.0}
    scheduler = Halving("loss", 1, 2)
    reports(scheduler, *((name, 1, loss) for name, loss in losses.items()))
    # The second evaluation is a rung too, the third is none: the cut of the second holds.
    assert reports(scheduler, ("a", 2, 0.9), ("b", 2, 1.9)) == [CONTINUE, STOP]
    assert reports(scheduler, ("a", 3, 9.9)) == [CONTINUE]


def test_nobody_is_stopped_within_the_grace() -> None:
    scheduler = Halving("loss", 2, 2)
    assert reports(scheduler, ("a", 1, 1.0), ("b", 1, 9.0)) == [CONTINUE, CONTINUE]
    assert reports(scheduler, ("a", 2, 1.0), ("b", 2, 9.0)) == [CONTINUE, STOP]


def test_the_best_of_the_highest_rung_stays_though_others_overtake_it_below() -> None:
    scheduler = Halving("loss", 1, 2)
    reports(scheduler, ("a", 1, 1.0), ("a", 2, 0.5))
    reports(scheduler, ("b", 1, 0.9), ("c", 1, 0.8), ("d", 1, 0.7))
    assert reports(scheduler, ("a", 3, 0.4), ("b", 2, 0.6)) == [CONTINUE, STOP]


def test_a_loss_that_is_no_number_is_stopped() -> None:
    scheduler = Halving("loss", 1, 2)
    assert reports(scheduler, ("a", 1, 1.0), ("b", 1, math.nan)) == [CONTINUE, STOP]


def test_a_trial_that_has_used_its_budget_is_not_stopped() -> None:
    scheduler = Halving("loss", 4, 2)
    assert reports(scheduler, ("a", LAST, 1.0), ("b", LAST, 2.0)) == [CONTINUE, CONTINUE]
