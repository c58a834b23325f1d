"""Rates of errors, by group of articles, from made-up rows."""

from __future__ import annotations

import pandas as pd
import pytest

from nutgraf.evaluation import error_rates
from nutgraf.evaluation.indicators import FAULTS


@pytest.fixture
def errors() -> pd.DataFrame:
    """Nine articles of 10 to 90 words. The reference is flagged in the longest, `best` in those of
    more than 60 words, which it was given the beginning of."""
    return pd.DataFrame(
        {
            "id": f"{i}",
            "system": system,
            "article_words": 10 * i,
            "trimmed_tokens": 7 if system == "best" and i > 6 else 0,
            **dict.fromkeys(FAULTS, 0),
            "unsupported_names": 2 * int(i > 6 if system == "best" else i == 9),
            "words": 30,
        }
        for system in ("best", "reference")
        for i in range(1, 10)
    )


def test_a_rate_is_the_share_of_summaries_with_at_least_one(errors: pd.DataFrame) -> None:
    rates = error_rates.system_rates(errors)
    assert list(rates.columns) == ["reference", "best"]
    assert list(rates.index) == list(FAULTS)
    assert rates.loc["unsupported_names"].tolist() == pytest.approx([100 / 9, 300 / 9])


def test_what_went_in_is_no_indicator(errors: pd.DataFrame) -> None:
    assert list(error_rates.mean_indicators(errors).index) == ["words"]


def test_groups_are_thirds_by_length_and_trimmed_or_whole(errors: pd.DataFrame) -> None:
    groups = {name: list(ids) for name, ids in error_rates.article_groups(errors)}
    assert groups == {
        "all articles": list("123456789"),
        "articles of up to 36 words": list("123"),
        "37 to 63 words": list("456"),
        "over 63 words": list("789"),
        "trimmed articles": list("789"),
        "whole articles": list("123456"),
    }


def test_every_system_stands_beside_the_reference_on_the_same_articles(
    errors: pd.DataFrame,
) -> None:
    table = error_rates.group_rates(errors).set_index(["group", "kind", "system"])
    row = table.loc[("trimmed articles", "unsupported_names", "best")]
    assert (row["n"], row["rate"], row["reference"]) == (3, 100, 33.33)
    row = table.loc[("whole articles", "unsupported_names", "best")]
    assert (row["n"], row["rate"], row["reference"]) == (6, 0, 0)
    assert ((table["low"] <= table["rate"]) & (table["rate"] <= table["high"])).all()


def test_articles_of_one_length_make_one_group(errors: pd.DataFrame) -> None:
    same = errors.assign(article_words=50, trimmed_tokens=0)
    names = [name for name, _ in error_rates.article_groups(same)]
    assert names == ["all articles", "articles of up to 50 words"]


@pytest.mark.parametrize(("count", "n"), [(0, 10), (3, 10), (10, 10), (17, 250)])
def test_the_interval_of_a_rate_is_where_the_score_test_would_not_reject(
    count: int, n: int
) -> None:
    rate = count / n
    low, high = (end / 100 for end in error_rates.wilson_interval(100 * rate, n))
    for end, reached in ((low, count == 0), (high, count == n)):
        if reached:
            assert end == pytest.approx(rate)
        else:
            assert abs(rate - end) == pytest.approx(1.96 * (end * (1 - end) / n) ** 0.5, rel=1e-3)
    assert 0 <= low < high <= 1
