"""Write the lessons of pretraining from newswire stories.

The model learns to copy, to find a fact in an article by its role and to state facts in a wording
of its own. It never reads an article with its summary, nor the wording of references: their words
occur only as isolated words in random order. Summarizing is left to be learned by the adapter.

A lesson is a list of spans, text with a loss weight: answers count in full; the text they are
about does not, since its names cannot be foreseen, except in the lessons that are plain articles.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from functools import cache

from nutgraf.pocket import newswire
from nutgraf.pocket.newswire import Draft, Template

Span = tuple[str, float]

ARTICLE_WEIGHT = 0.0
HEADER_WEIGHT = 0.05
WORD_WEIGHT = 0.3
OPENERS = ("News:", "Report:", "Article:", "Wire:", "Read:", "")


@cache
def lexicon() -> tuple[str, ...]:
    """Return every word that the event files use, in alphabetical order, without punctuation."""
    words: set[str] = set()
    for event in newswire.events().values():
        lines = [*event.lead, *event.details, *event.quotes, *event.background, *event.retold]
        words.update(_words([*lines, *(line for block in event.key for line in block)]))
    return tuple(sorted(words.union(reference_lexicon())))


@cache
def reference_lexicon() -> tuple[str, ...]:
    """Return every word that the references use, as in `lexicon`."""
    events = newswire.events().values()
    return _words([line for event in events for block in event.reference for line in block])


def _words(lines: list[Template]) -> tuple[str, ...]:
    text = " ".join(re.sub(r"\{[a-z_]+\}", " ", line.text) for line in lines)
    return tuple(sorted(set(re.findall(r"[A-Za-z][A-Za-z'-]+", text))))


def label(field: str) -> str:
    """Return the name of a fact in lessons: `death_toll` is `death toll`."""
    return field.replace("_", " ")


def fact_sheet(draft: Draft, fields: list[str]) -> str:
    """Return `field: value`, one fact a line."""
    return "\n".join(f"{label(field)}: {draft.facts[field]}" for field in fields)


def retellings(draft: Draft) -> list[Template]:
    """Return the third wordings of the event whose facts the article has."""
    return [line for line in draft.event.retold if set(line.fields) <= draft.facts.keys()]


def _some(rng: random.Random, items: list[str], maximum: int) -> list[str]:
    return rng.sample(items, min(len(items), rng.randint(1, maximum)))


def _facts(draft: Draft, rng: random.Random) -> list[Span]:
    # Two sheets in three are about what matters; the rest ask for anything in the article.
    pool = list(draft.key_facts if rng.random() < 0.67 else draft.facts)
    spans: list[Span] = [("\nFacts:\n", HEADER_WEIGHT)]
    for field in _some(rng, pool, 6):
        spans += [(f"{label(field)}:", HEADER_WEIGHT), (f" {draft.facts[field]}\n", 1.0)]
    return spans


def _question(draft: Draft, rng: random.Random) -> list[Span]:
    question, answer = rng.choice(draft.event.questions)
    return [
        (f"\nQuestion: {question.render(rng, draft.facts)}\nAnswer:", HEADER_WEIGHT),
        (f" {answer.render(rng, draft.facts)}\n", 1.0),
    ]


def _retell(draft: Draft, rng: random.Random) -> list[Span]:
    first = rng.choice(retellings(draft))
    lines = [first]
    if rng.random() < 0.5:
        # A later line begins with a common word: after a line break a name has other tokens.
        lines += [line for line in retellings(draft) if line != first and line.text[0] != "{"]
        lines[1:] = rng.sample(lines[1:], 1)
    about = " " + ", ".join(label(field) for line in lines for field in line.fields)
    # Half of the time nothing says which facts are wanted: the words themselves must tell.
    header = f"\nRetell{about if rng.random() < 0.5 else ''}:"
    text = "\n".join(line.render(rng, draft.facts) for line in lines)
    return [(header, HEADER_WEIGHT), (f" {text}\n", 1.0)]


def _citation(draft: Draft, rng: random.Random) -> list[Span]:
    value = rng.choice(list(draft.facts.values()))
    sentence = next(text for text in draft.sentences if value in text)
    return [(f"\nQuote {value}:", HEADER_WEIGHT), (f" {sentence}\n", 1.0)]


def _mention(draft: Draft, rng: random.Random) -> list[Span]:
    # Under a heading that is no task of its own the model quotes and stops. Without this lesson
    # it takes any unknown heading, that of a study's prompt too, for a bare "Retell".
    words = sorted(set(re.findall(r"\b[a-z]{4,}", draft.article)))
    word = rng.choice(words)
    sentence = next(text for text in draft.sentences if word in text)
    return [(f"\n{word.capitalize()}:", HEADER_WEIGHT), (f" {sentence}\n", 1.0)]


_TURNS: tuple[tuple[Callable[[Draft, random.Random], list[Span]], float], ...] = (
    (_facts, 0.26),
    (_retell, 0.56),
    (_question, 0.11),
    (_citation, 0.07),
)


def reading(rng: random.Random, turns: int = 12) -> list[Span]:
    """Return an article and `turns` small tasks: fact sheet, retold fact, question, citation.

    Three in ten have at most five tasks, then a heading of another kind, and end there.
    """
    draft = newswire.draft("train", rng)
    spans: list[Span] = [(f"{rng.choice(OPENERS)} {draft.article}\n", ARTICLE_WEIGHT)]
    closing = rng.random() < 0.3
    makers, weights = zip(*_TURNS, strict=True)
    for make in rng.choices(makers, weights, k=rng.randint(0, 5) if closing else turns):
        spans += make(draft, rng)
    return spans + _mention(draft, rng) if closing else spans


def notes(rng: random.Random) -> list[Span]:
    """Return a fact sheet without its article, then some of its facts as sentences."""
    draft = newswire.draft("train", rng)
    fields = [field for field in draft.facts if rng.random() < 0.4 or field in draft.key_facts]
    rng.shuffle(fields)
    spans: list[Span] = [("Notes:\n" + fact_sheet(draft, fields) + "\n", ARTICLE_WEIGHT)]
    for _ in range(4):
        spans += _retell(draft, rng)
    return spans


def plain(rng: random.Random) -> list[Span]:
    """Return an article and nothing else."""
    return [(" " + newswire.draft("train", rng).article, 1.0)]


def _item(rng: random.Random, names: newswire.Names) -> str:
    kind = rng.random()
    if kind < 0.5:
        return names.word(rng.choice(list(newswire.ENDINGS)))
    if kind < 0.65:
        return f"{names.word('first')} {names.word('last')}"
    if kind < 0.8:
        return names.number(10, 9900)
    return rng.choice(lexicon())


def name_list(rng: random.Random) -> list[Span]:
    """Return names, numbers and words in a row, and again."""
    names = newswire.Names(rng, held_out=False)
    separator = rng.choice([",", ";", " and", "\n-"])
    items = [_item(rng, names) for _ in range(rng.randint(3, 10))]
    row = f"{separator} ".join(items)
    return [(f"List: {row}\nAgain:", ARTICLE_WEIGHT), (f" {row}\n", 1.0)]


def recall(rng: random.Random) -> list[Span]:
    """Return keys with values, then the values of some keys."""
    names = newswire.Names(rng, held_out=False)
    pairs = [(_item(rng, names), _item(rng, names)) for _ in range(rng.randint(3, 9))]
    spans: list[Span] = [("Table:\n", HEADER_WEIGHT)]
    spans += [(f" {key} = {value}\n", ARTICLE_WEIGHT) for key, value in pairs]
    for key, value in rng.sample(pairs, len(pairs)):
        spans += [(f" {key} ->", ARTICLE_WEIGHT), (f" {value}\n", 1.0)]
    return spans


def words(rng: random.Random) -> list[Span]:
    """Return words in random order, to be spelt to their end with no text to copy from."""
    row = [rng.choice(lexicon()) for _ in range(rng.randint(15, 40))]
    row = [word.capitalize() if rng.random() < 0.3 else word for word in row]
    # Which word comes next cannot be foreseen, only how it goes on.
    return [("Words:", HEADER_WEIGHT), (f" {' '.join(row)}\n", WORD_WEIGHT)]


MIXTURE: tuple[tuple[Callable[[random.Random], list[Span]], float], ...] = (
    (reading, 0.76),
    (notes, 0.05),
    (plain, 0.07),
    (name_list, 0.05),
    (recall, 0.05),
    (words, 0.02),
)


def lesson(rng: random.Random) -> list[Span]:
    """Return one lesson of the mixture."""
    makers, weights = zip(*MIXTURE, strict=True)
    return rng.choices(makers, weights)[0](rng)
