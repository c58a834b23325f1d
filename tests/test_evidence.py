"""Where a summary's sentences come from, and what in it is not in the article."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nutgraf.evidence import evidence
from nutgraf.extracts import lead3
from nutgraf.pocket import newswire

ARTICLE = (
    "Fire destroyed a furniture mill in Norwick on Monday. Smoke was seen for 40 miles.\n"
    "Nobody was hurt, said Alba Renn, who leads the town's firefighters. The mill employed "
    "212 people."
)


def sources(summary: str, article: str = ARTICLE) -> list[list[str]]:
    """The passages behind each sentence."""
    told = evidence(article, summary).sentences
    return [[article[p.start : p.end] for p in sentence.sources] for sentence in told]


def test_each_sentence_has_the_passages_that_share_its_words():
    assert sources("A mill that employed 212 people burned.\nAlba Renn said nobody was hurt.") == [
        ["The mill employed 212 people."],
        ["Nobody was hurt, said Alba Renn, who leads the town's firefighters."],
    ]


def test_a_sentence_put_together_has_several_sources_the_most_telling_first():
    (found,) = sources("Alba Renn leads firefighters at a furniture mill in Norwick.")
    assert [passage.split()[0] for passage in found] == ["Nobody", "Fire"]


def test_a_sentence_from_elsewhere_has_none():
    told = evidence(ARTICLE, "Bonds fell as traders sold shares.").sentences
    assert [(s.sources, s.support) for s in told] == [([], 0.0)]
    assert evidence(ARTICLE, "").sentences == []


def test_support_is_the_share_of_content_words_that_the_sources_have():
    (told,) = evidence(ARTICLE, "Fire destroyed two mills in Norwick.").sentences
    assert told.support == 0.8  # all but two; mills is the mill


def test_copies_and_flags_have_their_places():
    summary = "Smoke was seen for 40 miles, said Mayor Brandt Kolvane of 55 villages"
    told = evidence(ARTICLE, summary)
    (copy,) = told.copies
    assert summary[copy.start : copy.end] == "Smoke was seen for 40 miles"
    assert ARTICLE[copy.source.start : copy.source.end] == "Smoke was seen for 40 miles"
    flagged = [(summary[f.start : f.end], f.kind) for f in told.flags]
    assert flagged == [
        ("Brandt Kolvane", "unsupported_names"),
        ("55", "unsupported_numbers"),
        ("villages", "unfinished"),
    ]


def test_most_key_facts_of_newswire_highlights_stand_in_the_sources():
    stated = found = read = 0
    stories = newswire.stories("test", 40, seed=5)
    for story in stories:
        told = evidence(story.article, story.highlights).sentences
        for sentence in told:
            shown = [story.article[p.start : p.end] for p in sentence.sources]
            read += sum(map(len, shown)) / len(story.article) / len(told)
            text = story.highlights[sentence.start : sentence.end]
            for fact in (story.facts[name] for name in story.key_facts):
                if fact in text and fact in story.article:
                    stated += 1
                    found += fact in " ".join(shown)
    assert found / stated > 0.9
    assert read / len(stories) < 0.2


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_places_are_those_of_the_texts_whatever_they_are(data):
    letters = st.sampled_from(
        ["a", "Ab", " ", "\n", "\r\n", "\u2028", ".", "'", "\u201d", "7", "😀", "\0", "`"]
    )
    article, summary = ("".join(data.draw(st.lists(letters, max_size=40))) for _ in range(2))
    told = evidence(article, summary)
    ends = [0]
    for sentence in told.sentences:
        assert ends[-1] <= sentence.start < sentence.end <= len(summary)
        ends.append(sentence.end)
        assert 0 <= sentence.support <= 1
    places = [p for s in told.sentences for p in s.sources] + [c.source for c in told.copies]
    assert all(0 <= p.start < p.end <= len(article) for p in places)
    for copy in told.copies:
        assert summary[copy.start : copy.end].lower()[0] == article[copy.source.start].lower()


@pytest.mark.parametrize(
    "piece", ["Abc ", "a ", "a\n", "Ab. ", "1,", "''", "hundred and ", "Bureau of ", "A.", "12 "]
)
def test_texts_made_to_take_long_do_not(piece):
    """Names of thousands of words took cubic time and memory: hours for the first of these."""
    article = piece * (20_000 // len(piece))
    started = time.process_time()
    evidence(article, article[:400])
    evidence(article, lead3(article))
    assert time.process_time() - started < 5


def test_one_shared_word_is_chance():
    assert sources("Shares fell, and nobody knows why.") == [[]]
    assert sources("Firefighters.") == [
        ["Nobody was hurt, said Alba Renn, who leads the town's firefighters."]
    ]
