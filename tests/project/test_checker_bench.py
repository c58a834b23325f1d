"""bench/checker.py: errors are planted as they are named, and a network learns to see them."""

from __future__ import annotations

import random

import numpy as np
import pytest
from checker_examples import Chooser, examples
from planting import KINDS, Article, plant
from reading import WIDTH, Head, token_values
from truths import is_true, paraphrases

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


def test_references_without_error_pass_the_filter_and_invented_ones_do_not(
    stories: list[newswire.Story],
) -> None:
    own = [(Article(story.article), story.reference.split("\n")) for story in stories]
    passed = [is_true(article, sentence) for article, sentences in own for sentence in sentences]
    assert np.mean(passed) > 0.2  # the newswire's references retell in words of their own
    assert all(is_true(article, sentence) for article, _ in own for sentence in article.sentences)
    assert not is_true(own[0][0], "Ludovic Kennedy-Smythe paid 987,654 dollars for a castle.")


def test_paraphrases_bring_no_name_and_no_number(stories: list[newswire.Story]) -> None:
    made = 0
    for story in stories:
        article = Article(story.article)
        for sentence in article.sentences:
            for turned in paraphrases(article, sentence, random.Random(2)).values():
                facts = Facts(turned, article.facts)
                assert all(article.facts.supports(number) for number in facts.numbers)
                assert all(name.words[-1] in story.article.lower() for name in facts.names)
                made += 1
    assert made > 100


def test_examples_are_half_true_and_come_with_passages_of_the_article() -> None:
    drawn = list(examples(0, ARTICLE, "Anna Berg beat Carl Dunn in Oslo.", seed=1))
    assert sum(one.supported for one in drawn) * 2 == len(drawn) > 2
    assert {one.of_reference for one in drawn} == {True, False}
    assert Chooser(ARTICLE).choose("Foss promised a hall with 400 seats.")[-1] == (
        "Erik Foss has promised a new hall with 400 seats."
    )


def test_a_network_learns_to_see_one_wrong_word() -> None:
    rng = np.random.default_rng(0)
    sentence, passages = "Anna beat Carl in Oslo", "Anna Berg beat Carl Dunn in Oslo on Monday."
    spans = np.array([(0, 4), (4, 9), (9, 14), (14, 17), (17, 22)])
    rows, supported = [], []
    for n in range(120):
        values = rng.normal(-1, 0.3, (5, 5)).astype(np.float32)
        if n % 2:
            values[rng.integers(5), 0] -= 4  # a word that nobody would expect
        rows.append(token_values(passages, sentence, (spans, values)))
        supported.append(n % 2 == 0)
    assert rows[0].shape == (5, WIDTH)
    assert rows[0][:, 11].all()  # all its words are in the passages
    logits = Head(rows[:80], supported[:80], seed=0).logits(rows[80:])
    assert (logits[::2].mean() - logits[1::2].mean()) > 1
