"""Prediction-powered intervals."""

from __future__ import annotations

import numpy as np

from nutgraf.judging.prediction import MIN_CLICKS, Powered, prediction_powered


def estimates(noise: float, count: int = 200) -> list[Powered]:
    """Return those of studies with 60 judged of 600 articles, a mean of 0.5, three features."""
    rng = np.random.default_rng(1)
    powered = []
    for _ in range(count):
        features = rng.normal(size=(600, 3))
        hidden = features[:60, 0] + noise * rng.normal(size=60)
        result = prediction_powered((hidden > 0).astype(float), features[:60], features[60:])
        assert result is not None
        powered.append(result)
    return powered


def test_good_predictions_make_a_click_worth_more_and_keep_the_coverage() -> None:
    powered = estimates(noise=0.5)
    assert np.median([e.worth for e in powered]) > 1.4
    assert np.mean([e.low <= 0.5 <= e.high for e in powered]) >= 0.92
    assert np.mean([e.plain_low <= 0.5 <= e.plain_high for e in powered]) >= 0.92


def test_worthless_predictions_cost_nothing() -> None:
    worth = [e.worth for e in estimates(noise=100)]
    assert np.median(worth) == 1
    assert min(worth) >= 0.97


def test_too_few_clicks_and_features_that_never_differ() -> None:
    scores, same = np.resize([0.0, 1.0, 1.0], MIN_CLICKS), np.ones((MIN_CLICKS, 2))
    assert prediction_powered(scores[:-1], same[:-1], same) is None
    plain = prediction_powered(scores, same, same)
    assert plain is not None
    assert (plain.mean, plain.low, plain.high) == (
        float(scores.mean()), plain.plain_low, plain.plain_high,
    )  # fmt: skip
    everything = prediction_powered(scores, np.arange(MIN_CLICKS)[:, None], np.ones((0, 1)))
    assert everything is not None
    assert everything.worth == 1
    unanimous = prediction_powered(np.ones(MIN_CLICKS), same, same)
    assert unanimous is not None
    assert (unanimous.low, unanimous.high) == (1, 1)
    nearly = prediction_powered(np.append(np.ones(MIN_CLICKS - 1), 0.5), same, same)
    assert nearly is not None
    assert nearly.low < nearly.mean < nearly.high == nearly.plain_high == 1  # it is a share
