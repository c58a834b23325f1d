"""Where a summary stands in its article, sentence by sentence, and what in it does not.

For readers, not for scores: positions to be shown beside the texts. A sentence's sources are the
sentences of the article that share its words, found without a model, so they say where to look, not
that the article says the same.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from nutgraf import errors
from nutgraf.examples import COPIED
from nutgraf.facts import FUNCTION_WORDS
from nutgraf.metrics import article_sentences, sentences, stems

SOURCES = 3  # sentences of the article, at most, for one of the summary
FIRST = 2  # words that the first source has to share: one is chance
WORTH = 0.1  # of what a sentence's words weigh, which each source has to add
# Words that any two sentences of the news may share.
_EVERYWHERE = FUNCTION_WORDS | {"say", "says", "said", "told", "according"}


@dataclass(frozen=True)
class Place:
    """From `start` to `end`, in characters (Unicode code points)."""

    start: int
    end: int


@dataclass(frozen=True)
class Sentence:
    """A sentence of the summary, and where in the article its words stand.

    `sources` are sentences of the article, the most telling first, none where it shares too little;
    `support` is the share of the sentence's content words that they have, 0 to 1.
    """

    start: int
    end: int
    support: float
    sources: list[Place]


@dataclass(frozen=True)
class Copy:
    """A phrase of the summary that stands word for word at `source` in the article."""

    start: int
    end: int
    source: Place


@dataclass(frozen=True)
class Flag:
    """What an indicator objects to in the summary; `kind` as in `errors.MEANINGS`."""

    start: int
    end: int
    kind: str


@dataclass(frozen=True)
class Evidence:
    """A summary's sentences with their sources, its copied phrases, and what is wrong in it."""

    sentences: list[Sentence]
    copies: list[Copy]
    flags: list[Flag]


def evidence(article: str, summary: str, finish_reason: str | None = None) -> Evidence:
    """What can be told of `summary` from the texts alone; positions are those in the texts given.

    `finish_reason` is `length` where the summary was cut at the limit.
    """
    passages = _Passages(article)
    return Evidence(
        [
            passages.behind(summary, start, end)
            for start, end in _places(summary, sentences(summary))
        ],
        [
            Copy(start, end, Place(*source))
            for start, end, *source in errors.copies(article, summary, COPIED)
        ],
        [Flag(*span) for span in errors.spans(article, summary, finish_reason)],
    )


class _Passages:
    """The sentences of an article by their words, of which rare ones weigh more."""

    def __init__(self, article: str) -> None:
        self._places = list(_places(article, article_sentences(article)))
        self._words = [set(_words(article[start:end])) for start, end in self._places]
        found_in = Counter(word for words in self._words for word in words)
        self._weight = {w: math.log(1 + len(self._words) / n) for w, n in found_in.items()}

    def behind(self, summary: str, start: int, end: int) -> Sentence:
        """The sources of one sentence: each time what adds most, of equals the first."""
        words = _words(summary[start:end])
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
        return Sentence(start, end, support, [Place(*self._places[i]) for i in chosen])


def _words(text: str) -> list[str]:
    """Stems of the content words, and numbers as they stand."""
    content = (t for t in errors.tokens(text) if t[0].isalnum() and t not in _EVERYWHERE)
    return [word for t in content for word in (stems(t) if t.isalpha() else [t]) or [t]]


def _places(text: str, found: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Start and end in `text` of each sentence found in it, in order."""
    end = 0
    for sentence in found:
        match = re.compile(r"\s*".join(map(re.escape, sentence.split()))).search(text, end)
        assert match, "a splitter changes white space only"
        end = match.end()
        yield match.start(), end
