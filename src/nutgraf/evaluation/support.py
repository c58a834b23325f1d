"""Turn how a language model read a sentence into a probability that its article supports it.

The measures need no training. The few weights that sum them up, and how often the result is wrong,
come from sentences that people judged (docs/indicators.md): a probability is one for news
summaries read by SmolLM2-135M. It is an indicator, not a verdict.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from typing_extensions import TypedDict  # pydantic takes no other before Python 3.12

from nutgraf.config import ModelConfig
from nutgraf.data.sentences import split_tokens
from nutgraf.evaluation.bootstrap import Z95
from nutgraf.evaluation.evidence import Passages, Place
from nutgraf.evaluation.indicators import extractive_fragments

CALIBRATED = "smollm2"  # the base that weights, limit and error rates are of, not in 4 bits
# Logit = constant + weights of the measures.
CONSTANT, WEIGHTS = 0.253, {"rank": 1.887, "longest": 3.773}
MAX_WORDS = 90  # of all passages of a sentence
LIMIT = 0.5  # a sentence with a lower probability is doubted


class Judged(NamedTuple):
    """How many of `n` sentences that people judged alike are `right` here."""

    right: int
    n: int

    @property
    def rate(self) -> float:
        """Return their share."""
        return self.right / self.n


DOUBTED = Judged(34, 68)  # of wrong sentences: sensitivity
NOT_DOUBTED = Judged(218, 227)  # of right ones: specificity


@dataclass(frozen=True)
class Reading:
    """How the tokens of one sentence were read behind its passages.

    `rank` is how many words were likelier than each, [tokens].
    """

    rank: np.ndarray


class Checked(TypedDict):
    """A sentence of a summary, from `start` to `end`, with its probability of being supported.

    It is `doubted` below `LIMIT`. `passages` are the article's sentences that it was judged by.
    """

    start: int
    end: int
    probability: float
    doubted: bool
    passages: list[Place]


class SupportJudge:
    """Judges sentences about one article, whose words are looked up once."""

    def __init__(self, article: str) -> None:
        self._article, self._sources = article, Passages(article)
        self._tokens = split_tokens(article)

    def passages(self, sentence: str) -> str:
        """Return what a sentence is judged by: the sentences of the article nearest to it."""
        places = self._sources.nearest(sentence, MAX_WORDS)
        passages = (self._article[place["start"] : place["end"]] for place in places)
        return " ".join(passages) or self._article  # which has no sentence

    def check(self, summary: str, start: int, end: int, reading: Reading) -> Checked:
        """Return what is to be said of a sentence of a summary."""
        sentence = summary[start:end]
        probability = probability_of(self.measures(sentence, reading))
        return {
            "start": start,
            "end": end,
            "probability": round(probability, 4),
            "doubted": probability < LIMIT,
            "passages": self._sources.nearest(sentence, MAX_WORDS),
        }

    def measures(self, sentence: str, reading: Reading) -> dict[str, float]:
        """Return what the probability is computed from: the higher, the better supported.

        `rank` is the mean of -log(1 + rank) of the tokens, which a few unlikely ones drag down less
        than BARTScore's mean log-likelihood (Yuan et al. 2021). `longest` is the longest fragment
        of the article in the sentence, as a share of its tokens (Grusky et al. 2018).
        """
        tokens = split_tokens(sentence)
        lengths = [length for _, _, length in extractive_fragments(self._tokens, tokens)]
        return {
            "rank": float(-np.log1p(reading.rank).mean()),
            "longest": max(lengths, default=0) / max(len(tokens), 1),
        }


def probability_of(measures: dict[str, float]) -> float:
    """Return the probability that people say that the article supports the sentence."""
    logit = CONSTANT + sum(weight * measures[name] for name, weight in WEIGHTS.items())
    return 1 / (1 + math.exp(-logit))


def is_calibrated(model: ModelConfig) -> bool:
    """Return whether the error rates are those of this base, as it is loaded."""
    return model.base == CALIBRATED and model.quantization == "none"


def worth(model: ModelConfig) -> str:
    """Return what doubts of this base are worth, in a sentence."""
    if not is_calibrated(model):
        return (
            f"How often its doubts are right is known only of {CALIBRATED}, not in 4 bits, "
            "which the limit was set for: another base may doubt nearly all."
        )
    missed, alarms = DOUBTED.n - DOUBTED.right, NOT_DOUBTED.n - NOT_DOUBTED.right
    return (
        f"Of {DOUBTED.n} sentences that people called wrong it missed {missed}, of "
        f"{NOT_DOUBTED.n} right ones it doubted {alarms}."
    )


class Rate(NamedTuple):
    """A share of sentences, 0 to 1, with its 95% interval; NaN if it is not known."""

    wrong: float
    low: float
    high: float


def wrong_rate(counts: Sequence[tuple[int, int]], model: ModelConfig) -> Rate:
    """Return the share of wrong sentences that the doubted ones speak for.

    It is corrected for right sentences that are doubted and wrong ones that are not. Rogan & Gladen
    (1978), "Estimating prevalence from the results of a screening test", with the variance of both
    rates, which people's judgement of other systems' sentences gave. That of the doubted share is
    one over articles, since the sentences of one are doubted together. All is cut at 0 and 1.

    Args:
        counts: Doubted and all sentences of each summary; two summaries at least.
        model: The base that read them: one that is not calibrated has no known rates.
    """
    doubted, sentences = np.array(counts, float).reshape(-1, 2).T
    if not is_calibrated(model) or len(doubted) < 2 or not sentences.sum():
        return Rate(math.nan, math.nan, math.nan)
    share, articles = doubted.sum() / sentences.sum(), len(doubted)
    spread = ((doubted - share * sentences) ** 2).sum() / sentences.sum() ** 2
    spread *= articles / (articles - 1)
    of_se, of_sp = (part.rate * (1 - part.rate) / part.n for part in (DOUBTED, NOT_DOUBTED))
    youden = DOUBTED.rate + NOT_DOUBTED.rate - 1
    rate = min(max((share + NOT_DOUBTED.rate - 1) / youden, 0.0), 1.0)
    deviation = math.sqrt(spread + rate**2 * of_se + (1 - rate) ** 2 * of_sp) / youden
    low, high = rate - Z95 * deviation, rate + Z95 * deviation
    return Rate(rate, max(low, 0.0), min(high, 1.0))
