"""docs/indicators.md says what errors.py says, and the arithmetic behind its figures is right."""

import importlib.util
import sys

import numpy as np
import pytest
from helpers.places import ROOT

from nutgraf.evaluation import indicators


@pytest.fixture(scope="module")
def ranks():
    spec = importlib.util.spec_from_file_location("bench_ranks", ROOT / "bench" / "ranks.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def test_the_page_explains_every_indicator_in_the_same_words():
    page = (ROOT / "docs" / "indicators.md").read_text(encoding="utf-8")
    for name, meaning in indicators.MEANINGS.items():
        assert f"| `{name}` | {meaning} |" in page, name


def test_rank_correlation_by_hand(ranks):
    y = np.array([[1.0], [2], [2], [3]])
    x = np.array([[1.0, -5, 7], [10, -6, 7], [100, -7, 7], [1000, -8, 7]])
    # Ranks 1, 2.5, 2.5, 4 against 1, 2, 3, 4: covariance 4.5 / 4, deviations of sqrt(4.5 / 4)
    # and sqrt(5 / 4).
    expected = 4.5 / np.sqrt(4.5 * 5)
    assert ranks.spearman(x, y)[:2, 0] == pytest.approx([expected, -expected])
    assert np.isnan(ranks.spearman(x, y)[2, 0])
    assert ranks.ceiling(y[:, 0]) == pytest.approx(expected)


def test_levels_tell_differences_between_systems_from_those_within(ranks):
    rng = np.random.default_rng(0)
    system = np.arange(8.0)[:, None, None]
    y = 3 * system + rng.normal(size=(8, 50, 1))
    between = np.broadcast_to(system, y.shape)
    within = y - y.mean(1, keepdims=True)
    pooled, inside, means = ranks.levels(np.concatenate([between, within], axis=2), y)[:, :, 0]
    assert pooled[0] > 0.9 > 0.4 > pooled[1]
    assert inside[0] == 0  # constant in every system
    assert inside[1] > 0.99
    assert means[0] == pytest.approx(1)


def test_what_is_judged_was_not_learnt_from(ranks):
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(20), 10)
    x, noise = rng.normal(size=(200, 30)), rng.normal(size=200)
    for fit in (ranks.mean_of_ranks(5), ranks.ridge):
        seen = fit(x, noise)(x)
        fresh = ranks.held_out(x, noise, groups, fit)
        assert ranks.spearman(seen[:, None], noise[:, None])[0, 0] > 0.25
        assert abs(ranks.spearman(fresh[:, None], noise[:, None])[0, 0]) < 0.2
        predictions = ranks.held_out(x, x[:, 3] + noise / 2, groups, fit)
        assert ranks.spearman(predictions[:, None], x[:, 3:4])[0, 0] > 0.75
