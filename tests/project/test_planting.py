"""bench/planting.py: errors are planted as they are named."""

from __future__ import annotations

import random

import pytest
from planting import KINDS, Article, plant

from nutgraf.evaluation.facts import Facts
from nutgraf.pocket import newswire

ARTICLE = (
    "Anna Berg beat Carl Dunn in Oslo on Monday. She had trained in Bergen for 12 years. "
    "The mayor of Bergen, Erik Foss, praised the winner before the cameras. "
    "Erik Foss has promised a new hall with 400 seats. Nobody expected the victory of the outsider."
)


@pytest.fixture(scope="module")
def stories() -> list[newswire.Story]:
    return list(newswire.stories("train", 40, seed=3))


def test_every_kind_of_error_is_planted_in_the_newswire(stories: list[newswire.Story]) -> None:
    # It has no pronoun of a person.
    rng, counts = random.Random(0), dict.fromkeys([k for k in KINDS if k != "coreference"], 0)
    for story in stories:
        article = Article(story.article)
        for sentence in [*article.sentences, *story.reference.split("\n")]:
            for kind in counts:
                planted = plant(article, sentence, kind, rng)
                counts[kind] += bool(planted)
                assert planted.lower() != sentence.lower()
    assert min(counts.values()) > 0, counts


@pytest.mark.parametrize(
    ("kind", "sentence", "possible"),
    [
        ("roles", "Anna Berg beat Carl Dunn in Oslo on Monday.",
         {"Carl Dunn beat Anna Berg in Oslo on Monday."}),
        ("name", "Anna Berg beat him in Oslo.", {"Carl Dunn beat him in Oslo.",
         "Erik Foss beat him in Oslo.", "Anna Berg beat him in Bergen."}),
        ("number", "The hall has 400 seats.", {"The hall has 12 seats."}),
        ("negation", "The hall has not been built.", {"The hall has been built."}),
        ("negation", "It won't be built.", {"It will be built."}),
        ("coreference", "She had trained in Bergen for 12 years.",
         {"Erik Foss had trained in Bergen for 12 years."}),
        ("predicate", "The victory was near.", {"The defeat was near.", "The victory was far."}),
    ],
)  # fmt: skip
def test_an_error_is_of_its_kind(kind: str, sentence: str, possible: set[str]) -> None:
    planted = {plant(Article(ARTICLE), sentence, kind, random.Random(n)) for n in range(12)}
    assert planted <= possible
    assert planted


def test_exchanged_names_and_numbers_are_of_the_article(stories: list[newswire.Story]) -> None:
    for story in stories:
        article, facts = Article(story.article), Facts(story.article)
        for sentence in article.sentences:
            for kind in ("name", "number"):
                planted = Facts(plant(article, sentence, kind, random.Random(1)), facts)
                assert all(facts.supports(fact) for fact in (*planted.names, *planted.numbers))
