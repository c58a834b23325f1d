"""Use what is known of all articles where people have judged few."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from nutgraf.evaluation.bootstrap import Z95

# What is known of every summary: ROUGE of its reference, and indicators.
FEATURES = (
    "rougeLsum", "words", "coverage", "novel_2grams", "least_support", "missing_key_facts",
    "unsupported_numbers", "unsupported_names", "repeated_trigrams", "unfinished",
)  # fmt: skip
MIN_CLICKS = 30  # below it, neither a prediction nor a normal interval is worth much
_FOLDS = 10
_PENALTY = 10.0  # of the ridge regression: as if so many articles said that nothing predicts
_SEED = 1


@dataclass(frozen=True)
class Powered:
    """A mean over all articles with its 95% interval, and that of the judged articles alone.

    `worth` is how many judgements without predictions would give as short an interval, for each.
    """

    mean: float
    low: float
    high: float
    plain_low: float
    plain_high: float
    worth: float


def prediction_powered(
    scores: np.ndarray, judged: np.ndarray, others: np.ndarray
) -> Powered | None:
    """Estimate the mean score over articles of which few are judged; None below MIN_CLICKS.

    The scores of other articles are predicted from their features; the error of that is measured
    on judged ones and taken off. If the prediction is worthless, its weight is 0 and the estimate
    the plain mean. Angelopoulos et al. (2023), "Prediction-powered inference", Science 382; the
    weight is that of Angelopoulos, Duchi & Zrnic (2023), "PPI++"; the prediction is learnt on other
    judged articles than it is used on, as in Zrnic & Candès (2024), "Cross-prediction-powered
    inference", PNAS 121. The number of judgements has to be fixed beforehand: unlike a confidence
    sequence, the interval is no reason to stop.

    Args:
        scores: From 0 to 1, shape [n].
        judged: Features of the same articles, shape [n, features].
        others: Those of articles that are not judged, shape [N, features].
    """
    n, unjudged = len(scores), len(others)
    if n < MIN_CLICKS:
        return None
    every = np.concatenate([judged, others]).astype(np.float64)
    spread = every.std(axis=0)
    every = (every - every.mean(axis=0)) / np.where(spread > 0, spread, 1)
    known, unknown = every[:n], every[n:]
    folds = np.random.default_rng(_SEED).permutation(n) % _FOLDS
    predicted, elsewhere = np.empty(n), np.zeros(unjudged)
    for fold in range(_FOLDS):
        held = folds == fold
        weights, constant = _ridge(known[~held], scores[~held])
        predicted[held] = known[held] @ weights + constant
        elsewhere += (unknown @ weights + constant) / _FOLDS
    variance = float(predicted.var(ddof=1))
    weight = 0.0
    if unjudged > 1 and variance > 0:
        together = float(np.cov(scores, predicted)[0, 1])
        weight = min(max(together / (variance * (1 + n / unjudged)), 0.0), 1.0)
    mean, error = float(np.mean(scores)), float(np.var(scores, ddof=1)) / n
    plain = Z95 * math.sqrt(error)
    if weight:
        mean += weight * float(elsewhere.mean() - predicted.mean())
        error = float(np.var(scores - weight * predicted, ddof=1)) / n
        error += weight**2 * float(elsewhere.var(ddof=1)) / unjudged
    half = Z95 * math.sqrt(error)
    middle = float(np.mean(scores))
    worth = (plain / half) ** 2 if half else 1.0
    return Powered(
        mean=_share(mean),
        low=_share(mean - half),
        high=_share(mean + half),
        plain_low=_share(middle - plain),
        plain_high=_share(middle + plain),
        worth=worth,
    )


def _share(value: float) -> float:
    """Return the nearest value that a share can have."""
    return min(max(value, 0.0), 1.0)


def _ridge(features: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, float]:
    """Return weights and constant of a ridge regression."""
    middle = features.mean(axis=0)
    centred = features - middle
    penalty = _PENALTY * np.eye(features.shape[1])
    weights = np.linalg.solve(centred.T @ centred + penalty, centred.T @ (scores - scores.mean()))
    return weights, float(scores.mean() - middle @ weights)
