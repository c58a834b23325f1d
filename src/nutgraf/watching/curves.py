"""Thin out curves to as many points as a chart can show."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TypeAlias

Point: TypeAlias = Sequence[float]  # x and y


def thinned(points: Sequence[Point], limit: int) -> list[Point]:
    """Return at most `limit` (3 or more) of the points, in their order, the two ends among them.

    Largest-triangle-three-buckets (Steinarsson 2013, "Downsampling time series for visual
    representation"): of each bucket stays the point that spans the largest triangle with the one
    before and the mean of the next bucket, so that peaks stay.
    """
    if len(points) <= limit:
        return list(points)
    width = (len(points) - 2) / (limit - 2)
    edges = [1 + int(width * i) for i in range(limit - 1)]
    chosen = [points[0]]
    for start, end in itertools.pairwise(edges):
        after = points[end : 1 + int(end + width)] or points[-1:]
        x, y = (sum(values) / len(after) for values in zip(*after, strict=True))
        (a, b) = chosen[-1]
        chosen.append(
            max(points[start:end], key=lambda p: abs((a - x) * (p[1] - b) - (a - p[0]) * (y - b)))
        )
    return [*chosen, points[-1]]
