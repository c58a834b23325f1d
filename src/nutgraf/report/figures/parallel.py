"""The search as parallel coordinates: every trial's settings and what came of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from nutgraf.report.figures.canvas import GREEN, GREY, INK, canvas, say_if_empty, styled

# A setting whose largest value is this many times its smallest is drawn on a log scale.
_WIDE = 8


@dataclass(frozen=True)
class _Coordinate:
    """One vertical axis: heights from 0 to 1, NaN where there is no value, and labels."""

    name: str
    heights: list[float]
    labels: list[tuple[float, str]]


@styled
def search_settings(trials: pd.DataFrame, searched: Sequence[str], data: str) -> Figure:
    """A line a trial through its value of each searched setting to its validation loss.

    `trials`: trial, status, validation_loss (nats a token), chosen and a column a setting named in
    `searched`. Numbers stand on a linear or log scale, other values on evenly spaced places. A line
    ends before the loss where the trial has none.
    """
    figure, (axis,) = canvas(
        "The search: settings and the loss they led to",
        f"{len(trials)} trials; validation split, {data}. A line a trial, from its settings to its "
        "validation loss (nats a token, lower is better). Green: chosen; dashed: stopped early or "
        "failed.",
        height=3.6,
    )
    columns = [*searched, "validation_loss"]
    coordinates = [_coordinate(name, list(trials[name])) for name in columns]
    for place, coordinate in enumerate(coordinates):
        axis.plot([place, place], [0, 1], color=INK, linewidth=1)
        for height, label in coordinate.labels:
            text: Any = {"xytext": (4, 0), "va": "center"}
            if height in (0, 1):  # beyond the end of the axis, where no line runs
                text = {"xytext": (0, 8 * height - 4), "ha": "center"}
                text["va"] = "bottom" if height else "top"
            axis.annotate(label, (place, height), fontsize=7, textcoords="offset points", **text)
    order = trials["chosen"].astype(bool).to_numpy().argsort(kind="stable")
    for row in order:
        trial = trials.iloc[row]
        axis.plot(
            range(len(columns)),
            [coordinate.heights[row] for coordinate in coordinates],
            color=GREEN if trial["chosen"] else GREY,
            linewidth=2.5 if trial["chosen"] else 1.2,
            linestyle="-" if trial["status"] == "completed" else "--",
        )
    say_if_empty(axis, trials, "no trial")
    axis.set(xlim=(-0.2, len(columns) - 0.6), ylim=(-0.12, 1.12))
    names = [name.rpartition(".")[2].replace("_", "\n") for name in columns]
    axis.set_xticks(range(len(columns)), names, fontsize=8)
    axis.set_yticks([])
    axis.spines[["left", "bottom"]].set_visible(False)
    return figure


def _coordinate(name: str, values: Sequence[Any]) -> _Coordinate:
    numeric = [isinstance(value, int | float) for value in values]
    if all(numeric):
        return _numbers(name, [float(value) for value in values])
    kinds = sorted({str(value) for value in values})
    heights = {kind: (at + 0.5) / len(kinds) for at, kind in enumerate(kinds)}
    labels = [(height, kind[:14]) for kind, height in heights.items()]
    return _Coordinate(name, [heights[str(value)] for value in values], labels)


def _numbers(name: str, values: Sequence[float]) -> _Coordinate:
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return _Coordinate(name, list(values), [])
    low, high = min(finite), max(finite)
    scale = math.log if low > 0 and high / low >= _WIDE else float
    wide = scale(high) - scale(low)

    def height(value: float) -> float:
        if not math.isfinite(value):
            return math.nan
        return (scale(value) - scale(low)) / wide if wide else 0.5

    labels = [(height(value), f"{value:.3g}") for value in sorted({low, high})]
    return _Coordinate(name, [height(value) for value in values], labels)
