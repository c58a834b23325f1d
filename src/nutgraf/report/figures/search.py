"""Draw the search and the trainings: trials, losses, curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from nutgraf.report.figures import canvas

_LOG_SCALE_FROM = 8  # times that a setting's largest value is its smallest


@canvas.styled
def loss_against_rouge(trials: pd.DataFrame, data: str) -> Figure:
    """Draw validation loss against ROUGE-Lsum of the trials that were evaluated.

    `trials`: trial, status, validation_loss, rougeLsum, chosen.
    """
    both = trials.dropna(subset=["validation_loss", "rougeLsum"])
    figure, (axis,) = canvas.new_figure(
        "Validation loss against ROUGE, by trial",
        f"{len(both)} of {len(trials)} trials were evaluated; validation split, {data}. Numbers: "
        "trial; cross: stopped early or failed; green: chosen.",
    )
    for trial in both.sort_values("chosen").to_dict("records"):  # the chosen one on top
        point = (trial["validation_loss"], trial["rougeLsum"])
        mark = "o" if trial["status"] == "completed" else "x"
        axis.plot(*point, mark, color=_trial_colour(trial))
        axis.annotate(str(trial["trial"]), point, (5, 3), textcoords="offset points")
    canvas.note_if_empty(axis, both, "no trial was evaluated")
    axis.margins(0.15)
    axis.set(xlabel="validation loss, nats a token", ylabel="ROUGE-Lsum, 0 to 100")
    return figure


@canvas.styled
def scores_by_trial(trials: pd.DataFrame, data: str) -> Figure:
    """Draw validation loss and ROUGE of every trial, with the status of those not completed.

    `trials`: trial, status, validation_loss, rouge1, rouge2, rougeLsum, chosen.
    """
    figure, axes = canvas.new_figure(
        "Loss and ROUGE by trial",
        f"{len(trials)} trials; validation split, {data}. Green: chosen.",
        columns=3,
        height=1.4 + 0.27 * len(trials),
    )
    numbers, completed = trials["trial"].astype(str), trials["status"] == "completed"
    names = numbers.where(completed, numbers + " (" + trials["status"] + ")")
    colours = [_trial_colour(trial) for trial in trials.to_dict("records")]
    loss = trials["validation_loss"]
    canvas.bars(axes[0], names, loss, "loss, nats a token", colours=colours, digits=3)
    canvas.bars(axes[1], names, trials["rouge1"], "ROUGE-1", colours=colours)
    canvas.bars(axes[2], names, trials["rougeLsum"], "ROUGE-Lsum", colours=colours)
    axes[0].set_ylabel("trial")
    return figure


@canvas.styled
def training_curves(histories: Mapping[str, pd.DataFrame], data: str) -> Figure:
    """Draw training loss (thin) and validation loss (dots) against articles seen, by model.

    `histories`: a table a model with examples, train_loss, validation_loss, either empty in a row.
    """
    figure, (axis,) = canvas.new_figure(
        "Training curves",
        f"Loss over summary tokens, {data}. Thin: training batches; dots: validation rows.",
    )
    for system, colour in canvas.colours_of(histories).items():
        history = histories[system]
        train = history.dropna(subset="train_loss")
        validation = history.dropna(subset="validation_loss")
        axis.plot(train["examples"], train["train_loss"], color=colour, linewidth=0.8, alpha=0.6)
        seen, loss = validation["examples"], validation["validation_loss"]
        axis.plot(seen, loss, "o-", color=colour, label=system)
    axis.set(xlabel="articles seen", ylabel="loss, nats a token")
    axis.grid()
    canvas.legend(axis)
    return figure


@canvas.styled
def search_history(history: pd.DataFrame, trials: pd.DataFrame, data: str) -> Figure:
    """Draw validation loss of every trial against articles seen, a cross where one was stopped.

    `history`: trial, examples, validation_loss. `trials`: trial, status, chosen.
    """
    figure, (axis,) = canvas.new_figure(
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
    canvas.note_if_empty(axis, history["validation_loss"].dropna(), "no trial was evaluated")
    axis.margins(x=0.1)
    axis.set(xlabel="articles seen", ylabel="validation loss, nats a token")
    axis.grid()
    return figure


@canvas.styled
def search_settings(trials: pd.DataFrame, searched: Sequence[str], data: str) -> Figure:
    """Draw a line a trial through its value of each searched setting to its validation loss.

    `trials`: trial, status, validation_loss (nats a token), chosen and a column a setting named in
    `searched`. Numbers stand on a linear or log scale, other values on evenly spaced places. A line
    ends before the loss if the trial has none.
    """
    figure, (axis,) = canvas.new_figure(
        "The search: settings and the loss they led to",
        f"{len(trials)} trials; validation split, {data}. A line a trial, from its settings to its "
        "validation loss (nats a token, lower is better). Green: chosen; dashed: stopped early or "
        "failed.",
        height=3.6,
    )
    columns = [*searched, "validation_loss"]
    coordinates = [_coordinate(trials[name]) for name in columns]
    for place, (_, labels) in enumerate(coordinates):
        axis.plot([place, place], [0, 1], color=canvas.INK, linewidth=1)
        for height, label in labels:
            text: Any = {"xytext": (4, 0), "va": "center"}
            if height in (0, 1):  # beyond the end of the axis, where no line runs
                text = {"xytext": (0, 8 * height - 4), "ha": "center"}
                text["va"] = "bottom" if height else "top"
            axis.annotate(label, (place, height), fontsize=7, textcoords="offset points", **text)
    chosen_last = trials["chosen"].astype(bool).to_numpy().argsort(kind="stable")
    for row in chosen_last:
        trial = trials.iloc[row]
        axis.plot(
            range(len(columns)),
            [heights[row] for heights, _ in coordinates],
            color=_trial_colour(trial),
            linewidth=2.5 if trial["chosen"] else 1.2,
            linestyle="-" if trial["status"] == "completed" else "--",
        )
    canvas.note_if_empty(axis, trials, "no trial")
    axis.set(xlim=(-0.2, len(columns) - 0.6), ylim=(-0.12, 1.12))
    names = [name.rpartition(".")[2].replace("_", "\n") for name in columns]
    axis.set_xticks(range(len(columns)), names, fontsize=8)
    axis.set_yticks([])
    axis.spines[["left", "bottom"]].set_visible(False)
    return figure


def _coordinate(values: pd.Series) -> tuple[list[float], list[tuple[float, str]]]:
    """Return the height of each value, from 0 to 1 or NaN, and labels with their heights."""
    if not all(isinstance(value, int | float) for value in values):
        names = sorted({str(value) for value in values})
        places = {name: (i + 0.5) / len(names) for i, name in enumerate(names)}
        labels = [(place, name[:14]) for name, place in places.items()]
        return [places[str(value)] for value in values], labels
    numbers = values.to_numpy(dtype=float)
    if np.isnan(numbers).all():
        return list(numbers), []
    low, high = int(np.nanargmin(numbers)), int(np.nanargmax(numbers))
    wide = numbers[low] > 0 and numbers[high] / numbers[low] >= _LOG_SCALE_FROM
    scaled = np.log(numbers) if wide else numbers
    heights = scaled - scaled[low]
    heights = heights / heights[high] if heights[high] else heights + 0.5
    return list(heights), [(heights[i], f"{numbers[i]:.3g}") for i in sorted({low, high})]


def _trial_colour(trial: Mapping[Any, Any] | pd.Series) -> str:
    return canvas.GREEN if trial["chosen"] else canvas.GREY
