"""Measure how far judges agree on the same articles."""

from __future__ import annotations

import math

import numpy as np

from nutgraf.evaluation.bootstrap import Interval, interval_ends

RESAMPLES, SEED = 2_000, 1


def agreement(values: np.ndarray, levels: int) -> Interval:
    """Return Krippendorff's alpha for ordered values, with a 95% bootstrap interval over articles.

    1 is full agreement, 0 what chance gives. Ordinal, because to prefer the one system and the
    other differ more than to prefer one and neither. Krippendorff (2011), "Computing Krippendorff's
    Alpha-Reliability".

    Args:
        values: From 0 to levels - 1, NaN if a judge did not judge an article; [judges, articles].
        levels: How many different values there are.

    Returns:
        NaN for alpha if fewer than two values can be compared or all are the same, for the ends of
        the interval also below `bootstrap.MIN_VALUES` articles with two judges.
    """
    counts = np.stack([(values == level).sum(axis=0) for level in range(levels)], axis=1)
    counts = counts[counts.sum(axis=1) > 1]
    # Ordered pairs of values of one article, each article weighing as many values as it has.
    pairs = counts[:, :, None] * counts[:, None, :] - counts[:, :, None] * np.eye(levels)
    pairs = pairs / (counts.sum(axis=1)[:, None, None] - 1)
    articles = len(pairs)
    if not articles:
        return Interval(math.nan, math.nan, math.nan)
    drawn = np.random.default_rng(SEED).multinomial(
        articles, np.full(articles, 1 / articles), RESAMPLES
    )
    alphas = _alpha(np.tensordot(drawn, pairs, axes=1))
    alphas = alphas[~np.isnan(alphas)]
    ends = interval_ends(alphas, articles) if alphas.size else (math.nan, math.nan)
    return Interval(float(_alpha(pairs.sum(axis=0))), *ends)


def _alpha(coincidences: np.ndarray) -> np.ndarray:
    """Return 1 - observed / expected disagreement of coincidences [..., levels, levels]."""
    of_level = coincidences.sum(axis=-1)
    total = of_level.sum(axis=-1)
    below = of_level.cumsum(axis=-1) - of_level / 2  # up to the middle of each level
    distance = (below[..., :, None] - below[..., None, :]) ** 2
    observed = (coincidences * distance).sum(axis=(-2, -1))
    expected = (of_level[..., :, None] * of_level[..., None, :] * distance).sum(axis=(-2, -1))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(expected > 0, 1 - (total - 1) * observed / expected, np.nan)
