"""Summaries made of the article's own sentences."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from nutgraf.evaluation import rouge
from nutgraf.generation.extractive import extract_many, lead3, oracle, textrank

ARTICLE = (
    "Rain fell on the coast all day. The mayor of Oldport, Ann Reed, opened a bridge. "
    "A band played. The bridge across the river cost 40 million dollars, the mayor said. "
    "Traffic will cross the bridge from Monday."
)


def test_lead_3_is_the_first_three() -> None:
    assert lead3(ARTICLE).splitlines()[0] == "Rain fell on the coast all day."
    assert len(lead3(ARTICLE).splitlines()) == 3
    assert lead3("One line only.") == "One line only."


def test_textrank_takes_what_other_sentences_are_about() -> None:
    chosen = textrank(ARTICLE).splitlines()
    assert "The bridge across the river cost 40 million dollars, the mayor said." in chosen
    assert "A band played." not in chosen
    # In the order of the article.
    assert chosen == sorted(chosen, key=ARTICLE.index)
    assert textrank("One.\nTwo.\nThree.\nFour.") == "One.\nTwo.\nThree."
    assert textrank("Only this.") == "Only this."


def test_the_oracle_stops_where_a_sentence_adds_nothing() -> None:
    summary = oracle(ARTICLE, "A bridge that cost 40 million dollars crosses the river.")
    assert summary == "The bridge across the river cost 40 million dollars, the mayor said."
    both = oracle(ARTICLE, "Ann Reed opened a bridge. Traffic will cross from Monday.")
    assert both.splitlines()[-1] == "Traffic will cross the bridge from Monday."
    assert len(both.splitlines()) == 2
    assert oracle(ARTICLE, "Zebras.") == "Rain fell on the coast all day."


def test_on_real_articles_the_oracle_is_above_and_textrank_a_summary(shared: Path) -> None:
    rows = pd.read_parquet(shared / "cnndm-test-a.parquet").sample(60, random_state=1)
    pairs = list(zip(rows["article"], rows["highlights"], strict=True))
    mean = {}
    for system in ("lead3", "textrank", "oracle"):
        texts = extract_many(system, pairs)
        scores = [
            rouge.score_rouge(ref, text)["rouge1"]
            for (_, ref), text in zip(pairs, texts, strict=True)
        ]
        mean[system] = sum(scores) / len(scores)
        assert all(len(text.splitlines()) <= 3 for text in texts)
    # Known of CNN/DailyMail: oracles stand ten points and more above lead-3, TextRank some below.
    assert mean["oracle"] > mean["lead3"] + 8
    assert 25 < mean["textrank"] < mean["lead3"] + 2


def test_the_order_is_that_of_the_rows() -> None:
    rows = [(f"Number {i} is here. It is.", "") for i in range(5)]
    assert [text.split()[1] for text in extract_many("lead3", rows)] == list("01234")


def test_an_unknown_system_is_an_error() -> None:
    with pytest.raises(KeyError):
        extract_many("middle3", [("A.", "B.")])
