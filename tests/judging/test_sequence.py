"""The confidence sequence of paired preferences: exact properties, known values, its promises."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from nutgraf.judging.sequence import ConfidenceSequence, confidence_sequence, log_wealth, refuted


def clicks(rng: np.random.Generator, share: float, ties: float, shape: tuple[int, ...]):
    scores = (rng.random(shape) < share).astype(float)
    return np.where(rng.random(shape) < ties, 0.5, scores)


def test_a_bettor_gains_nothing_on_average_if_the_mean_is_what_they_bet_on() -> None:
    """Over all 729 orders of six scores, weighed by their chances: exactly 1, at every score."""
    chances = {1.0: 0.5, 0.5: 0.2, 0.0: 0.3}
    mean = sum(score * chance for score, chance in chances.items())
    outcomes = list(itertools.product(chances, repeat=6))
    weights = np.array([math.prod(chances[score] for score in outcome) for outcome in outcomes])
    for scores, m in ((np.array(outcomes), mean), (1 - np.array(outcomes), 1 - mean)):
        assert weights @ np.exp(log_wealth(scores, m)) == pytest.approx(np.ones(6))


def test_known_values() -> None:
    """Of n wins only the wealth is the mean of (1 + bet)^n; it refutes 1/2 above 2 / 0.05 = 40."""
    bets = np.array([0.15, 0.25, 0.35, 0.5, 0.65])
    wealth = np.exp(log_wealth(np.ones(20), 0.5))
    assert wealth == pytest.approx([((1 + bets) ** n).mean() for n in range(1, 21)])
    needed = int((wealth >= 40).argmax()) + 1
    assert confidence_sequence(np.ones(needed - 1)).settled_after is None
    all_won = confidence_sequence(np.ones(needed))
    assert (needed, all_won.settled_after, all_won.mean, all_won.high) == (10, 10, 1.0, 1.0)
    assert all_won.low == pytest.approx(0.5, abs=0.05)
    assert all_won.low >= 0.5
    assert confidence_sequence(np.zeros(0)) == ConfidenceSequence(0, None, 0.0, 1.0, None)
    with pytest.raises(ValueError, match="0 to 1"):
        confidence_sequence(np.array([0.5, 1.5]))


def test_the_two_systems_are_treated_alike() -> None:
    scores = clicks(np.random.default_rng(0), 0.7, 0.3, (80,))
    one, other = confidence_sequence(scores), confidence_sequence(1 - scores)
    assert (one.low, one.high) == pytest.approx((1 - other.high, 1 - other.low))
    assert one.settled_after == other.settled_after


def test_ties_settle_nothing_and_cost_nothing() -> None:
    wins = np.ones(10)
    tied = np.insert(wins, [3, 5, 9], 0.5)
    assert confidence_sequence(tied).settled_after == 13
    even = confidence_sequence(np.full(200, 0.5))
    assert not even.is_settled
    assert (even.low > 0.45, even.high < 0.55) == (True, True)  # that they are alike is known too


def test_what_is_settled_stays_so_and_no_interval_grows() -> None:
    rng = np.random.default_rng(3)
    scores = np.concatenate([clicks(rng, 0.9, 0.1, (40,)), clicks(rng, 0.2, 0.1, (60,))])
    parts = [confidence_sequence(scores[:n]) for n in range(1, 101)]
    for before, after in itertools.pairwise(parts):
        assert after.low >= before.low
        assert after.high <= before.high
        assert after.settled_after in (before.settled_after, after.n)
    assert parts[-1].is_settled


def test_at_most_one_in_twenty_is_misled_although_they_look_after_each_click() -> None:
    rng = np.random.default_rng(4)
    for ties in (0.0, 0.3):
        assert refuted(clicks(rng, 0.5, ties, (1000, 400)), 0.5).any(axis=1).mean() <= 0.05
    biased = clicks(rng, 0.75, 0.2, (1000, 400))
    assert refuted(biased, 0.75 * 0.8 + 0.5 * 0.2).any(axis=1).mean() <= 0.05
    settled = refuted(biased, 0.5)
    assert settled.any(axis=1).mean() > 0.99
    assert np.median(settled.argmax(axis=1)) < 50
