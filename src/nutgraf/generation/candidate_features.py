"""Measure the candidates of an article: what a choice among them can go by."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from nutgraf.data.rouge_tokens import ngram_fmeasure, ngrams, rouge_tokens
from nutgraf.evaluation.facts import Facts
from nutgraf.generation.extractive import lead3

UTILITY_GRAMS = (1, 2)  # ROUGE-1 and ROUGE-2

Grams: TypeAlias = Sequence[Counter[tuple[str, ...]]]  # of a text, of each of these lengths

# The columns of `features`, in their order.
FEATURES = (
    "agreement",  # with the other candidates, 0 to 100
    "lead",  # likeness to the article's first three sentences, 0 to 100
    "words",
    "words_squared",  # in hundreds
    "unsupported",  # names and numbers that the article lacks
)


def agreement(candidates: Sequence[str]) -> NDArray[np.float64]:
    """Return how much each candidate agrees with the others, 0 to 100.

    It is the mean of ROUGE-1 and ROUGE-2 (F-measures, of unstemmed words of any language) against
    each other candidate: the expected utility, if the true summary is as likely to be one of them
    as another. Equal candidates support each other. A single candidate agrees with itself.
    """
    return _agreement([_counts(text) for text in candidates])


def unsupported(article: str, candidates: Sequence[str]) -> list[int]:
    """Return how many names and numbers of each candidate the article lacks."""
    known = Facts(article)
    stated = (Facts(text, known) for text in candidates)
    return [sum(not known.supports(f) for f in (*own.names, *own.numbers)) for own in stated]


def features(article: str, candidates: Sequence[str]) -> NDArray[np.float64]:
    """Return what `FEATURES` names of each candidate, [candidates, features]."""
    counts, lead = [_counts(text) for text in candidates], _counts(lead3(article))
    words = np.array([unigrams.total() for unigrams, _ in counts], dtype=np.float64)
    columns: dict[str, Any] = {
        "agreement": _agreement(counts),
        "lead": [_likeness(own, lead) for own in counts],
        "words": words,
        "words_squared": words**2 / 100,
        "unsupported": unsupported(article, candidates),
    }
    return np.column_stack([columns[name] for name in FEATURES])


def _agreement(counts: Sequence[Grams]) -> NDArray[np.float64]:
    n = len(counts)
    if n == 1:
        return np.array([100.0])
    pairs = np.zeros((n, n))
    for i, j in itertools.combinations(range(n), 2):
        pairs[i, j] = pairs[j, i] = _likeness(counts[i], counts[j])
    return np.asarray(pairs.sum(1) / (n - 1))


def _counts(text: str) -> list[Counter[tuple[str, ...]]]:
    words = rouge_tokens(text, "unicode")
    return [ngrams(words, n) for n in UTILITY_GRAMS]


def _likeness(one: Grams, other: Grams) -> float:
    """Return the mean of ROUGE-1 and ROUGE-2 of two texts, 0 to 100."""
    shares = [ngram_fmeasure(a, b) for a, b in zip(one, other, strict=True)]
    return 100.0 * float(np.mean(shares))
