"""Fit weights by which one of several summaries of an article is chosen.

A ridge regression (Hoerl & Kennard 1970) of ROUGE on features of a candidate, on articles whose
reference is known. Rerankers that read the texts learn the same task: Liu & Liu 2021, "SimCLS",
arXiv:2106.01890.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nutgraf.generation.candidate_features import FEATURES

# Of weights of features in standard deviations; 3 to 300 choose about equally well (docs/log.md).
_PENALTY = 30.0
_FOLDS = 10
MIN_ARTICLES = _FOLDS
_AGREEMENT = FEATURES.index("agreement")


@dataclass(frozen=True)
class Measured:
    """The candidates of one article, the greedy one first, with what they score.

    `features` is [candidates, features] as `candidate_features` has them; `scores` are of each
    against the reference, [candidates], points of ROUGE.
    """

    features: NDArray[np.float64]
    scores: NDArray[np.float64]


def fit(articles: Sequence[Measured]) -> dict[str, float]:
    """Return the points of ROUGE that one more of each feature is worth, by its name.

    Features and scores are centred in each article, since only differences between its candidates
    count.
    """
    x = np.concatenate([row.features - row.features.mean(0) for row in articles])
    y = np.concatenate([row.scores - row.scores.mean() for row in articles])
    scale = x.std(0)
    scale[scale == 0] = 1.0  # a feature that never differs gets the weight 0
    z = x / scale
    weights = np.linalg.solve(z.T @ z + _PENALTY * np.eye(z.shape[1]), z.T @ y) / scale
    return dict(zip(FEATURES, weights.tolist(), strict=True))


def expected_gain(
    features: NDArray[np.float64], weights: Mapping[str, float]
) -> NDArray[np.float64]:
    """Return the points of ROUGE above the mean of the candidates that are expected of each.

    `features` is [candidates, features].
    """
    values = features @ np.array([weights[name] for name in FEATURES])
    return np.asarray(values - values.mean())


def held_out_gains(articles: Sequence[Measured]) -> dict[str, list[float]]:
    """Return what the choice gains on each article, in points of ROUGE, by weights of others.

    Against the `greedy` candidate, and against the one that `consensus` takes. Ten times the
    weights are fitted without a tenth of the articles, for that tenth.
    """
    gains: dict[str, list[float]] = {"greedy": [], "consensus": []}
    for fold in range(_FOLDS):
        weights = fit([row for i, row in enumerate(articles) if i % _FOLDS != fold])
        for row in articles[fold::_FOLDS]:
            score = row.scores[expected_gain(row.features, weights).argmax()]
            gains["greedy"].append(float(score - row.scores[0]))
            agreed = row.scores[row.features[:, _AGREEMENT].argmax()]
            gains["consensus"].append(float(score - agreed))
    return gains
