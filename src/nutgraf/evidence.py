"""What an article says for and against a summary of it, with places in both texts.

The same indicators that the report counts, for a reader who checks one summary.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from nutgraf.errors import COPIED, fragments, placed_sentences, placed_tokens
from nutgraf.facts import FUNCTION_WORDS, Fact, Facts, Number
from nutgraf.metrics import article_sentences, stems

# Share of its content words that a sentence has to have in common with its source.
LEAST_IN_COMMON = 1 / 3

Place = tuple[int, int]


def evidence(article: str, summary: str) -> dict[str, Any]:
    """Unsupported names and numbers, and where each sentence comes from; places in characters.

    Gives, ready for JSON,

    - `unsupported`: in order, `text`, `start`, `end` and `kind` ("number" or "name") of what the
      article does not have;
    - `sentences`: `start` and `end` of each sentence of the summary; `source`, `start` and `end` of
      the sentence of the article that has most of its content words (the earliest, if several
      have), None where none has a third of them; and `copied`, `[start, end, article_start,
      article_end]` of every piece of it that stands in the article word for word, at least
      `errors.COPIED` tokens long.
    """
    known = Facts(article)
    told = Facts(summary, known)
    facts: list[Fact] = [*told.numbers, *told.names]
    lacking = [fact for fact in facts if not known.supports(fact)]
    sources = [
        (Counter(_content(article[start:end])), {"start": start, "end": end})
        for _, start, end in placed_sentences(article, article_sentences)
    ]
    pieces = _copied(article, summary)
    return {
        "unsupported": [
            {
                "text": summary[fact.start : fact.end],
                "start": fact.start,
                "end": fact.end,
                "kind": "number" if isinstance(fact, Number) else "name",
            }
            for fact in sorted(lacking, key=lambda fact: fact.start)
        ],
        "sentences": [
            {
                "start": start,
                "end": end,
                "source": _source(_content(summary[start:end]), sources),
                "copied": [
                    [*own, *there] for own, there in pieces if start <= own[0] and own[1] <= end
                ],
            }
            for _, start, end in placed_sentences(summary)
        ],
    }


def _content(text: str) -> list[str]:
    return [stem for stem in stems(text) if stem not in FUNCTION_WORDS]


def _source(
    content: Sequence[str], sources: Sequence[tuple[Counter[str], dict[str, int]]]
) -> dict[str, int] | None:
    """The place of the sentence that shares most words with `content`, None for too few."""
    wanted = Counter(content)
    shared = [(wanted & has).total() for has, _ in sources]
    most = max(shared, default=0)
    if not most or most < LEAST_IN_COMMON * wanted.total():
        return None
    return sources[shared.index(most)][1]


def _copied(article: str, summary: str) -> list[tuple[Place, Place]]:
    """Places of the same words in the summary and in the article, within one summary sentence."""
    there, told = placed_tokens(article), placed_tokens(summary)
    words = [token for token, _, _ in there]
    found = []
    for _, start, end in placed_sentences(summary):
        here = [token for token in told if start <= token[1] and token[2] <= end]
        for at, source, length in fragments(words, [token for token, _, _ in here]):
            if length >= COPIED:
                own = (here[at][1], here[at + length - 1][2])
                found.append((own, (there[source][1], there[source + length - 1][2])))
    return found
