"""Draw what a study measured: scores, losses, errors, and gaps to published systems."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from nutgraf.evaluation.published import TEST_ARTICLES, Published
from nutgraf.report.figures import canvas
from nutgraf.report.formatting import ROUGE_NAMES


@canvas.styled
def rouge_by_system(table: pd.DataFrame, data: str) -> Figure:
    """Draw ROUGE of every measured system with its intervals, a panel a variant.

    `table`: a row a system with system, source, n, rouge1, rouge2, rougeL, rougeLsum (0 to 100)
    and, for whiskers, `<variant>_low` and `<variant>_high`. `data` names the articles.
    """
    rows = _measured(table)
    figure, axes = canvas.new_figure(
        "ROUGE by system",
        f"F1, 0 to 100, mean over {_n(rows)} of {data}. Whiskers: 95% intervals.",
        rows=2,
        columns=2,
        height=1.6 + 0.5 * len(rows),
    )
    for axis, (key, name) in zip(axes, ROUGE_NAMES.items(), strict=True):
        canvas.bars(axis, rows["system"], rows[key], name, whiskers=_interval(rows, key))
    return figure


@canvas.styled
def loss_perplexity_time(table: pd.DataFrame, data: str) -> Figure:
    """Draw loss (nats a token), perplexity and training time (seconds) of the models.

    `table`: rows with system, source, n, loss, perplexity, train_seconds; lead-3 has none of them.
    """
    rows = _measured(table)
    rows = rows[rows[["loss", "perplexity", "train_seconds"]].notna().any(axis=1)]
    figure, axes = canvas.new_figure(
        "Loss, perplexity and training time by model",
        f"Loss and perplexity over the summaries' tokens, {data}.",
        columns=3,
        height=1.3 + 0.3 * len(rows),
    )
    names = {"loss": "loss, nats a token", "perplexity": "perplexity", "train_seconds": "seconds"}
    for axis, (key, name) in zip(axes, names.items(), strict=True):
        canvas.bars(
            axis, rows["system"], rows[key], name, digits=0 if key == "train_seconds" else 2
        )
    return figure


@canvas.styled
def against_published(table: pd.DataFrame, data: str, note: str) -> Figure:
    """Draw ROUGE of measured (filled) and published systems (hollow), best ROUGE-Lsum on top.

    `table`: rows of both sources. `note` says whether the two can be compared.
    """
    rows = table.sort_values("rougeLsum", na_position="first", kind="stable")
    measured = rows["source"] == "measured"
    figure, axes = canvas.new_figure(
        "ROUGE beside published systems",
        f"F1, 0 to 100. Filled: measured here, {_n(_measured(table))} of {data}. "
        f"Hollow: published, CNN/DailyMail test, {_n(rows[~measured])}. {note}",
        columns=3,
        height=1.5 + 0.27 * len(rows),
    )
    colours = canvas.colours_of(_measured(table)["system"])
    labels = rows["system"].where(measured, rows["system"] + " (published)")
    top = max(60.0, float(rows[["rouge1", "rouge2", "rougeLsum"]].max().max()))
    for axis, key in zip(axes, ("rouge1", "rouge2", "rougeLsum"), strict=True):
        for place, (system, score, filled) in enumerate(
            zip(rows["system"], rows[key], measured, strict=True)
        ):
            if not math.isnan(score):
                colour = colours[system] if filled else canvas.INK
                axis.plot(score, place, "o", color=colour, mfc=colour if filled else "none")
                text: Any = {"xytext": (7, 0), "textcoords": "offset points", "va": "center"}
                axis.annotate(f"{score:.1f}", (score, place), fontsize=7, **text)
        axis.set(title=ROUGE_NAMES[key], xlim=(0, top * 1.25), ylim=(-0.6, len(rows) - 0.4))
        axis.set_yticks(range(len(rows)), labels)
        axis.grid(axis="x")
    return figure


@canvas.styled
def gaps(table: pd.DataFrame, data: str, note: str) -> Figure:
    """Draw ROUGE-Lsum of each model less that of lead-3 and of published systems.

    `table`: rows of both sources, with rougeLsum. `note` says whether the two can be compared.
    """
    models = _measured(table)
    lead = models[models["system"] == "lead3"].assign(system="lead3 (measured here)")
    models = models[models["system"] != "lead3"].dropna(subset="rougeLsum")
    published = table[table["source"] == "published"].sort_values("rougeLsum")
    others = pd.concat([lead, published.assign(system=published["system"] + " (published)")])
    others = others.dropna(subset="rougeLsum")
    figure, (axis,) = canvas.new_figure(
        "Gap to lead-3 and to published systems",
        f"ROUGE-Lsum points; right of the line is better. Measured: {_n(models)} of {data}; "
        f"published: CNN/DailyMail test. {note}",
        height=1.8 + 0.3 * len(others),
    )
    colours = canvas.colours_of(models["system"])
    for system, score in zip(models["system"], models["rougeLsum"], strict=True):
        colour = colours[system]
        axis.plot(score - others["rougeLsum"], range(len(others)), "o", color=colour, label=system)
    axis.axvline(0, color=canvas.INK, linewidth=1)
    canvas.note_if_empty(axis, others, "nothing to compare with")
    axis.set(xlabel="ROUGE-Lsum points", ylim=(-0.5, max(1, len(others)) - 0.5))
    axis.set_yticks(range(len(others)), others["system"])
    axis.grid(axis="x")
    canvas.legend(axis)
    return figure


@canvas.styled
def relative_performance(table: pd.DataFrame, data: str, published: Published | str) -> Figure:
    """Draw ROUGE-Lsum of measured systems in percent of lead-3's and of a published system's.

    `table`: rows of measured systems with system, source, n, rougeLsum, rougeLsum_low and
    rougeLsum_high. `published`: why it is not given if it does not compare with ours.
    """
    rows = _measured(table)
    lead3 = rows.loc[rows["system"] == "lead3", "rougeLsum"]
    panels = [("lead-3, same articles", lead3.max(), "not measured")]
    if isinstance(published, Published):
        panels.append((f"{published.system}, published", published.rougeLsum, ""))
    else:
        panels.append(("a published system", math.nan, f"not given:\n{published}"))
    figure, axes = canvas.new_figure(
        "ROUGE-Lsum relative to others",
        f"Percent; mean over {_n(rows)} of {data}. Whiskers: the system's own 95% interval "
        f"as a share. Published: CNN/DailyMail test, n = {TEST_ARTICLES:,}."
        + (f" No share of it is given: {published}." if isinstance(published, str) else ""),
        columns=2,
        height=1.6 + 0.3 * len(rows),
    )
    for axis, (other, score, missing) in zip(axes, panels, strict=True):
        if math.isnan(score):
            axis.set_title(f"% of {other}")
            axis.tick_params(bottom=False, labelbottom=False)
            canvas.note_if_empty(axis, [], missing)
            continue
        share = 100 / score
        percent, whiskers = share * rows["rougeLsum"], share * _interval(rows, "rougeLsum")
        canvas.bars(axis, rows["system"], percent, f"% of {other}", whiskers=whiskers)
        axis.axvline(100, color=canvas.INK, linewidth=1, linestyle=":")
    return figure


@canvas.styled
def error_rates(rates: pd.DataFrame, n: int, data: str) -> Figure:
    """Draw the share of summaries with an error, by kind, beside the references' own rate.

    `rates`: a row a kind of error, a column a system (`reference` among them), in percent.
    """
    figure, axes = canvas.new_figure(
        "Errors by kind and system",
        f"Percent of {n:,} summaries with at least one; test split, {data}. Indicators found in "
        "the texts alone, not verdicts: the references (pink) are flagged too.",
        rows=math.ceil(len(rates) / 2),
        columns=2,
        height=1.2 + math.ceil(len(rates) / 2) * (0.4 + 0.22 * len(rates.columns)),
    )
    for axis, (kind, row) in zip(axes, rates.iterrows(), strict=False):
        canvas.bars(axis, row.index, row, str(kind).replace("_", " "), top=100)
        axis.set_xticks([0, 50, 100])
    for axis in axes[len(rates) :]:
        axis.remove()
    return figure


def _interval(rows: pd.DataFrame, key: str) -> pd.DataFrame:
    return rows.reindex(columns=[f"{key}_low", f"{key}_high"])  # NaN if it was not measured


def _measured(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["source"] == "measured"]


def _n(rows: pd.DataFrame) -> str:
    counts = sorted({int(n) for n in rows["n"].dropna()})
    ends = dict.fromkeys(counts[:1] + counts[-1:])
    return f"n = {' to '.join(f'{n:,}' for n in ends)} articles" if counts else "no articles"
