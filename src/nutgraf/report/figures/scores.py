"""Records -> figures: what a study measured, as pictures that stand alone.

Every figure says what it is, on which data, with units and n. A system has one colour throughout,
from a palette that colour-blind readers can tell apart, and its name beside the mark as well.
Grounds are transparent and the ink is mid-grey, so that a figure can be read on light and dark.
A value that was not measured is written as such, never drawn as zero.
"""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from nutgraf.report.figures.canvas import (
    INK,
    bars,
    canvas,
    colours_of,
    legend,
    say_if_empty,
    styled,
)

VARIANTS = {
    "rouge1": "ROUGE-1",
    "rouge2": "ROUGE-2",
    "rougeL": "ROUGE-L",
    "rougeLsum": "ROUGE-Lsum",
}


@styled
def rouge_by_system(table: pd.DataFrame, data: str) -> Figure:
    """ROUGE of every measured system, a panel a variant, with intervals where they are given.

    `table`: a row a system with system, source, n, rouge1, rouge2, rougeL, rougeLsum (0 to 100)
    and, for whiskers, `<variant>_low` and `<variant>_high`. `data` names the articles.
    """
    rows = _measured(table)
    with_intervals = [name for key, name in VARIANTS.items() if f"{key}_low" in rows]
    figure, axes = canvas(
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
        bars(axis, rows["system"], rows[key], name, whiskers=whiskers)
    return figure


@styled
def loss_perplexity_time(table: pd.DataFrame, data: str) -> Figure:
    """Loss (nats a token), perplexity and training time (seconds) of the systems that are models.

    `table`: rows with system, source, n, loss, perplexity, train_seconds; lead-3 has none of them.
    """
    rows = _measured(table)
    rows = rows[rows[["loss", "perplexity", "train_seconds"]].notna().any(axis=1)]
    figure, axes = canvas(
        "Loss, perplexity and training time by model",
        f"Loss and perplexity over the summaries' tokens, {data}.",
        columns=3,
        height=1.3 + 0.3 * len(rows),
        sharey=True,
    )
    names = {"loss": "loss, nats a token", "perplexity": "perplexity", "train_seconds": "seconds"}
    for axis, (key, name) in zip(axes, names.items(), strict=True):
        bars(axis, rows["system"], rows[key], name, digits=0 if key == "train_seconds" else 2)
    return figure


@styled
def against_published(table: pd.DataFrame, data: str, note: str) -> Figure:
    """ROUGE of measured systems (filled) and of published ones (hollow), best ROUGE-Lsum on top.

    `table`: rows of both sources. `note` says whether the two can be compared.
    """
    rows = table.sort_values("rougeLsum", na_position="first", kind="stable")
    measured = rows["source"] == "measured"
    figure, axes = canvas(
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


@styled
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
    figure, (axis,) = canvas(
        "Gap to lead-3 and to published systems",
        f"ROUGE-Lsum points; right of the line is better. Measured: {_n(models)} of {data}; "
        f"published: CNN/DailyMail test. {note}",
        height=1.8 + 0.3 * len(others),
    )
    for system, colour in colours_of(models["system"]).items():
        score = float(models.loc[models["system"] == system, "rougeLsum"].iloc[0])
        axis.plot(score - others["rougeLsum"], range(len(others)), "o", color=colour, label=system)
    axis.axvline(0, color=INK, linewidth=1)
    say_if_empty(axis, others, "nothing to compare with")
    axis.set(xlabel="ROUGE-Lsum points", ylim=(-0.5, max(1, len(others)) - 0.5))
    axis.set_yticks(range(len(others)), others["system"])
    axis.grid(axis="x", color=INK, alpha=0.2)
    legend(axis)
    return figure


@styled
def error_rates(rates: pd.DataFrame, n: int, data: str) -> Figure:
    """Share of summaries with at least one error of a kind, beside the references' own rate.

    `rates`: a row a kind of error, a column a system (`reference` among them), in percent.
    """
    figure, axes = canvas(
        "Errors by kind and system",
        f"Percent of {n:,} summaries with at least one; test split, {data}. Indicators found in "
        "the texts alone, not verdicts: the references (pink) are flagged too.",
        rows=math.ceil(len(rates) / 2),
        columns=2,
        height=1.2 + math.ceil(len(rates) / 2) * (0.4 + 0.22 * len(rates.columns)),
        sharey=True,
    )
    for axis, (kind, row) in zip(axes, rates.iterrows(), strict=False):
        bars(axis, row.index, row, str(kind).replace("_", " "), top=100)
        axis.set_xticks([0, 50, 100])
    for axis in axes[len(rates) :]:
        axis.remove()
    return figure


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
