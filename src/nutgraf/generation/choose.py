"""Choose one of several summaries of an article, the first of which was written greedily.

Minimum Bayes risk decoding: Kumar & Byrne 2004, "Minimum Bayes-Risk Decoding for Statistical
Machine Translation"; with samples: Eikema & Aziz 2022, arXiv:2108.04718.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nutgraf.config.evaluation import Choice
from nutgraf.generation.candidate_features import FEATURES, agreement, features, unsupported
from nutgraf.generation.fitted_choice import expected_gain

_AGREEMENT, _UNSUPPORTED = (FEATURES.index(name) for name in ("agreement", "unsupported"))


@dataclass(frozen=True)
class Rated:
    """A candidate, and what it was rated by.

    `agreement` is with the others, 0 to 100; `unsupported` counts its names and numbers that the
    article lacks. `expected` are the points of ROUGE above the mean of the candidates that fitted
    weights expect, None without weights.
    """

    text: str
    agreement: float
    unsupported: int
    expected: float | None


def rate(
    article: str, candidates: Sequence[str], weights: Mapping[str, float] | None = None
) -> list[Rated]:
    """Return the ratings of an article's candidates, in their order.

    `weights` are those of `fitted_choice.fit`.
    """
    if weights is None:
        rows = zip(
            candidates,
            agreement(candidates).tolist(),
            unsupported(article, candidates),
            strict=True,
        )
        return [Rated(*row, None) for row in rows]
    measured = features(article, candidates)
    expected = expected_gain(measured, weights).tolist()
    return [
        Rated(text, float(row[_AGREEMENT]), int(row[_UNSUPPORTED]), gain)
        for text, row, gain in zip(candidates, measured, expected, strict=True)
    ]


def choose(rated: Sequence[Rated], by: Choice) -> int:
    """Return the index of the best candidate; of equal ones the first.

    An empty one is chosen only if all are. Raises ValueError if candidates that were rated without
    weights are chosen by `fitted`.
    """
    if by == "fitted" and any(row.expected is None for row in rated):
        raise ValueError("candidates that were rated without weights cannot be chosen by them")
    keys = {
        "consensus": lambda row: row.agreement,
        "support": lambda row: (-row.unsupported, row.agreement),
        "fitted": lambda row: row.expected,
    }
    return max(range(len(rated)), key=lambda i: (bool(rated[i].text), keys[by](rated[i]), -i))
