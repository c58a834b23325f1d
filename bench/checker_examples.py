"""Make examples that a checker learns from: sentences with passages, supported or not."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd
from planting import Article, plant
from truths import is_true, paraphrases

from nutgraf.data.sentences import article_sentences, sentence_spans, split_sentences
from nutgraf.data.text import clean_text
from nutgraf.evaluation.evidence import _Passages

MAX_WORDS = 90  # of all passages of a sentence
REFERENCES, LEAD = 2, 3  # sentences of a reference; of an article, of which one is taken
# How often an error is of a kind, if the words of a sentence allow all.
WEIGHTS = {
    "roles": 3.0, "name": 2.0, "number": 3.0, "negation": 1.5, "predicate": 3.0, "fused": 2.0,
    "coreference": 4.0, "cause": 1.0,
}  # fmt: skip
# Errors that may stand in the passage instead, so that a sentence's words alone do not show them.
TURNED_BACK = ("name", "number", "negation", "predicate", "roles")
PARAPHRASES = {"several": 3.0, "words": 3.0, "surname": 0.5}  # the others 1


class Chooser:
    """Chooses the sentences of an article that a sentence of a summary is judged by."""

    def __init__(self, article: str) -> None:
        self.article, self.sources = article, _Passages(article)
        self.spans = [(start, end) for _, start, end in sentence_spans(article, article_sentences)]

    def choose(self, sentence: str) -> list[str]:
        """Return those that share most with it, and the one before the best if there is room."""
        _, sources = self.sources.support(sentence)
        starts = [source["start"] for source in sources]
        at = [i for i, (start, _) in enumerate(self.spans) if start in starts]
        best = next((i for i, (start, _) in enumerate(self.spans) if starts[:1] == [start]), 0)
        chosen, left = list[int](), MAX_WORDS
        for i in dict.fromkeys((best, *at, max(best - 1, 0))):
            words = len(self.article[slice(*self.spans[i])].split()) if self.spans else 0
            if self.spans and (words <= left or not chosen):
                chosen.append(i)
                left -= words
        return [self.article[slice(*self.spans[i])] for i in sorted(chosen)]


@dataclass(frozen=True)
class Example:
    """A sentence with passages; `kind` is the error, or how a true sentence came about."""

    sentence: str
    passages: str
    supported: bool
    kind: str
    of_reference: bool
    article: int


def examples(at: int, text: str, reference: str, seed: int) -> Iterator[Example]:
    """Yield as many supported as unsupported examples of one article."""
    rng = random.Random(seed * 1_000_003 + at)
    article, chooser = Article(text), Chooser(text)

    def pair(source: str, sentence: str, kind: str) -> Iterator[Example]:
        passages, of = chooser.choose(sentence), kind == "reference"
        for error in sorted(WEIGHTS, key=lambda k: rng.random() ** (1 / WEIGHTS[k]), reverse=True):
            if error in TURNED_BACK and source in passages and rng.random() < 0.4:
                if turned := plant(article, source, error, rng):
                    others = [turned if passage == source else passage for passage in passages]
                    yield Example(sentence, " ".join(others), False, error, of, at)
                    break
            elif turned := plant(article, sentence, error, rng):
                yield Example(turned, " ".join(chooser.choose(turned)), False, error, of, at)
                break
        else:
            return
        yield Example(sentence, " ".join(passages), True, kind, of, at)

    references = [s for s in split_sentences(reference) if is_true(article, s)]
    for sentence in rng.sample(references, min(REFERENCES, len(references))):
        yield from pair(sentence, sentence, "reference")
    lead, rest = article.sentences[:LEAD], article.sentences[LEAD:]
    for sentence in [*rng.sample(lead, min(1, len(lead))), *rng.sample(rest, min(1, len(rest)))]:
        turned = paraphrases(article, sentence, rng)
        names, how = sorted(turned), ""
        if turned and rng.random() < 0.8:
            how = rng.choices(names, [PARAPHRASES.get(name, 1.0) for name in names])[0]
        yield from pair(sentence, turned.get(how, sentence), how or "extract")


def draw_examples(rows: pd.DataFrame, n: int, seed: int) -> list[Example]:
    rows = rows.sample(frac=1, random_state=seed)
    drawn: list[Example] = []
    for at, row in enumerate(rows.itertuples()):
        if len(drawn) >= n:
            break
        drawn += examples(at, clean_text(row.article), clean_text(row.highlights), seed)
    return drawn
