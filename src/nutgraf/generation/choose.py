"""Choose one of several summaries of an article, the first of which was written greedily.

Minimum Bayes risk decoding: Kumar & Byrne 2004, "Minimum Bayes-Risk Decoding for Statistical
Machine Translation"; with samples: Eikema & Aziz 2022, arXiv:2108.04718.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nutgraf.config.evaluation import Choice
from nutgraf.data.rouge_tokens import ngram_fmeasure, ngrams, rouge_tokens
from nutgraf.evaluation.facts import Facts

UTILITY_GRAMS = (1, 2)  # ROUGE-1 and ROUGE-2


@dataclass(frozen=True)
class Rated:
    """A candidate, and what it was rated by.

    `agreement` is with the others, 0 to 100; `unsupported` counts its names and numbers that the
    article lacks.
    """

    text: str
    agreement: float
    unsupported: int


def rate(article: str, candidates: Sequence[str]) -> list[Rated]:
    """Return the ratings of an article's candidates, in their order."""
    known = Facts(article)
    unsupported = []
    for text in candidates:
        facts = Facts(text, known)
        unsupported.append(sum(not known.supports(f) for f in (*facts.names, *facts.numbers)))
    rated = zip(candidates, agreement(candidates).tolist(), unsupported, strict=True)
    return [Rated(*row) for row in rated]


def choose(rated: Sequence[Rated], by: Choice) -> int:
    """Return the index of the best candidate; of equal ones the first."""
    keys = {
        "consensus": lambda row: row.agreement,
        "support": lambda row: (-row.unsupported, row.agreement),
    }
    return max(range(len(rated)), key=lambda i: (keys[by](rated[i]), -i))


def agreement(candidates: Sequence[str]) -> NDArray[np.float64]:
    """Return how much each candidate agrees with the others, 0 to 100.

    It is the mean of ROUGE-1 and ROUGE-2 (F-measures, of unstemmed words of any language) against
    each other candidate: the expected utility, if the true summary is as likely to be one of them
    as another. Equal candidates support each other. A single candidate agrees with itself.
    """
    counts = [
        [ngrams(words, n) for n in UTILITY_GRAMS]
        for words in (rouge_tokens(text, "unicode") for text in candidates)
    ]
    n = len(candidates)
    pairs = np.full((n, n), 100.0)
    for i in range(n):
        for j in range(i):
            shares = [ngram_fmeasure(a, b) for a, b in zip(counts[i], counts[j], strict=True)]
            pairs[i, j] = pairs[j, i] = 100.0 * float(np.mean(shares))
    if n == 1:
        return np.array([100.0])
    return (pairs.sum(1) - pairs.diagonal()) / (n - 1)
