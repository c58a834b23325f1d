"""Records -> figures: what a study measured, as pictures that stand alone.

Every figure says what it is, on which data, with units and n. A system has one colour throughout,
from a palette that colour-blind readers can tell apart, and its name beside the mark as well.
Grounds are transparent and the ink is mid-grey, so that a figure can be read on light and dark.
A value that was not measured is written as such, never drawn as zero.
"""

from __future__ import annotations

import io
import math
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
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
VARIANTS = {
    "rouge1": "ROUGE-1",
    "rouge2": "ROUGE-2",
    "rougeL": "ROUGE-L",
    "rougeLsum": "ROUGE-Lsum",
}
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
_styled = matplotlib.rc_context(STYLE)


@_styled
def rouge_by_system(table: pd.DataFrame, data: str) -> Figure:
    """ROUGE of every measured system, a panel a variant, with intervals where they are given.

    `table`: a row a system with system, source, n, rouge1, rouge2, rougeL, rougeLsum (0 to 100)
    and, for whiskers, `<variant>_low` and `<variant>_high`. `data` names the articles.
    """
    rows = _measured(table)
    with_intervals = [name for key, name in VARIANTS.items() if f"{key}_low" in rows]
    figure, axes = _canvas(
        "ROUGE by system",
        f"F1, 0 to 100, mean over {_n(rows)} of {data}. "
        f"Whiskers: 95% interval ({', '.join(with_intervals) or 'none measured'}).",
        rows=2,
        columns=2,
        height=1.6 + 0.5 * len(rows),
        sharey=True,
    )
    for axis, (key, name) in zip(axes, VARIANTS.items(), strict=True):
        whiskers = _whiskers(rows, key)
        _bars(axis, rows["system"], rows[key], name, whiskers=whiskers)
    return figure


@_styled
def loss_perplexity_time(table: pd.DataFrame, data: str) -> Figure:
    """Loss (nats a token), perplexity and training time (seconds) of the systems that are models.

    `table`: rows with system, source, n, loss, perplexity, train_seconds; lead-3 has none of them.
    """
    rows = _measured(table)
    rows = rows[rows[["loss", "perplexity", "train_seconds"]].notna().any(axis=1)]
    figure, axes = _canvas(
        "Loss, perplexity and training time by model",
        f"Loss and perplexity over the summaries' tokens, {data}.",
        columns=3,
        height=1.3 + 0.3 * len(rows),
        sharey=True,
    )
    names = {"loss": "loss, nats a token", "perplexity": "perplexity", "train_seconds": "seconds"}
    for axis, (key, name) in zip(axes, names.items(), strict=True):
        _bars(axis, rows["system"], rows[key], name, digits=0 if key == "train_seconds" else 2)
    return figure


@_styled
def against_published(table: pd.DataFrame, data: str, note: str) -> Figure:
    """ROUGE of measured systems (filled) and of published ones (hollow), best ROUGE-Lsum on top.

    `table`: rows of both sources. `note` says whether the two can be compared.
    """
    rows = table.sort_values("rougeLsum", na_position="first", kind="stable")
    measured = rows["source"] == "measured"
    figure, axes = _canvas(
        "ROUGE beside published systems",
        f"F1, 0 to 100. Filled: measured here, {_n(_measured(table))} of {data}. "
        f"Hollow: published, CNN/DailyMail test, {_n(rows[~measured])}. {note}",
        columns=3,
        height=1.5 + 0.27 * len(rows),
        sharey=True,
    )
    colours = colours_of(_measured(table)["system"])
    labels = rows["system"].where(measured, rows["system"] + " (published)")
    top = max(60.0, float(rows[["rouge1", "rouge2", "rougeLsum"]].max().max()))
    for axis, key in zip(axes, ("rouge1", "rouge2", "rougeLsum"), strict=True):
        for place, (value, name, here) in enumerate(
            zip(rows[key], rows["system"], measured, strict=True)
        ):
            if not math.isnan(value):
                colour = colours[name] if here else INK
                axis.plot(value, place, "o", color=colour, mfc=colour if here else "none")
                text: Any = {"xytext": (7, 0), "textcoords": "offset points", "va": "center"}
                axis.annotate(f"{value:.1f}", (value, place), fontsize=7, **text)
        axis.set(title=VARIANTS[key], xlim=(0, top * 1.25), ylim=(-0.6, len(rows) - 0.4))
        axis.set_yticks(range(len(rows)), labels)
        axis.grid(axis="x", color=INK, alpha=0.2)
    return figure


@_styled
def gaps(table: pd.DataFrame, data: str, note: str) -> Figure:
    """ROUGE-Lsum of each model less that of lead-3 (same articles) and of published systems.

    `table`: rows of both sources, with rougeLsum. `note` says whether the two can be compared.
    """
    models = _measured(table)
    lead = models[models["system"] == "lead3"].assign(system="lead3 (measured here)")
    models = models[models["system"] != "lead3"].dropna(subset="rougeLsum")
    published = table[table["source"] == "published"].sort_values("rougeLsum")
    others = pd.concat([lead, published.assign(system=published["system"] + " (published)")])
    others = others.dropna(subset="rougeLsum")
    figure, (axis,) = _canvas(
        "Gap to lead-3 and to published systems",
        f"ROUGE-Lsum points; right of the line is better. Measured: {_n(models)} of {data}; "
        f"published: CNN/DailyMail test. {note}",
        height=1.8 + 0.3 * len(others),
    )
    for system, colour in colours_of(models["system"]).items():
        score = float(models.loc[models["system"] == system, "rougeLsum"].iloc[0])
        axis.plot(score - others["rougeLsum"], range(len(others)), "o", color=colour, label=system)
    axis.axvline(0, color=INK, linewidth=1)
    axis.set(xlabel="ROUGE-Lsum points", ylim=(-0.5, len(others) - 0.5))
    axis.set_yticks(range(len(others)), others["system"])
    axis.grid(axis="x", color=INK, alpha=0.2)
    _legend(axis)
    return figure


@_styled
def loss_against_rouge(trials: pd.DataFrame, data: str) -> Figure:
    """Validation loss against ROUGE-Lsum of the trials that have both.

    `trials`: trial, status, validation_loss, rougeLsum, chosen.
    """
    both = trials.dropna(subset=["validation_loss", "rougeLsum"])
    figure, (axis,) = _canvas(
        "Validation loss against ROUGE, by trial",
        f"{len(both)} of {len(trials)} trials have both (ROUGE is measured for finalists only); "
        f"validation split, {data}. Numbers: trial; green: chosen.",
    )
    for trial in both.to_dict("records"):
        point = (trial["validation_loss"], trial["rougeLsum"])
        axis.plot(*point, "o", color=_trial_colour(trial))
        axis.annotate(str(trial["trial"]), point, (5, 3), textcoords="offset points")
    _say_if_empty(axis, both, "no trial has both")
    axis.margins(0.15)
    axis.set(xlabel="validation loss, nats a token", ylabel="ROUGE-Lsum, 0 to 100")
    return figure


@_styled
def scores_by_trial(trials: pd.DataFrame, data: str) -> Figure:
    """Validation loss of every trial and ROUGE of the finalists; a failed trial is called so.

    `trials`: trial, status, validation_loss, rouge1, rouge2, rougeLsum, chosen.
    """
    figure, axes = _canvas(
        "Loss and ROUGE by trial",
        f"{len(trials)} trials; validation split, {data}. ROUGE for finalists only. Green: chosen.",
        columns=3,
        height=1.4 + 0.27 * len(trials),
        sharey=True,
    )
    names = [
        f"{trial['trial']}" + (f" ({trial['status']})" if trial["status"] != "completed" else "")
        for trial in trials.to_dict("records")
    ]
    colours = [_trial_colour(trial) for trial in trials.to_dict("records")]
    _bars(
        axes[0], names, trials["validation_loss"], "loss, nats a token", colours=colours, digits=3
    )
    _bars(axes[1], names, trials["rouge1"], "ROUGE-1", colours=colours)
    _bars(axes[2], names, trials["rougeLsum"], "ROUGE-Lsum", colours=colours)
    axes[0].set_ylabel("trial")
    return figure


@_styled
def training_curves(histories: Mapping[str, pd.DataFrame], data: str) -> Figure:
    """Training loss (thin) and validation loss (dots) against articles seen, by model.

    `histories`: a table a model with examples, train_loss, validation_loss, either empty in a row.
    """
    figure, (axis,) = _canvas(
        "Training curves",
        f"Loss over summary tokens, {data}. Thin: training batches; dots: validation rows.",
    )
    for system, colour in colours_of(histories).items():
        history = histories[system]
        train = history.dropna(subset="train_loss")
        validation = history.dropna(subset="validation_loss")
        axis.plot(train["examples"], train["train_loss"], color=colour, linewidth=0.8, alpha=0.6)
        axis.plot(
            validation["examples"], validation["validation_loss"], "o-", color=colour, label=system
        )
    axis.set(xlabel="articles seen", ylabel="loss, nats a token")
    axis.grid(color=INK, alpha=0.2)
    _legend(axis)
    return figure


@_styled
def search_history(history: pd.DataFrame, trials: pd.DataFrame, data: str) -> Figure:
    """Validation loss of every trial against articles seen; where ASHA stopped one, a cross.

    `history`: trial, examples, validation_loss. `trials`: trial, status, chosen.
    """
    figure, (axis,) = _canvas(
        "The search: validation loss as trials learn",
        f"{len(trials)} trials; validation split, {data}. Numbers: trial; cross: stopped early or "
        "failed; green: chosen.",
    )
    for trial in trials.to_dict("records"):
        curve = history[history["trial"] == trial["trial"]].dropna(subset="validation_loss")
        if curve.empty:
            continue
        colour = _trial_colour(trial)
        axis.plot(curve["examples"], curve["validation_loss"], "o-", color=colour, markersize=4)
        last = (curve["examples"].iloc[-1], curve["validation_loss"].iloc[-1])
        if trial["status"] != "completed":
            axis.plot(*last, "x", color=colour, markersize=9)
        axis.annotate(str(trial["trial"]), last, (7, -3), textcoords="offset points", color=colour)
    _say_if_empty(axis, history["validation_loss"].dropna(), "no trial was evaluated")
    axis.margins(x=0.1)
    axis.set(xlabel="articles seen", ylabel="validation loss, nats a token")
    axis.grid(color=INK, alpha=0.2)
    return figure


@_styled
def error_rates(rates: pd.DataFrame, n: int, data: str) -> Figure:
    """Share of summaries with at least one error of a kind, beside the references' own rate.

    `rates`: a row a kind of error, a column a system (`reference` among them), in percent.
    """
    figure, axes = _canvas(
        "Errors by kind and system",
        f"Percent of {n:,} summaries with at least one; test split, {data}. Indicators found in "
        "the texts alone, not verdicts: the references (pink) are flagged too.",
        rows=math.ceil(len(rates) / 2),
        columns=2,
        height=1.2 + math.ceil(len(rates) / 2) * (0.4 + 0.22 * len(rates.columns)),
        sharey=True,
    )
    for axis, (kind, row) in zip(axes, rates.iterrows(), strict=False):
        _bars(axis, row.index, row, str(kind).replace("_", " "), top=100)
        axis.set_xticks([0, 50, 100])
    for axis in axes[len(rates) :]:
        axis.remove()
    return figure


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


def _canvas(
    title: str, note: str, *, rows: int = 1, columns: int = 1, height: float = 3.4, **axes: Any
) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, **axes)
    figure.suptitle(title, x=0.01, ha="left", weight="bold")
    figure.supxlabel(textwrap.fill(note, 78), x=0.01, ha="left", fontsize=7.5)
    panels = list(grid.flat)
    for axis in panels:
        sns.despine(ax=axis)
    return figure, panels


def _bars(
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


def _whiskers(rows: pd.DataFrame, key: str) -> list[tuple[float, float]] | None:
    if f"{key}_low" not in rows:
        return None
    low, high = rows[f"{key}_low"].astype(float), rows[f"{key}_high"].astype(float)
    return list(zip(low, high, strict=True))


def _measured(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["source"] == "measured"]


def _n(rows: pd.DataFrame) -> str:
    counts = sorted({int(n) for n in rows["n"].dropna()})
    ends = dict.fromkeys(counts[:1] + counts[-1:])
    return f"n = {' to '.join(f'{n:,}' for n in ends)} articles" if counts else "no articles"


def _trial_colour(trial: Mapping[Any, Any]) -> str:
    return GREEN if trial["chosen"] else GREY


def _say_if_empty(axis: Axes, rows: Sequence[Any] | pd.DataFrame | pd.Series, text: str) -> None:
    if not len(rows):
        axis.text(0.5, 0.5, text, transform=axis.transAxes, ha="center")


def _legend(axis: Axes) -> None:
    if axis.get_legend_handles_labels()[0]:
        axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=4)
