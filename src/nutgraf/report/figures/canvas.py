"""What all figures share: the look, the colours, the panels, the bars, the saving."""

from __future__ import annotations

import io
import math
import re
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK = "#7b7f86"
BLUE, ORANGE, GREEN, RED, PINK, BROWN, _, GREY, _, SKY = sns.color_palette("colorblind").as_hex()
COLOURS = {"lead3": GREY, "zero_shot": ORANGE, "baseline": BLUE, "best": GREEN, "reference": PINK}
RIVALS = (RED, SKY, BROWN)
WIDTH = 4.6  # inches: legible on a telephone without zooming
_GROUNDS = ("figure.facecolor", "axes.facecolor", "savefig.facecolor")
_INKED = "axes.edgecolor axes.labelcolor axes.titlecolor text.color xtick.color ytick.color"
STYLE: Any = {
    **dict.fromkeys(_GROUNDS, "none"),
    **dict.fromkeys(_INKED.split(), INK),
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "figure.titlesize": 10,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "svg.fonttype": "none",
    "text.parse_math": False,
}
styled = matplotlib.rc_context(STYLE)


def colours_of(systems: Iterable[str]) -> dict[str, str]:
    """A colour a system: the study's own are fixed, others take the rest in their order."""
    named = list(systems)
    rivals = [name for name in named if name not in COLOURS]
    return {n: COLOURS.get(n) or RIVALS[rivals.index(n) % len(RIVALS)] for n in named}


def save(figure: Figure, stem: Path) -> None:
    """Write `stem`.svg and `stem`.png; the same figure always gives the same bytes."""
    svg = io.StringIO()
    described: dict[str, Any] = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    described["Title"] = figure.get_suptitle()
    with matplotlib.rc_context(STYLE | {"svg.hashsalt": stem.name}):
        figure.savefig(svg, format="svg", metadata=described)
        figure.savefig(stem.with_suffix(".png"), dpi=160, metadata={"Software": None})
    stem.with_suffix(".svg").write_text(_themed(svg.getvalue()), encoding="utf-8")


def _themed(svg: str) -> str:
    """Ink that follows the page around it, and no ids that two figures on a page would share."""
    svg = svg.replace(INK, "currentColor").replace("<svg ", f'<svg color="{INK}" ', 1)
    svg = re.sub(r"<!DOCTYPE.*?>\s*", "", svg, flags=re.DOTALL)
    return re.sub(r'<g id="[^"]*"', "<g", svg)


def canvas(
    title: str, note: str, *, rows: int = 1, columns: int = 1, height: float = 3.4, **axes: Any
) -> tuple[Figure, list[Axes]]:
    """A figure with its title, its note under it, and rows x columns panels; height in inches."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, **axes)
    figure.suptitle(title, x=0.01, ha="left", weight="bold")
    figure.supxlabel(textwrap.fill(note, 78), x=0.01, ha="left", fontsize=7.5)
    panels = list(grid.flat)
    for axis in panels:
        sns.despine(ax=axis)
    return figure, panels


def bars(
    axis: Axes,
    names: Iterable[str],
    values: Iterable[float],
    title: str,
    *,
    colours: Sequence[str] | None = None,
    whiskers: list[tuple[float, float]] | None = None,
    digits: int = 1,
    top: float | None = None,
) -> None:
    """Horizontal bars from 0, the first on top, each with its number."""
    names, values = list(names), [float(value) for value in values]
    colours = colours or list(colours_of(names).values())
    ends = [high for _, high in whiskers] if whiskers else values
    top = top or max((end for end in [*values, *ends] if not math.isnan(end)), default=1.0) or 1.0
    for place, (value, colour) in enumerate(zip(values, colours, strict=True)):
        if not math.isfinite(value):
            axis.text(0.02 * top, place, "not measured", va="center", fontsize=7)
            continue
        axis.barh(place, value, height=0.7, color=colour)
        end = value
        if whiskers and not math.isnan(whiskers[place][0]):
            low, end = whiskers[place]
            axis.plot([low, end], [place, place], color=INK, linewidth=1.5)
        axis.text(end + 0.02 * top, place, f"{value:,.{digits}f}", va="center", fontsize=7)
    axis.set(title=title, xlim=(0, top * 1.25), ylim=(len(names) - 0.4, -0.6))
    axis.set_yticks(range(len(names)), names)
    axis.tick_params(labelsize=8)


def say_if_empty(axis: Axes, rows: Sequence[Any] | pd.DataFrame | pd.Series, text: str) -> None:
    """Put `text` into a panel that has nothing to draw."""
    if not len(rows):
        axis.text(0.5, 0.5, text, transform=axis.transAxes, ha="center")


def legend(axis: Axes) -> None:
    """Name the lines above the panel, where there are any."""
    if axis.get_legend_handles_labels()[0]:
        axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=4)
