"""From how a sentence was read to a probability, and from doubted sentences to wrong ones."""

from __future__ import annotations

import math

import numpy as np
import pytest

from nutgraf.config import ModelConfig
from nutgraf.evaluation import support
from nutgraf.evaluation.support import DOUBTED, NOT_DOUBTED, Reading, SupportJudge, wrong_rate

MODEL = ModelConfig(base=support.CALIBRATED)
ARTICLE = (
    "Anna Berg beat Carl Dunn in Oslo on Monday. She had trained in Bergen for 12 years.\n"
    "The mayor of Bergen, Erik Foss, promised a new hall with 400 seats. Nobody expected it."
)


def test_what_is_copied_and_foreseen_is_supported_and_what_is_neither_is_doubted() -> None:
    judge, copied = SupportJudge(ARTICLE), "She had trained in Bergen for 12 years."
    text = f"{copied} Foss lost a match."
    sure, unsure = Reading(np.zeros(9)), Reading(np.full(5, 99))
    first = judge.check(text, 0, len(copied), sure)
    second = judge.check(text, len(copied) + 1, len(text), unsure)
    assert first["probability"] > 0.95
    assert not first["doubted"]
    assert second["probability"] < 0.05
    assert second["doubted"]
    assert judge.measures(copied, sure) == {"rank": 0.0, "longest": 1.0}


def test_a_sentence_is_judged_by_the_nearest_passages_and_what_stands_before() -> None:
    judge = SupportJudge(ARTICLE)
    before, best = (
        "Anna Berg beat Carl Dunn in Oslo on Monday.",
        "She had trained in Bergen for 12 years.",
    )
    assert judge.passages("She trained for 12 years.") == f"{before} {best}"
    assert judge.passages("Zebras sleep.") == before  # news leads with its point
    nearest = judge.check("She trained for 12 years.", 0, 25, Reading(np.zeros(1)))
    assert [ARTICLE[p["start"] : p["end"]] for p in nearest["passages"]] == [before, best]


def test_a_corrected_rate_is_that_of_rogan_and_gladen() -> None:
    counts = [(1, 3), (0, 2), (2, 3), (0, 4)] * 25
    rate = wrong_rate(counts, MODEL)
    youden = DOUBTED.rate + NOT_DOUBTED.rate - 1
    assert rate.wrong == pytest.approx((0.25 + NOT_DOUBTED.rate - 1) / youden)
    assert rate.low < rate.wrong < rate.high
    fewer = wrong_rate(counts[:20], MODEL)
    assert fewer.high - fewer.low > rate.high - rate.low
    assert wrong_rate([(0, 3)] * 50, MODEL)[:2] == (0, 0)  # cut at 0


def test_the_interval_of_a_corrected_rate_has_the_true_one_19_times_in_20(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng, hits, true = np.random.default_rng(0), 0, 0.3
    for _ in range(400):
        for name, share, n in (("DOUBTED", 0.5, 68), ("NOT_DOUBTED", 0.95, 227)):
            drawn = support.Judged(int(rng.binomial(n, share)), n)
            monkeypatch.setattr(support, name, drawn)
        wrong = rng.binomial(3, true, 150)
        doubted = rng.binomial(wrong, 0.5) + rng.binomial(3 - wrong, 0.05)
        rate = wrong_rate([(int(d), 3) for d in doubted], MODEL)
        hits += rate.low <= true <= rate.high
    assert 0.91 <= hits / 400 <= 0.99


def test_no_rate_is_given_of_another_base_in_4_bits_or_of_one_summary() -> None:
    assert not any(map(math.isnan, wrong_rate([(1, 3)] * 9, MODEL)))
    for n, model in (
        (1, MODEL),
        (9, ModelConfig(base="pocket")),
        (9, ModelConfig(base=support.CALIBRATED, quantization="nf4")),
    ):
        assert all(map(math.isnan, wrong_rate([(1, 3)] * n, model)))
    assert support.worth(MODEL) == (
        "Of 68 sentences that people called wrong it missed 34, of 227 right ones it doubted 9."
    )
