"""Fit weights on some articles, and choose among the candidates of others by them."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import pytest
from transformers import PreTrainedTokenizerBase

from nutgraf.config import GenerateConfig, ModelConfig, PromptConfig
from nutgraf.core.errors import UserError
from nutgraf.generation.candidate_features import FEATURES, agreement, features
from nutgraf.generation.choose import choose, rate
from nutgraf.generation.fitted_choice import Measured, expected_gain, fit, held_out_gains
from nutgraf.generation.summarizer import Engine, Summarizer
from nutgraf.modeling.saved_model import SavedModel

WORTH = {"agreement": 0.4, "lead": 0.1, "words": 0.2, "words_squared": -0.1, "unsupported": -3.0}
ARTICLE = (
    "Ann Lee met the council of Garehouse on Monday. It voted for 2,500 new homes. Work begins "
    "next spring. Nobody objected to the plan."
)


def articles(n: int, noise: float, seed: int = 0) -> list[Measured]:
    """Return n articles of 8 candidates whose scores are what WORTH says, and noise."""
    draw = np.random.default_rng(seed)
    rows = []
    for level in draw.normal(30, 10, n):  # articles differ more than their candidates
        x = draw.normal(0, [10, 10, 8, 8, 0.5], (8, 5)) + level
        rows.append(Measured(x, level + x @ list(WORTH.values()) + draw.normal(0, noise, 8)))
    return rows


def test_what_a_feature_is_worth_is_found_whatever_the_articles_are_like() -> None:
    assert tuple(FEATURES) == tuple(WORTH)
    assert fit(articles(500, noise=1.0)) == pytest.approx(WORTH, abs=0.05)
    few = fit(articles(20, noise=1.0))  # the penalty draws them to 0
    assert all(abs(few[name]) < abs(WORTH[name]) * 1.5 for name in WORTH)


def test_a_feature_in_which_candidates_never_differ_is_worth_nothing() -> None:
    rows = articles(50, noise=1.0)
    for row in rows:
        row.features[:, 4] = 2.0
    weights = fit(rows)
    assert weights["unsupported"] == 0.0
    assert all(np.isfinite(list(weights.values())))


def test_gains_are_of_articles_that_the_weights_do_not_know() -> None:
    rows = articles(200, noise=0.0)
    gains = held_out_gains(rows)
    best = [row.scores.max() - row.scores[0] for row in rows]
    assert len(gains["greedy"]) == len(gains["consensus"]) == 200
    assert np.mean(gains["greedy"]) == pytest.approx(np.mean(best), rel=0.02)
    assert 0 < np.mean(gains["consensus"]) < np.mean(gains["greedy"])


def test_what_a_fit_finds_in_noise_is_no_gain_on_other_articles() -> None:
    own, gains = [], []
    for seed in range(60):
        draw = np.random.default_rng(seed)
        rows = [Measured(r.features, draw.normal(0, 5, 8)) for r in articles(20, 0.0, seed)]
        weights = fit(rows)
        own += [r.scores[expected_gain(r.features, weights).argmax()] - r.scores[0] for r in rows]
        gains += held_out_gains(rows)["greedy"]
    error = np.std(gains) / np.sqrt(len(gains))
    assert np.mean(own) > 3 * error
    assert abs(np.mean(gains)) < 3 * error


def test_features_of_candidates() -> None:
    texts = [
        "Ann Lee met the council of Garehouse on Monday. It voted for 2,500 new homes. Work begins "
        "next spring.",
        "The council of Garehouse voted for 5,200 homes.",
        "",
    ]
    rows = features(ARTICLE, texts)
    assert rows.shape == (3, 5)
    columns = dict(zip(FEATURES, rows.T.tolist(), strict=True))
    assert columns["agreement"] == pytest.approx(agreement(texts))
    assert columns["lead"][0] == pytest.approx(100.0)  # it is the first three sentences
    assert 0 < columns["lead"][1] < 60
    assert columns["words"] == [20.0, 9.0, 0.0]  # 2,500 are two
    assert columns["words_squared"] == pytest.approx([4.0, 0.81, 0.0])
    assert columns["unsupported"] == [0.0, 1.0, 0.0]


def test_the_candidate_of_which_most_is_expected_is_chosen_but_no_empty_one() -> None:
    texts = ["The council of Garehouse voted for 5,200 homes.", "", "The council voted for homes."]
    rated = rate(ARTICLE, texts, WORTH)
    values = [row.expected for row in rated]
    assert values == pytest.approx(expected_gain(features(ARTICLE, texts), WORTH).tolist())
    assert sum(v for v in values if v is not None) == pytest.approx(0.0)
    assert choose(rated, "fitted") == 2
    short = dict.fromkeys(WORTH, 0.0) | {"words": -1.0}  # the empty one is the shortest
    assert choose(rate(ARTICLE, texts, short), "fitted") == 2
    assert [row.expected for row in rate(ARTICLE, texts)] == [None] * 3
    with pytest.raises(ValueError, match="rated without weights"):
        choose(rate(ARTICLE, texts), "fitted")


def test_a_choice_by_features_of_another_version_is_refused_in_a_line(tmp_path: Path) -> None:
    model, settings = ModelConfig(), GenerateConfig(candidates=2, choose="fitted")
    own = (None, None, (), {"agreement": 0.3, "mood": 1.0})
    saved = SavedModel(tmp_path, None, model, PromptConfig(), settings, {}, *own)
    with pytest.raises(UserError, match=r"by agreement, mood, and this version .*nutgraf run"):
        Summarizer(cast(Engine, None), cast(PreTrainedTokenizerBase, None), saved)
