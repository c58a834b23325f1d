"""What an article says for and against a summary of it."""

from __future__ import annotations

import itertools
import json

from hypothesis import given, settings
from hypothesis import strategies as st

from nutgraf import errors
from nutgraf.evidence import evidence
from nutgraf.pocket.newswire import stories

ARTICLE = (
    "OSLO (AP) – Ann Lee of Oslo met 12 voters on Monday, the paper said.\n"
    "The mayor did not come. Her office said that the mayor had been ill since the weekend."
)


def test_what_the_article_lacks_is_named_with_its_place() -> None:
    summary = "Ann Lee met 40 voters with Bo Dahl in Oslo."
    found = evidence(ARTICLE, summary)["unsupported"]
    assert [(row["text"], row["kind"]) for row in found] == [("40", "number"), ("Bo Dahl", "name")]
    assert all(summary[row["start"] : row["end"]] == row["text"] for row in found)


def test_a_sentence_has_its_source_and_its_copied_words() -> None:
    summary = "Ann Lee of Oslo met voters. The mayor had been ill since Sunday! Prices fell."
    rows = evidence(ARTICLE, summary)["sentences"]
    told = [summary[row["start"] : row["end"]] for row in rows]
    assert told == ["Ann Lee of Oslo met voters.", "The mayor had been ill since Sunday!",
                    "Prices fell."]  # fmt: skip
    sources = [row["source"] and ARTICLE[row["source"]["start"] : row["source"]["end"]]
               for row in rows]  # fmt: skip
    assert sources[0].startswith("OSLO (AP)")
    assert sources[0].endswith("paper said.")
    assert sources[1].startswith("Her office")
    assert sources[2] is None
    copied = [[summary[a:b] for a, b, _, _ in row["copied"]] for row in rows]
    assert copied == [["Ann Lee of Oslo met"], ["The mayor had been ill since"], []]
    for row in rows:
        for a, b, c, d in row["copied"]:
            assert summary[a:b].lower() == ARTICLE[c:d].lower()


def test_fewer_than_four_tokens_are_no_copy() -> None:
    (row,) = evidence(ARTICLE, "So the mayor did, they say")["sentences"]
    assert row["copied"] == []
    (row,) = evidence(ARTICLE, "So the mayor did not, they say")["sentences"]
    assert len(row["copied"]) == 1


def test_it_is_for_json_and_empty_for_an_empty_summary() -> None:
    found = evidence(ARTICLE, "Ann Lee of Oslo met 40 voters.")
    assert json.loads(json.dumps(found)) == found
    assert evidence(ARTICLE, " ") == {"unsupported": [], "sentences": []}


def test_it_agrees_with_what_the_report_counts() -> None:
    news = stories("test", 20, seed=5)
    for story, other in itertools.pairwise(news):
        found = evidence(story.article, other.highlights)["unsupported"]
        counted = errors.indicators(story.article, other.highlights, other.highlights)
        for kind in ("number", "name"):
            assert sum(row["kind"] == kind for row in found) == counted[f"unsupported_{kind}s"]


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=80), st.text(max_size=80))
def test_any_two_texts_have_places_inside_them(article: str, summary: str) -> None:
    found = evidence(article + summary[:40], summary)
    for row in found["sentences"]:
        for a, b, c, d in row["copied"]:
            assert row["start"] <= a < b <= row["end"] <= len(summary)
            assert 0 <= c < d <= len(article + summary[:40])
