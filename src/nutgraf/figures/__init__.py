"""Records -> figures: what a study measured, as pictures that stand alone.

Every figure says what it is, on which data, with units and n. A system has one colour throughout,
from a palette that colour-blind readers can tell apart, and its name beside the mark as well.
Grounds are transparent and the ink is mid-grey, so that a figure can be read on light and dark.
A value that was not measured is written as such, never drawn as zero.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from .canvas import (
    GREEN,
    GREY,
    INK,
    bars,
    canvas,
    colours_of,
    legend,
    save,
    say_if_empty,
    styled,
)
from .parallel import search_settings
from .relative import relative_performance

__all__ = [
    "INK", "Figure", "against_published", "colours_of", "error_rates", "gaps",
    "loss_against_rouge", "loss_perplexity_time", "relative_performance", "rouge_by_system", "save",
    "scores_by_trial", "search_history", "search_settings", "training_curves",
]  # fmt: skip

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
def loss_against_rouge(trials: pd.DataFrame, data: str) -> Figure:
    """Validation loss against ROUGE-Lsum of the trials that have both, which all evaluated ones do.

    `trials`: trial, status, validation_loss, rougeLsum, chosen.
    """
    both = trials.dropna(subset=["validation_loss", "rougeLsum"])
    figure, (axis,) = canvas(
        "Validation loss against ROUGE, by trial",
        f"{len(both)} of {len(trials)} trials have both; validation split, {data}. Numbers: trial; "
        "cross: stopped early or failed; green: chosen.",
    )
    for trial in both.to_dict("records"):
        point = (trial["validation_loss"], trial["rougeLsum"])
        mark = "o" if trial["status"] == "completed" else "x"
        axis.plot(*point, mark, color=_trial_colour(trial))
        axis.annotate(str(trial["trial"]), point, (5, 3), textcoords="offset points")
    say_if_empty(axis, both, "no trial has both")
    axis.margins(0.15)
    axis.set(xlabel="validation loss, nats a token", ylabel="ROUGE-Lsum, 0 to 100")
    return figure


@styled
def scores_by_trial(trials: pd.DataFrame, data: str) -> Figure:
    """Validation loss and ROUGE of every trial that was evaluated; a failed trial is called so.

    `trials`: trial, status, validation_loss, rouge1, rouge2, rougeLsum, chosen.
    """
    figure, axes = canvas(
        "Loss and ROUGE by trial",
        f"{len(trials)} trials; validation split, {data}. Green: chosen.",
        columns=3,
        height=1.4 + 0.27 * len(trials),
        sharey=True,
    )
    names = [
        f"{trial['trial']}" + (f" ({trial['status']})" if trial["status"] != "completed" else "")
        for trial in trials.to_dict("records")
    ]
    colours = [_trial_colour(trial) for trial in trials.to_dict("records")]
    bars(axes[0], names, trials["validation_loss"], "loss, nats a token", colours=colours, digits=3)
    bars(axes[1], names, trials["rouge1"], "ROUGE-1", colours=colours)
    bars(axes[2], names, trials["rougeLsum"], "ROUGE-Lsum", colours=colours)
    axes[0].set_ylabel("trial")
    return figure


@styled
def training_curves(histories: Mapping[str, pd.DataFrame], data: str) -> Figure:
    """Training loss (thin) and validation loss (dots) against articles seen, by model.

    `histories`: a table a model with examples, train_loss, validation_loss, either empty in a row.
    """
    figure, (axis,) = canvas(
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
    legend(axis)
    return figure


@styled
def search_history(history: pd.DataFrame, trials: pd.DataFrame, data: str) -> Figure:
    """Validation loss of every trial against articles seen; where ASHA stopped one, a cross.

    `history`: trial, examples, validation_loss. `trials`: trial, status, chosen.
    """
    figure, (axis,) = canvas(
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
    say_if_empty(axis, history["validation_loss"].dropna(), "no trial was evaluated")
    axis.margins(x=0.1)
    axis.set(xlabel="articles seen", ylabel="validation loss, nats a token")
    axis.grid(color=INK, alpha=0.2)
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


def _trial_colour(trial: Mapping[Any, Any]) -> str:
    return GREEN if trial["chosen"] else GREY
