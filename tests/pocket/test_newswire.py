"""The synthetic newswire: determinism, held-out space, lengths, facts as data, wordings apart."""

import contextlib
import itertools
import random
import re
from functools import cache

import pytest

from nutgraf.pocket import newswire
from nutgraf.pocket.decency import STEMS
from nutgraf.pocket.newswire import Story
from tools.pocket import lessons

ENDINGS = sorted({ending for group in newswire.ENDINGS.values() for ending in group})
NAMES = {opening + ending for opening in newswire.OPENINGS for ending in ENDINGS}
NUMBER = re.compile(r"\d[\d,]*")
# Fixed expressions of numbers and money, which any wording of a fact needs.
COMMON = {"million", "dollars", "percent"}


@cache
def many(split: str) -> list[Story]:
    return newswire.stories(split, 900, seed=3)


def all_stories() -> list[Story]:
    return [story for split in newswire.SPLITS for story in many(split)]


def names_in(text: str) -> set[str]:
    return NAMES.intersection(re.findall(r"[A-Z][a-z]+", text))


def opening_of(name: str) -> str:
    return re.match(r"[A-Z][^aeiou]*[aeiou]", name).group()


def numbers(text: str) -> set[int]:
    return {int(number.replace(",", "")) for number in NUMBER.findall(text) if number.strip(",")}


def grams(text: str, size: int = 4) -> set[tuple[str, ...]]:
    """Word n-grams with at least three words that are neither facts nor fixed expressions."""
    words = re.findall(r"[\w']+", re.sub(r"\{[a-z_]+\}", "_", text).lower())
    windows = {tuple(words[i : i + size]) for i in range(len(words) - size + 1)}
    return {gram for gram in windows if sum(w != "_" and w not in COMMON for w in gram) >= 3}


def readings(template: newswire.Template, n: int = 60) -> list[str]:
    rng = random.Random(0)
    facts = dict.fromkeys(template.fields, "{x}")
    return [template.render(rng, facts) for _ in range(n)]


def test_stories_depend_on_split_number_and_seed_alone():
    assert newswire.stories("train", 20, 7) == newswire.stories("train", 20, 7)
    assert newswire.stories("train", 30, 7)[:20] == newswire.stories("train", 20, 7)
    assert newswire.stories("train", 20, 8) != newswire.stories("train", 20, 7)
    assert newswire.stories("test", 18, 7)[17].id == "newswire-test-000017"


def test_unknown_split_is_an_error():
    with pytest.raises(ValueError, match="'dev'"):
        newswire.stories("dev", 1, 0)


def test_at_least_ten_kinds_in_every_split():
    assert len(newswire.KINDS) >= 10
    for split in newswire.SPLITS:
        assert {story.kind for story in many(split)} == set(newswire.KINDS)


def test_articles_have_150_to_300_words():
    lengths = [len(story.article.split()) for story in all_stories()]
    assert min(lengths) >= 150
    assert max(lengths) <= 300


def test_references_have_25_to_45_words_in_two_or_three_sentences():
    for story in all_stories():
        assert 25 <= len(story.reference.split()) <= 45, story.reference
        lines = story.reference.split("\n")
        assert 2 <= len(lines) <= 3
        assert all(line.endswith(".") and line[0] == line[0].upper() for line in lines)


def test_key_facts_stand_in_article_and_reference():
    for story in all_stories():
        assert story.key_facts
        flat = story.reference.replace("\n", " ")
        for field in story.key_facts:
            assert story.facts[field] in story.article
            assert story.facts[field] in flat


def test_every_fact_stands_in_the_article():
    for story in all_stories():
        assert all(value in story.article for value in story.facts.values())


def test_facts_account_for_every_name_and_number():
    for story in all_stories():
        known = " ".join(story.facts.values())
        text = story.article + " " + story.reference
        assert names_in(text) <= names_in(known)
        assert numbers(text) <= numbers(known)


def test_names_of_a_story_begin_differently_and_numbers_differ():
    for story in all_stories():
        openings = [opening_of(name) for name in names_in(" ".join(story.facts.values()))]
        assert len(openings) == len(set(openings))


class Prepared:
    """A random generator whose choices are prepared."""

    def __init__(self, choices):
        self.choices = iter(choices)

    def choice(self, _):
        return next(self.choices)


def drawn(kind: str, held_out: bool) -> set[str]:
    """Return every name that can be drawn, by trying all combinations of pieces."""
    pairs = itertools.product(newswire.OPENINGS, newswire.ENDINGS[kind])
    names = newswire.Names(Prepared(itertools.chain.from_iterable(pairs)), held_out)
    words = set()
    with contextlib.suppress(StopIteration):
        while True:
            names._used.clear()
            words.add(names.word(kind))
    return words


def test_no_name_that_can_be_made_holds_an_obscene_word():
    everything = set()
    for kind, endings in newswire.ENDINGS.items():
        able = drawn(kind, held_out=False) | drawn(kind, held_out=True)
        spellings = {opening + ending for opening in newswire.OPENINGS for ending in endings}
        assert able == {n for n in spellings if not any(stem in n.lower() for stem in STEMS)}
        assert len(able) > 0.95 * len(spellings)
        everything |= able
    # Those that a reader would see first, and one of each joint.
    assert not everything & {"Fuckett", "Cunton", "Dickson", "Cockdale", "Dildo", "Vulva"}
    assert not everything & {"Tittley", "Pornbury", "Pimpton", "Fartin", "Turdman", "Crappel"}


def test_no_name_of_several_words_holds_an_obscene_word_across_a_space(monkeypatch):
    names = newswire.Names(Prepared(["Group", "Foods"]), held_out=False)
    words = iter(["Bamara", "Perrow", "Golia", "Mirrow", "Bardyne", "Bardyne"])
    monkeypatch.setattr(names, "word", lambda kind: next(words))
    assert names.draw("person") == "Golia Mirrow"
    assert names.draw("company") == "Bardyne Foods"


def test_held_out_names_and_numbers_never_meet_the_seen_ones():
    texts = {
        split: [f"{story.article} {story.reference}" for story in many(split)]
        for split in newswire.SPLITS
    }
    names = {split: names_in(" ".join(texts[split])) for split in texts}
    assert not names["test"] & (names["train"] | names["validation"])
    assert all(newswire.held_out_name(name) for name in names["test"])
    # The strengths of earthquakes and the scores of matches are single digits.
    values = {
        split: {v for text in texts[split] for v in numbers(text) if v >= 10} for split in texts
    }
    assert not values["test"] & (values["train"] | values["validation"])
    assert all(newswire.held_out_number(value) for value in values["test"])


def test_pieces_of_held_out_names_are_all_seen():
    seen = " ".join(story.article for story in many("train"))
    names = names_in(seen)
    assert {name.removeprefix(opening_of(name)) for name in names} == set(ENDINGS)
    assert {opening_of(name) for name in names} == set(newswire.OPENINGS)


def test_train_and_validation_share_no_story():
    train = {tuple(story.facts.values()) for story in many("train")}
    assert not train & {tuple(story.facts.values()) for story in many("validation")}
    # Whatever the seeds: the same draws give different stories.
    other = newswire.stories("validation", 500, seed=4)
    assert not train & {tuple(story.facts.values()) for story in other}


def test_the_first_three_sentences_do_not_tell_the_story():
    shares = []
    for story in many("train")[:300]:
        opening = " ".join(re.split(r"(?<=[.!?]) ", story.article)[:3])
        held = [story.facts[field] in opening for field in story.key_facts]
        shares.append(sum(held) / len(held))
    assert sum(shares) / len(shares) < 0.5
    assert max(shares) < 1


def test_every_kind_has_several_wordings_of_the_same_reference():
    for event in newswire.events().values():
        for block in event.reference:
            assert len(block) >= 2
            assert len({frozenset(line.fields) for line in block}) == 1
            # A name after a line break would need tokens of its own: none begins a later line.
            if block is not event.reference[0]:
                assert not any(line.text.startswith("{") for line in block)


def test_wordings_of_articles_and_lessons_are_not_those_of_references():
    for event in newswire.events().values():
        references = [line for block in event.reference for line in block]
        others = [*event.lead, *event.details, *event.quotes, *event.background, *event.retold]
        others += [line for block in event.key for line in block]
        others += [question for question, _ in event.questions]
        reserved = {gram for line in references for text in readings(line) for gram in grams(text)}
        used = {gram for line in others for text in readings(line) for gram in grams(text)}
        assert not reserved & used, event.kind


def test_lessons_never_hold_a_highlight_sentence():
    references = [
        line for event in newswire.events().values() for block in event.reference for line in block
    ]
    reserved = {gram for line in references for text in readings(line) for gram in grams(text)}
    reserved = {gram for gram in reserved if "_" not in gram}
    rng = random.Random(5)
    for _ in range(400):
        text = "".join(span for span, _ in lessons.lesson(rng))
        for sentence in re.split(r"[.!?]\s", text):  # a wording does not run over a full stop
            assert not reserved & grams(sentence)


def test_lessons_use_seen_names_only():
    rng = random.Random(6)
    text = " ".join(span for _ in range(200) for span, _ in lessons.lesson(rng))
    assert not any(newswire.held_out_name(name) for name in names_in(text))
