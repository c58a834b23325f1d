"""Style, lay out and save figures; draw their bars.

Every figure says what it is, on which data, with units and n. A system has one colour throughout,
from a palette that colour-blind readers can tell apart, and its name beside the mark as well.
Grounds are transparent and the ink is mid-grey, so that a figure can be read on light and dark.
A value that was not measured is written as such, never drawn as zero.
"""

from __future__ import annotations

import io
import itertools
import math
import re
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
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
    "grid.color": INK,
    "grid.alpha": 0.2,
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
    """Return a colour by system: the study's own are fixed, others take the rest in their order."""
    rest = itertools.cycle(RIVALS)
    return {name: COLOURS.get(name) or next(rest) for name in systems}


def save(figure: Figure, stem: Path) -> str:
    """Write `stem`.svg and `stem`.png and return the SVG; a figure always gives the same bytes."""
    svg = io.StringIO()
    metadata: dict[str, Any] = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    metadata["Title"] = figure.get_suptitle()
    with matplotlib.rc_context(STYLE | {"svg.hashsalt": stem.name}):
        figure.savefig(svg, format="svg", metadata=metadata)
        figure.savefig(stem.with_suffix(".png"), dpi=160, metadata={"Software": None})
    themed = _themed(svg.getvalue())
    stem.with_suffix(".svg").write_text(themed, encoding="utf-8")
    return themed


def _themed(svg: str) -> str:
    """Make the ink follow the page, and drop ids that two figures on a page would share."""
    svg = svg.replace(INK, "currentColor").replace("<svg ", f'<svg color="{INK}" ', 1)
    svg = re.sub(r"<!DOCTYPE.*?>\s*", "", svg, flags=re.DOTALL)
    return re.sub(r'<g id="[^"]*"', "<g", svg)


def new_figure(
    title: str, note: str, *, rows: int = 1, columns: int = 1, height: float = 3.4
) -> tuple[Figure, list[Axes]]:
    """Return a figure `height` inches high: title, rows x columns panels, note in small print."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
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
    whiskers: pd.DataFrame | None = None,
    digits: int = 1,
    top: float | None = None,
) -> None:
    """Draw horizontal bars from 0, the first on top, each with its number.

    Args:
        axis: The panel, which gets the title.
        names: What each bar is of.
        values: Their lengths; one that is not finite is written as not measured.
        title: The panel's title.
        colours: Those of the bars; without them, those of the systems `names`.
        whiskers: Columns of lower and upper ends of intervals, a row a bar.
        digits: Decimal places of the numbers.
        top: The largest value to make room for, if not that of the bars.
    """
    names, values = list(names), [float(value) for value in values]
    colours = colours or list(colours_of(names).values())
    ends = np.full((len(names), 2), np.nan) if whiskers is None else whiskers.to_numpy(float)
    top = top or float(np.nanmax([0.0, *values, *ends[:, 1]])) or 1.0
    for place, (value, colour) in enumerate(zip(values, colours, strict=True)):
        if not math.isfinite(value):
            axis.text(0.02 * top, place, "not measured", va="center", fontsize=7)
            continue
        axis.barh(place, value, height=0.7, color=colour)
        end = value
        if not np.isnan(ends[place]).any():
            low, end = ends[place]
            axis.plot([low, end], [place, place], color=INK, linewidth=1.5)
        axis.text(end + 0.02 * top, place, f"{value:,.{digits}f}", va="center", fontsize=7)
    axis.set(title=title, xlim=(0, top * 1.25), ylim=(len(names) - 0.4, -0.6))
    axis.set_yticks(range(len(names)), names)
    axis.tick_params(labelsize=8)


def note_if_empty(axis: Axes, rows: Sequence[Any] | pd.DataFrame | pd.Series, text: str) -> None:
    """Write `text` into a panel that has no rows to draw."""
    if not len(rows):
        axis.text(0.5, 0.5, text, transform=axis.transAxes, ha="center")


def legend(axis: Axes) -> None:
    """Name the lines above the panel, if any has a label."""
    if axis.get_legend_handles_labels()[0]:
        axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=4)
