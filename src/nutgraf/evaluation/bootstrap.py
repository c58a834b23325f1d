"""Estimate means over articles with bootstrap intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# Draws of one chunk of resamples: 2**22 indices of 4 bytes are 16 MB.
_DRAWS = 2**22


@dataclass(frozen=True)
class Interval:
    """A mean over articles with its 95% interval."""

    mean: float
    low: float
    high: float


def bootstrap(values: Sequence[float] | np.ndarray, resamples: int, seed: int) -> Interval:
    """Return the mean of `values`, one an article, with its 95% percentile bootstrap interval.

    Efron & Tibshirani (1993), "An Introduction to the Bootstrap", chapter 13. A single article
    gives an interval without width. Raises ValueError like `resampled_means`.
    """
    low, high = np.percentile(resampled_means(values, resamples, seed), [2.5, 97.5])
    return Interval(float(np.mean(values)), float(low), float(high))


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
