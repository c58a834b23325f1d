"""Estimate how often one system is preferred, at any number of judgements.

A score is 1 if the first system was preferred, 0 if the second was, 1/2 if both were called good or
both bad. Somebody bets a fixed fraction of their wealth before each score that the mean is above m.
If it is not, the wealth is a nonnegative supermartingale that begins at 1, so it ever reaches 1/a
with probability a at most (Ville 1939). What bettors have refuted is outside the confidence
sequence: it holds at every number of judgements at once, and a judge may stop whenever they like.

Waudby-Smith & Ramdas (2024), "Estimating means of bounded random variables by betting", JRSS B 86;
ours is their hedged capital process with the mixture of a few constant bets.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from nutgraf.evaluation.significance import ALPHA

# Shares of the wealth that are bet. Small ones refute small differences after many judgements,
# large ones large differences after few (docs/judge.md).
_FRACTIONS = np.array([0.15, 0.25, 0.35, 0.5, 0.65])
_BISECTIONS = 30  # ends of an interval are known to 1e-9


@dataclass(frozen=True)
class ConfidenceSequence:
    """The mean of n scores and its 95% confidence sequence, which holds at every n at once.

    `settled_after` is the number of scores that it took until 1/2 was outside; None if it is not.
    """

    n: int
    mean: float | None
    low: float
    high: float
    settled_after: int | None

    @property
    def is_settled(self) -> bool:
        """Return whether 1/2 is outside: one of the two is preferred."""
        return self.settled_after is not None


def confidence_sequence(scores: np.ndarray) -> ConfidenceSequence:
    """Return what the scores show, in their order. Raises ValueError if one is not in 0 to 1."""
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 1 or not ((values >= 0) & (values <= 1)).all():
        raise ValueError("scores are one number from 0 to 1 a judgement")
    if not values.size:
        return ConfidenceSequence(0, None, 0.0, 1.0, None)
    settled = refuted(values, 0.5)
    return ConfidenceSequence(
        n=len(values),
        mean=float(values.mean()),
        low=_lower_end(values),
        high=1 - _lower_end(1 - values),
        settled_after=int(settled.argmax()) + 1 if settled.any() else None,
    )


def refuted(scores: np.ndarray, mean: float) -> np.ndarray:
    """Return whether each score, the last of [..., n], has the wealth of one side refute the mean.

    Each side, above and below, may err with half of ALPHA.
    """
    sides = log_wealth(scores, mean), log_wealth(1 - scores, 1 - mean)
    return np.maximum(*sides) >= _THRESHOLD


def log_wealth(scores: np.ndarray, mean: float) -> np.ndarray:
    """Return the log of the wealth, after each score, of who bets on a mean above `mean`.

    Args:
        scores: From 0 to 1, shape [..., n].
        mean: Above 0, at most 1; the wealth falls with it.

    Returns:
        Shape [..., n].
    """
    factors = np.log1p(_FRACTIONS * (np.asarray(scores)[..., None] / mean - 1))
    bets = factors.cumsum(axis=-2)
    largest = bets.max(axis=-1, keepdims=True)
    return (largest + np.log(np.exp(bets - largest).mean(axis=-1, keepdims=True)))[..., 0]


_THRESHOLD = math.log(2 / ALPHA)


def _lower_end(scores: np.ndarray) -> float:
    """Return the largest mean that is refuted from above, at any of the scores."""
    low, high = 0.0, 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if log_wealth(scores, middle).max() >= _THRESHOLD:
            low = middle
        else:
            high = middle
    return low
