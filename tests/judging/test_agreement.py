"""Krippendorff's alpha of ordered values."""

from __future__ import annotations

import math

import numpy as np
import pytest

from nutgraf.judging.agreement import agreement

X = math.nan
# Four judges and twelve units, of which values are missing: Krippendorff (2011), section C.
PUBLISHED = np.array(
    [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, X, X, X],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, X, 3],
        [X, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, X],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, X],
    ]
)


def test_the_published_example_has_its_published_value() -> None:
    alpha = agreement(PUBLISHED - 1, levels=5)
    assert round(alpha.mean, 3) == 0.815
    assert alpha.low < 0.815 < alpha.high <= 1


def test_full_agreement_is_one_and_chance_near_zero() -> None:
    rng = np.random.default_rng(0)
    one = rng.integers(3, size=300)
    assert agreement(np.stack([one, one]), 3).mean == 1
    chance = agreement(np.stack([one, rng.integers(3, size=300)]), 3)
    assert chance.low < 0 < chance.high
    assert chance.high - chance.low < 0.3


def test_opposites_differ_more_than_neighbours() -> None:
    one = np.tile([0, 1, 2], 20)
    near, far = one.copy(), one.copy()
    near[::6] = 1  # from 0
    far[::6] = 2
    assert agreement(np.stack([one, near]), 3).mean > agreement(np.stack([one, far]), 3).mean


@pytest.mark.parametrize("values", [[[0, X], [X, 2]], [[1, 1], [1, 1]], [[0, 1]]])
def test_without_anything_to_compare_there_is_no_value(values: list[list[float]]) -> None:
    assert math.isnan(agreement(np.array(values), 3).mean)
