"""Differences between systems: against brute force, worked examples, and what has to hold."""

from __future__ import annotations

import itertools
import math
import statistics

import numpy as np
import pytest

from nutgraf.core.errors import UserError
from nutgraf.evaluation import bootstrap, significance
from nutgraf.evaluation.significance import (
    Difference,
    articles_needed,
    check_resamples,
    difference_table,
    holm_correction,
    paired_difference,
    verdict,
)


def every_resample(sample: np.ndarray) -> np.ndarray:
    """The means of all n^n samples with replacement."""
    return np.array([np.mean(drawn) for drawn in itertools.product(sample, repeat=len(sample))])


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_paired_agrees_with_all_resamples_of_a_small_sample(seed):
    a, b = np.random.default_rng(seed).normal(0.5, 1, (2, 6))
    means = every_resample(a - b)
    difference = paired_difference(a, b, resamples=40_000, seed=7)
    assert (difference.n, difference.mean) == (6, pytest.approx(np.mean(a - b)))
    assert difference.sd == pytest.approx(statistics.stdev(a - b))
    assert (difference.low, difference.high) == pytest.approx(
        np.percentile(means, [2.5, 97.5]), abs=0.06
    )
    exact = 2 * min((means <= 0).mean(), (means >= 0).mean())
    assert difference.p == pytest.approx(max(exact, 2**-5), abs=0.01)


def test_paired_sees_what_two_intervals_hide():
    rng = np.random.default_rng(0)
    hard = rng.normal(36, 12, 200)  # how hard the articles are
    a, b = hard + 1 + rng.normal(0, 2, 200), hard + rng.normal(0, 2, 200)
    difference = paired_difference(a, b, 2000, seed=1)
    assert 0 < difference.low < difference.mean < difference.high
    assert difference.p < 0.01
    assert bootstrap.bootstrap(a, 2000, 1).low < bootstrap.bootstrap(b, 2000, 1).high
    back = paired_difference(b, a, 2000, seed=1)
    assert (back.mean, back.low, back.p) == pytest.approx(
        (-difference.mean, -difference.high, difference.p)
    )


def test_false_alarms_are_as_rare_as_promised():
    rng = np.random.default_rng(0)
    ps = [paired_difference(*rng.normal(size=(2, 50)), 400, seed=1).p for _ in range(200)]
    assert 0.01 < np.mean(np.array(ps) < 0.05) < 0.1


def test_equal_scores_are_never_significant():
    difference = paired_difference(np.arange(20.0), np.arange(20.0), 100, seed=1)
    assert difference.p == 1
    assert articles_needed(difference) is None
    assert verdict(difference, 1.0) == "no significant difference at n = 20"


def test_few_articles_prove_little_even_where_they_agree():
    for n in range(1, 6):
        few = paired_difference([5.0] * n, [1.0] * n, 10_000, seed=1)
        assert few.p == 2 ** (1 - n)
        assert math.isnan(few.low)
        assert math.isnan(few.high)
    assert paired_difference([5.0] * 6, [1.0] * 6, 500, seed=1).low == 4
    assert (
        verdict(paired_difference([5.0], [1.0], 10_000, seed=1), 1.0)
        == "no significant difference at n = 1"
    )


def test_values_have_to_be_pairs():
    with pytest.raises(ValueError, match="not pairs"):
        paired_difference([1.0], [1.0, 2.0], 10, seed=1)
    with pytest.raises(ValueError, match="one finite number an article"):
        paired_difference([1.0, math.nan], [1.0, 2.0], 10, seed=1)


def test_holm_by_hand():
    # Smallest to largest: 0.005 x 4, 0.01 x 3, 0.03 x 2, and 0.04 x 1 raised to the one before.
    assert holm_correction([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm_correction([0.5, 0.4]) == pytest.approx([0.8, 0.8])
    assert holm_correction([0.9, 0.6]) == [1, 1]
    assert holm_correction([0.03]) == [0.03]
    assert holm_correction([]) == []


def test_holm_keeps_order_and_stays_between_none_and_bonferroni():
    p = np.random.default_rng(3).uniform(0, 1, 30)
    corrected = np.array(holm_correction(list(p)))
    assert (np.diff(corrected[np.argsort(p)]) >= 0).all()
    assert (corrected >= p).all()
    assert (corrected <= np.minimum(1, 30 * p)).all()


def test_so_many_articles_do_show_the_difference_four_times_in_five():
    rng = np.random.default_rng(11)
    needed = articles_needed(Difference(50, mean=1.0, low=0, high=0, sd=4.0, p=0.1))
    assert needed == math.ceil((1.959964 + 0.841621) ** 2 * 16)
    shown = [
        paired_difference(rng.normal(1, 4, needed), np.zeros(needed), 1000, seed=1).p < 0.05
        for _ in range(200)
    ]
    assert 0.7 < np.mean(shown) < 0.9


def test_more_comparisons_need_more_articles():
    difference = Difference(50, mean=1.0, low=0, high=0, sd=4.0, p=0.1)
    # The normal quantile of 1 - 0.05 / 18, in place of that of 1 - 0.05 / 2.
    assert articles_needed(difference, comparisons=9) == math.ceil((2.772943 + 0.841621) ** 2 * 16)
    assert "about 210 articles" in verdict(difference, 0.9, comparisons=9)
    assert "about 130 articles" in verdict(difference, 0.9)


def test_more_articles_are_needed_than_did_not_show_it():
    rng = np.random.default_rng(5)
    asked = 0
    for n in [4, 8, 20, 100] * 60:
        difference = paired_difference(rng.gamma(1, 1, n), rng.gamma(0.9, 1, n), 500, seed=1)
        p_holm = holm_correction([difference.p, 0.001, 0.6])[0]
        if p_holm >= 0.05:
            asked += 1
            assert articles_needed(difference, comparisons=3) > n
    assert asked > 100


def test_the_verdict_in_words():
    def said(mean: float, p: float) -> str:
        return verdict(Difference(200, mean, mean - 1, mean + 1, sd=13.6, p=p), p)

    assert said(3.0, 0.049) == "better"
    assert said(-3.0, 0.0002) == "worse"
    for mean in (1.0, -1.0):
        assert said(mean, 0.05) == (
            "no significant difference at n = 200; "
            "about 1,500 articles would show a difference of this size"
        )
    assert "; over 1,000,000 articles" in said(1e-17, 0.9)


@pytest.fixture
def scores() -> dict[str, list[dict]]:
    rng = np.random.default_rng(2)
    hard = rng.normal(30, 10, 150)
    ahead = {"lead3": 4.0, "zero_shot": -5.0, "baseline": 0.1, "best": 0.0}
    return {
        system: [
            {"id": f"test-{i}", **dict.fromkeys(significance.METRICS, score)}
            for i, score in enumerate(hard + gap + rng.normal(0, 3, 150))
        ]
        for system, gap in ahead.items()
    }


PAIRS = [("best", other) for other in ("lead3", "zero_shot", "baseline")]


def test_the_table_holds_best_against_every_other_system(scores):
    rows = difference_table(scores, PAIRS, 1000, seed=1)
    assert [(row["other"], row["metric"]) for row in rows] == [
        (other, metric)
        for other in ("lead3", "zero_shot", "baseline")
        for metric in ("rouge1", "rouge2", "rougeLsum")
    ]
    assert {row["system"] for row in rows} == {"best"}
    said = {row["other"]: row["verdict"] for row in rows}
    assert (said["lead3"], said["zero_shot"]) == ("worse", "better")
    assert said["baseline"].startswith("no significant difference at n = 150; about ")
    assert [row["p_holm"] for row in rows] == pytest.approx(
        holm_correction([r["p"] for r in rows]), abs=1e-4
    )
    for row in rows:
        means = [np.mean([s[row["metric"]] for s in scores[x]]) for x in ("best", row["other"])]
        assert row["difference"] == pytest.approx(means[0] - means[1], abs=1e-3)
        assert row["low"] < row["difference"] < row["high"]


def test_what_would_be_significant_alone_is_not_among_many(scores):
    behind = 2.4 / math.sqrt(150)  # standard errors
    baseline = [
        {"id": row["id"], **{m: row[m] - behind + (-1) ** i for m in significance.METRICS}}
        for i, row in enumerate(scores["best"])
    ]
    same = dict.fromkeys(scores, scores["best"])
    row = next(
        r for r in difference_table({**same, "baseline": baseline}, PAIRS, 2000, 1) if r["p"] < 1
    )
    assert row["other"] == "baseline"
    assert row["p"] < 0.03
    assert row["p_holm"] > 0.05
    assert row["verdict"].startswith("no significant difference at n = 150; about ")


def test_the_table_wants_the_same_articles_and_enough_resamples(scores):
    with pytest.raises(UserError, match=r"score\.resamples is 300: 9 comparisons need at least 36"):
        difference_table(scores, PAIRS, 300, seed=1)
    check_resamples(360, pairs=3)
    with pytest.raises(UserError, match=r"score\.resamples is 359: 9 comparisons need"):
        check_resamples(359, pairs=3)
    with pytest.raises(ValueError, match="lead3 and best were not scored on the same articles"):
        difference_table({**scores, "lead3": scores["lead3"][::-1]}, PAIRS, 400, seed=1)
