"""What an article says for and against a summary of it, and where."""

from __future__ import annotations

import itertools
import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nutgraf.evaluation import indicators
from nutgraf.evaluation.evidence import evidence
from nutgraf.generation.extractive import lead3
from nutgraf.pocket.newswire import stories

ARTICLE = (
    "OSLO (AP) – Ann Lee of Oslo met 12 voters on Monday, the paper said.\n"
    "The mayor did not come. Her office said that the mayor had been ill since the weekend."
)
FIRE = (
    "Fire destroyed a furniture mill in Norwick on Monday. Smoke was seen for 40 miles.\n"
    "Nobody was hurt, said Alba Renn, who leads the town's firefighters. The mill employed "
    "212 people."
)


def sources(summary: str, article: str = FIRE) -> list[list[str]]:
    """The passages behind each sentence."""
    sentences = evidence(article, summary)["sentences"]
    return [[article[p["start"] : p["end"]] for p in row["sources"]] for row in sentences]


def test_what_the_article_lacks_is_named_with_its_place() -> None:
    summary = "Ann Lee met 40 voters with Bo Dahl in Oslo."
    unsupported = evidence(ARTICLE, summary)["unsupported"]
    assert [(row["text"], row["kind"]) for row in unsupported] == [
        ("40", "number"),
        ("Bo Dahl", "name"),
    ]
    assert all(summary[row["start"] : row["end"]] == row["text"] for row in unsupported)


def test_a_sentence_has_its_sources_and_its_copied_words() -> None:
    summary = "Ann Lee of Oslo met voters. The mayor had been ill since Sunday! Prices fell."
    rows = evidence(ARTICLE, summary)["sentences"]
    sentences = [summary[row["start"] : row["end"]] for row in rows]
    assert sentences == ["Ann Lee of Oslo met voters.", "The mayor had been ill since Sunday!",
                         "Prices fell."]  # fmt: skip
    first, second, third = sources(summary, ARTICLE)
    assert first[0].startswith("OSLO (AP)")
    assert first[0].endswith("paper said.")
    assert second[0].startswith("Her office")
    assert third == []
    copied = [[summary[c["start"] : c["end"]] for c in row["copied"]] for row in rows]
    assert copied == [["Ann Lee of Oslo met"], ["The mayor had been ill since"], []]
    for copy in (copy for row in rows for copy in row["copied"]):
        there = ARTICLE[copy["source"]["start"] : copy["source"]["end"]]
        assert summary[copy["start"] : copy["end"]].lower() == there.lower()


def test_each_sentence_has_the_passages_that_share_its_words() -> None:
    assert sources("A mill that employed 212 people burned.\nAlba Renn said nobody was hurt.") == [
        ["The mill employed 212 people."],
        ["Nobody was hurt, said Alba Renn, who leads the town's firefighters."],
    ]


def test_a_sentence_put_together_has_several_sources_the_most_telling_first() -> None:
    (passages,) = sources("Alba Renn leads firefighters at a furniture mill in Norwick.")
    assert [passage.split()[0] for passage in passages] == ["Nobody", "Fire"]


def test_one_shared_word_is_chance() -> None:
    assert sources("Shares fell, and nobody knows why.") == [[]]
    assert sources("Firefighters.") == [
        ["Nobody was hurt, said Alba Renn, who leads the town's firefighters."]
    ]


def test_a_sentence_from_elsewhere_has_none() -> None:
    sentences = evidence(FIRE, "Bonds fell as traders sold shares.")["sentences"]
    assert [(row["sources"], row["support"]) for row in sentences] == [([], 0.0)]


def test_support_is_the_share_of_content_words_that_the_sources_have() -> None:
    (sentence,) = evidence(FIRE, "Fire destroyed two mills in Norwick.")["sentences"]
    assert sentence["support"] == 0.8  # all but two; mills is the mill


def test_fewer_than_four_tokens_are_no_copy() -> None:
    (row,) = evidence(ARTICLE, "So the mayor did, they say")["sentences"]
    assert row["copied"] == []
    (row,) = evidence(ARTICLE, "So the mayor did not, they say")["sentences"]
    assert len(row["copied"]) == 1


def test_what_is_said_twice_has_its_place() -> None:
    summary = "The mayor did not come. The mayor did not come."
    repeated = evidence(ARTICLE, summary)["repeated"]
    assert repeated
    assert all(place["start"] >= len(summary) // 2 for place in repeated)


def test_it_is_for_json_and_empty_for_an_empty_summary() -> None:
    record = evidence(ARTICLE, "Ann Lee of Oslo met 40 voters.")
    assert json.loads(json.dumps(record)) == record
    assert evidence(ARTICLE, " ") == {"unsupported": [], "sentences": [], "repeated": []}


def test_it_agrees_with_what_the_report_counts() -> None:
    news = stories("test", 20, seed=5)
    for story, other in itertools.pairwise(news):
        unsupported = evidence(story.article, other.reference)["unsupported"]
        counted = indicators.indicators(story.article, other.reference, other.reference)
        for kind in ("number", "name"):
            assert (
                sum(row["kind"] == kind for row in unsupported) == counted[f"unsupported_{kind}s"]
            )


def test_most_key_facts_of_newswire_references_stand_in_the_sources() -> None:
    stated = sourced = 0
    read = 0.0
    news = stories("test", 40, seed=5)
    for story in news:
        sentences = evidence(story.article, story.reference)["sentences"]
        for sentence, shown in zip(sentences, sources(story.reference, story.article), strict=True):
            read += sum(map(len, shown)) / len(story.article) / len(sentences)
            text = story.reference[sentence["start"] : sentence["end"]]
            for fact in (story.facts[name] for name in story.key_facts):
                if fact in text and fact in story.article:
                    stated += 1
                    sourced += fact in " ".join(shown)
    assert sourced / stated > 0.9
    assert read / len(news) < 0.2


def all_inside(article: str, summary: str) -> None:
    """Sentences stand one behind the other, and all places are places of the texts."""
    end = 0
    for row in evidence(article, summary)["sentences"]:
        assert end <= row["start"] < row["end"] <= len(summary)
        end = row["end"]
        assert 0 <= row["support"] <= 1
        for place in [*row["sources"], *(copy["source"] for copy in row["copied"])]:
            assert 0 <= place["start"] < place["end"] <= len(article)
        for copy in row["copied"]:
            assert row["start"] <= copy["start"] < copy["end"] <= end
            here, there = summary[copy["start"]], article[copy["source"]["start"]]
            assert here.lower() == there.lower() or not here.isalnum()


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_places_are_those_of_the_texts_whatever_they_are(data: st.DataObject) -> None:
    letters = st.sampled_from(
        ["a", "Ab", " ", "\n", "\r\n", "\u2028", ".", "'", "\u201d", "7", "😀", "\0", "`"]
    )
    article, summary = ("".join(data.draw(st.lists(letters, max_size=40))) for _ in range(2))
    all_inside(article, summary)


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=80), st.text(max_size=80))
def test_any_two_texts_have_places_inside_them(article: str, summary: str) -> None:
    all_inside(article + summary[:40], summary)


@pytest.mark.parametrize(
    "piece", ["Abc ", "a ", "a\n", "Ab. ", "1,", "''", "hundred and ", "Bureau of ", "A.", "12 "]
)
def test_texts_made_to_take_long_do_not(piece: str) -> None:
    article = piece * (20_000 // len(piece))
    started = time.process_time()
    evidence(article, article[:400])
    evidence(article, lead3(article))
    assert time.process_time() - started < 5
