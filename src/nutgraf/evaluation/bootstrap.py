"""Estimate means over articles with bootstrap intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

# Draws of one chunk of resamples: 2**22 indices of 4 bytes are 16 MB.
_DRAWS = 2**22
# Values below which no interval is given: even six that agree in sign can do so by chance once in
# 32 times, fewer more often than once in 20, and resamples of them vary too little.
MIN_VALUES = 6
Z95 = NormalDist().inv_cdf(0.975)  # of a 95% interval of a normal distribution


@dataclass(frozen=True)
class Interval:
    """A mean over articles with its 95% interval, whose ends are NaN below MIN_VALUES articles."""

    mean: float
    low: float
    high: float


def bootstrap(values: Sequence[float] | np.ndarray, resamples: int, seed: int) -> Interval:
    """Return the mean of `values`, one an article, with its 95% percentile bootstrap interval.

    Efron & Tibshirani (1993), "An Introduction to the Bootstrap", chapter 13. Raises ValueError
    like `resampled_means`.
    """
    ends = interval_ends(resampled_means(values, resamples, seed), len(values))
    return Interval(float(np.mean(values)), *ends)


def interval_ends(means: np.ndarray, n: int) -> tuple[float, float]:
    """Return the 95% percentile interval of resampled means of n values; NaN if n is too small."""
    if n < MIN_VALUES:
        return math.nan, math.nan
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def resampled_means(values: Sequence[float] | np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Return means of `resamples` draws of all articles with replacement, shape [resamples].

    Equal seeds and lengths draw the same articles. Raises ValueError if there are no values, or
    some are not finite.
    """
    sample = np.asarray(values, dtype=np.float64)
    if sample.ndim != 1 or not sample.size or not np.isfinite(sample).all():
        raise ValueError(f"need one finite number an article, got shape {sample.shape}")
    rng = np.random.default_rng(seed)
    n, rows = len(sample), max(1, _DRAWS // len(sample))
    chunks = (min(rows, resamples - start) for start in range(0, resamples, rows))
    return np.concatenate(
        [sample[rng.integers(0, n, (chunk, n), dtype=np.int32)].mean(1) for chunk in chunks]
    )
