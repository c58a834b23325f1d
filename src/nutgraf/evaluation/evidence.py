"""What an article says for and against a summary of it, with places in both texts.

For a reader who checks one summary: the indicators that the report counts, and the passages behind
each sentence. Those are found by shared words, without a model, so they say where to look, not that
the article says the same.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Literal

from typing_extensions import TypedDict  # pydantic takes no other before Python 3.12

from nutgraf.data.sentences import (
    article_sentences,
    rouge_tokens,
    sentence_spans,
    split_tokens,
    token_spans,
)
from nutgraf.evaluation.facts import FUNCTION_WORDS
from nutgraf.evaluation.indicators import COPIED, extractive_fragments, flagged_spans

SOURCES = 3  # sentences of the article, at most, for one of the summary
FIRST = 2  # words that the first source has to share: one is chance
WORTH = 0.1  # of what a sentence's words weigh, which each source has to add
# Words that any two sentences of the news may share.
_EVERYWHERE = FUNCTION_WORDS | {"say", "says", "said", "told", "according"}
_LACKING: dict[str, Literal["number", "name"]] = {
    "unsupported_numbers": "number",
    "unsupported_names": "name",
}


class Place(TypedDict):
    """From `start` to `end`, in characters (Unicode code points)."""

    start: int
    end: int


class Unsupported(TypedDict):
    """A number or name of the summary, as it stands there, that the article does not have."""

    text: str
    start: int
    end: int
    kind: Literal["number", "name"]


class Copy(TypedDict):
    """A phrase of the summary that stands word for word at `source` in the article."""

    start: int
    end: int
    source: Place


class Sentence(TypedDict):
    """A sentence of the summary, and where in the article its words stand.

    `sources` are sentences of the article, the most telling first, none where it shares too little;
    `support` is the share of the sentence's content words that they have, 0 to 1; `copied` are its
    phrases of at least `errors.COPIED` tokens that the article has word for word.
    """

    start: int
    end: int
    support: float
    sources: list[Place]
    copied: list[Copy]


class Evidence(TypedDict):
    """What is unsupported in a summary, its sentences, and what stands in it before already."""

    unsupported: list[Unsupported]
    sentences: list[Sentence]
    repeated: list[Place]


def evidence(article: str, summary: str) -> Evidence:
    """What can be told of `summary` from the texts alone, in the order of the summary.

    Ready for JSON; places are those in the texts as they are given.
    """
    found = flagged_spans(article, summary)
    passages = _Passages(article)
    source, told = token_spans(article), token_spans(summary)
    return {
        "unsupported": [
            {"text": summary[start:end], "start": start, "end": end, "kind": _LACKING[kind]}
            for start, end, kind in found
            if kind in _LACKING
        ],
        "sentences": [
            {
                "start": start,
                "end": end,
                **passages.behind(summary[start:end]),
                "copied": list(_copied(source, [t for t in told if start <= t[1] and t[2] <= end])),
            }
            for _, start, end in sentence_spans(summary)
        ],
        "repeated": [
            {"start": start, "end": end}
            for start, end, kind in found
            if kind in ("repeated_sentences", "repeated_trigrams")
        ],
    }


class _Behind(TypedDict):
    support: float
    sources: list[Place]


class _Passages:
    """The sentences of an article by their words, of which rare ones weigh more."""

    def __init__(self, article: str) -> None:
        placed = list(sentence_spans(article, article_sentences))
        self._places: list[Place] = [{"start": start, "end": end} for _, start, end in placed]
        self._words = [set(_words(article[start:end])) for _, start, end in placed]
        found_in = Counter(word for words in self._words for word in words)
        self._weight = {w: math.log(1 + len(self._words) / n) for w, n in found_in.items()}

    def behind(self, sentence: str) -> _Behind:
        """The sources of one sentence: each time what adds most, of equals the first."""
        words = _words(sentence)
        wanted = {word for word in words if word in self._weight}
        least = WORTH * sum(self._weight.get(word, math.log(2)) for word in set(words))
        enough = min(FIRST, len(set(words)))
        missing, chosen = wanted, list[int]()
        while missing and len(chosen) < SOURCES:
            added = [sum(self._weight[word] for word in missing & had) for had in self._words]
            place = added.index(max(added))
            chance = not chosen and len(missing & self._words[place]) < enough
            if chance or added[place] <= least:
                break
            chosen.append(place)
            missing = missing - self._words[place]
        held = sum(word in wanted - missing for word in words)
        support = round(held / len(words), 3) if words else 0.0
        return {"support": support, "sources": [self._places[place] for place in chosen]}


def _words(text: str) -> list[str]:
    """Stems of the content words, and numbers as they stand."""
    content = (t for t in split_tokens(text) if t[0].isalnum() and t not in _EVERYWHERE)
    return [word for t in content for word in (rouge_tokens(t) if t.isalpha() else [t]) or [t]]


def _copied(
    article: Sequence[tuple[str, int, int]], sentence: Sequence[tuple[str, int, int]]
) -> Iterator[Copy]:
    """What the sentence has word for word, of the placed tokens of both."""
    words = [token for token, _, _ in article]
    for at, source, length in extractive_fragments(words, [token for token, _, _ in sentence]):
        if length >= COPIED:
            last = source + length - 1
            yield {
                "start": sentence[at][1],
                "end": sentence[at + length - 1][2],
                "source": {"start": article[source][1], "end": article[last][2]},
            }
