"""Show what an article says for and against a summary of it, with places in both texts.

For a reader who checks one summary: the indicators that the report counts, and the passages behind
each sentence. Passages are chosen by shared words, without a model: they show where to look, not
that the article says the same.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import Literal

from typing_extensions import TypedDict  # pydantic takes no other before Python 3.12

from nutgraf.data.rouge_tokens import rouge_tokens
from nutgraf.data.sentences import (
    article_sentences,
    sentence_spans,
    split_tokens,
    token_spans,
)
from nutgraf.evaluation.indicators import COPIED, extractive_fragments, flagged_spans
from nutgraf.evaluation.name_words import FUNCTION_WORDS

MAX_SOURCES = 3  # sentences of the article for one of the summary
MIN_SHARED = 2  # words that the first source has to share: one is chance
MIN_ADDED = 0.1  # share of the weight of a sentence's words, which each source has to add
# Words that any two sentences of the news may share.
_COMMON = FUNCTION_WORDS | {"say", "says", "said", "told", "according"}
_ENGLISH = re.compile("[a-z]+")  # what a stem is known of
_UNSUPPORTED: dict[str, Literal["number", "name"]] = {
    "unsupported_numbers": "number",
    "unsupported_names": "name",
}


class Place(TypedDict):
    """From `start` to `end`, in characters (Unicode code points)."""

    start: int
    end: int


class Unsupported(TypedDict):
    """A number or name of the summary, as written there, that the article does not have."""

    text: str
    start: int
    end: int
    kind: Literal["number", "name"]


class Copy(TypedDict):
    """A phrase of the summary that is word for word at `source` in the article."""

    start: int
    end: int
    source: Place


class Sentence(TypedDict):
    """A sentence of the summary, and where in the article its words are.

    `sources` are sentences of the article, the best one first, none if it shares too little;
    `support` is the share of the sentence's content words that they have, 0 to 1; `copied` are its
    phrases of at least `indicators.COPIED` tokens that the article has word for word.
    """

    start: int
    end: int
    support: float
    sources: list[Place]
    copied: list[Copy]


class Evidence(TypedDict):
    """List what is unsupported in a summary, its sentences and its repetitions."""

    unsupported: list[Unsupported]
    sentences: list[Sentence]
    repeated: list[Place]


def evidence(article: str, summary: str) -> Evidence:
    """Return what the texts alone show of a summary, in its order and ready for JSON."""
    flagged = flagged_spans(article, summary)
    passages = Passages(article)
    article_tokens, summary_tokens = token_spans(article), token_spans(summary)
    sentences: list[Sentence] = []
    for _, start, end in sentence_spans(summary):
        tokens = [token for token in summary_tokens if start <= token[1] and token[2] <= end]
        support, sources = passages.support(summary[start:end])
        sentences.append(
            {
                "start": start,
                "end": end,
                "support": support,
                "sources": sources,
                "copied": list(_copied(article_tokens, tokens)),
            }
        )
    return {
        "unsupported": [
            {"text": summary[start:end], "start": start, "end": end, "kind": _UNSUPPORTED[kind]}
            for start, end, kind in flagged
            if kind in _UNSUPPORTED
        ],
        "sentences": sentences,
        "repeated": [
            {"start": start, "end": end}
            for start, end, kind in flagged
            if kind in ("repeated_sentences", "repeated_trigrams")
        ],
    }


class Passages:
    """The sentences of an article by their words, of which rare ones weigh more."""

    def __init__(self, article: str) -> None:
        self._text = article
        spans = [(start, end) for _, start, end in sentence_spans(article, article_sentences)]
        self._places: list[Place] = [{"start": start, "end": end} for start, end in spans]
        self._words = [set(_words(article[start:end])) for start, end in spans]
        frequency = Counter(word for words in self._words for word in words)
        self._weight = {w: math.log(1 + len(spans) / n) for w, n in frequency.items()}

    def support(self, sentence: str) -> tuple[float, list[Place]]:
        """Choose the sources of a sentence, each time what adds most, of equals the first.

        Return the share of its words that they have, and their places.
        """
        words = _words(sentence)
        missing = shared = {word for word in words if word in self._weight}
        least = MIN_ADDED * sum(self._weight.get(word, math.log(2)) for word in set(words))
        sources: list[Place] = []
        while missing and len(sources) < MAX_SOURCES:
            added = [sum(self._weight[word] for word in missing & own) for own in self._words]
            best = added.index(max(added))
            enough = sources or len(missing & self._words[best]) >= min(MIN_SHARED, len(set(words)))
            if not enough or added[best] <= least:
                break
            sources.append(self._places[best])
            missing = missing - self._words[best]
        supported = sum(word in shared - missing for word in words)
        return round(supported / len(words), 3) if words else 0.0, sources

    def nearest(self, sentence: str, words: int) -> list[Place]:
        """Return the sources of a sentence and what stands before the best, in their order.

        They have up to so many `words` together, the best first. If nothing is shared, the first
        sentence of the article stands for them, for news leads with its point.
        """
        _, sources = self.support(sentence)
        best = self._places.index(sources[0]) if sources else 0
        before = self._places[best - 1 : best]  # what a pronoun may stand for
        chosen, left = list[Place](), words
        for place in (*self._places[best : best + 1], *sources[1:], *before):
            size = len(self._text[place["start"] : place["end"]].split())
            if place not in chosen and (size <= left or not chosen):
                chosen.append(place)
                left -= size
        return sorted(chosen, key=lambda place: place["start"])


def _words(text: str) -> list[str]:
    """Return stems of the content words, and numbers as they are."""
    content = (t for t in split_tokens(text) if t[0].isalnum() and t not in _COMMON)
    return [word for t in content for word in (rouge_tokens(t) if _ENGLISH.fullmatch(t) else [t])]


def _copied(
    article: list[tuple[str, int, int]], sentence: list[tuple[str, int, int]]
) -> Iterator[Copy]:
    """Yield what a sentence has word for word, from the tokens of both with their places."""
    words, copied = ([token for token, _, _ in tokens] for tokens in (article, sentence))
    for at, source, length in extractive_fragments(words, copied):
        if length >= COPIED:
            last = source + length - 1
            yield {
                "start": sentence[at][1],
                "end": sentence[at + length - 1][2],
                "source": {"start": article[source][1], "end": article[last][2]},
            }
