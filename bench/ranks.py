"""Rank correlation at three levels, and combinations of measures that are judged on other rows."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

Fit = Callable[[np.ndarray, np.ndarray], Callable[[np.ndarray], np.ndarray]]


def spearman(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Rank correlation of the columns of x with those of y, ties averaged; NaN for a constant.

    Leading axes are separate samples: [..., n, columns of x], [..., n, columns of y].
    """
    a, b = _standard_ranks(x), _standard_ranks(y)
    return np.swapaxes(a, -1, -2) @ b / x.shape[-2]


def _standard_ranks(x: np.ndarray) -> np.ndarray:
    flat = np.moveaxis(x, -2, 0).reshape(x.shape[-2], -1)
    ranks = pd.DataFrame(flat).rank().to_numpy()
    deviation = ranks.std(0)
    ranks = (ranks - ranks.mean(0)) / np.where(deviation > 0, deviation, np.nan)
    return np.moveaxis(ranks.reshape(x.shape[-2], *x.shape[:-2], x.shape[-1]), 0, -2)


def levels(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Correlations pooled, within systems and of system means: [3, columns of x, columns of y].

    x and y are [systems, articles, columns]. A system in which a column is constant says nothing
    about it and is left out of the mean within systems.
    """
    pooled = spearman(x.reshape(-1, x.shape[-1]), y.reshape(-1, y.shape[-1]))
    every = spearman(x, y)
    within = np.nansum(every, 0) / np.maximum((~np.isnan(every)).sum(0), 1)
    return np.stack([pooled, within, spearman(x.mean(1), y.mean(1))])


def resampled(x: np.ndarray, y: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """`levels` of articles drawn with replacement: [resamples, 3, columns of x, columns of y]."""
    rng = np.random.default_rng(seed)
    draws = rng.integers(0, x.shape[1], (resamples, x.shape[1]))
    return np.stack([levels(x[:, draw], y[:, draw]) for draw in draws])


def chosen(x: np.ndarray, y: np.ndarray, limit: int) -> list[tuple[int, float]]:
    """Columns and signs whose mean of ranks goes best with y: one by one, up to `most`, while
    rho grows by more than 0.002."""
    signs = np.sign(np.nan_to_num(spearman(x, y[:, None])[:, 0]))
    ranks = _places(x, x) * signs
    best, columns = 0.0, list[int]()
    while len(columns) < limit:
        sums = ranks[:, columns].sum(1, keepdims=True) + ranks
        correlations = spearman(sums, y[:, None])[:, 0]
        correlations[columns] = 0
        if correlations.max() < best + 0.002:
            break
        best = correlations.max()
        columns.append(int(correlations.argmax()))
    return [(at, float(signs[at])) for at in columns]


def mean_of_ranks(limit: int) -> Fit:
    """The indicators that `chosen` takes, as the mean of their ranks among the training rows."""

    def fit(x: np.ndarray, y: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        columns = chosen(x, y, limit)
        return lambda new: np.mean([s * _places(x, new)[:, at] for at, s in columns], axis=0)

    return fit


def ridge(x: np.ndarray, y: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Ridge regression of the rank of y on the ranks of all indicators."""
    design = np.c_[_places(x, x), np.ones(len(x))]
    penalty = np.diag([10.0] * x.shape[1] + [0.0])
    target = pd.Series(y).rank(pct=True).to_numpy()
    weights = np.linalg.solve(design.T @ design + penalty, design.T @ target)
    return lambda new: np.c_[_places(x, new), np.ones(len(new))] @ weights


def _places(x: np.ndarray, new: np.ndarray) -> np.ndarray:
    """For each column, where the new values lie among the known ones, -0.5 to 0.5."""
    columns = []
    for known, values in zip(np.sort(x, axis=0).T, new.T, strict=True):
        low, high = (np.searchsorted(known, values, side) for side in ("left", "right"))
        columns.append((low + high) / 2 / len(known) - 0.5)
    return np.stack(columns, axis=1)


def held_out(x: np.ndarray, y: np.ndarray, groups: np.ndarray, fit: Fit) -> np.ndarray:
    """For each row what `fit` says that has seen the rows of the other groups only."""
    out = np.zeros(len(x))
    for group in np.unique(groups):
        rest = groups != group
        out[~rest] = fit(x[rest], y[rest])(x[~rest])
    return out


def ceiling(y: np.ndarray) -> float:
    """The highest rho of a score without ties, since many human scores are the same."""
    ranks = pd.Series(y).rank()
    return float(ranks.corr(pd.Series(ranks.to_numpy().argsort(kind="stable").argsort())))
