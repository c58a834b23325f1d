"""Draw the search and the trainings: trials, losses, curves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from nutgraf.report.figures.canvas import (
    GREEN,
    GREY,
    INK,
    bars,
    canvas,
    colours_of,
    legend,
    say_if_empty,
    styled,
)


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


def _trial_colour(trial: Mapping[Any, Any]) -> str:
    return GREEN if trial["chosen"] else GREY
