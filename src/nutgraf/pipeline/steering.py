"""Ask the search of a study, from outside, to stop a trial, add one, or let one go on."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nutgraf.config.load import load_config
from nutgraf.core.errors import UserError
from nutgraf.search import ledger
from nutgraf.search.steering import trial_values
from nutgraf.search.trial import Trial
from nutgraf.storage.artefact import UNFINISHED
from nutgraf.storage.run_folder import RunFolder


def trials_folder(run: Path) -> Path:
    """Return the folder of the trials of the search that a study is in, running or interrupted.

    Raises UserError if its search has not begun, or has ended.
    """
    folder = RunFolder(run)
    trials = folder.path / UNFINISHED / "search" / "search" / "trials"
    if not (trials / ledger.REQUESTS).is_dir():
        why = "has ended" if folder.has("search") or trials.exists() else "has not begun"
        raise UserError(f"the search of {run} {why}: trials are steered while it runs")
    return trials


def ask(run: Path, request: ledger.Request) -> str:
    """Ask the search of a study; return the id of the request, for `answer`.

    Raises UserError if no search is there, if it has no such trial, or if a setting cannot be.
    """
    trials = trials_folder(run)
    if request.do == "add":
        values = trial_values(load_config(RunFolder(run).config), request.values)
        return ledger.ask(trials, request.model_copy(update={"values": values}))
    if request.trial is None or Trial.read(trials / str(request.trial)) is None:
        raise UserError(f"there is no trial {request.trial} yet: `nutgraf watch` lists them")
    return ledger.ask(trials, request)


def answer(run: Path, name: str) -> ledger.Steer | None:
    """Return what the search has done with a request; None if it has not taken it up yet."""
    steers = ledger.read_steers(trials_folder(run) / ledger.LEDGER)
    return next((steer for steer in steers if steer.id == name), None)


def edited_values(run: Path, settings: Mapping[str, str], like: int | None) -> dict[str, Any]:
    """Return `settings`, YAML text by dotted name, over those of the trial `like` if there is one.

    Raises UserError if one of them is no setting, or if there is no such trial.
    """
    trials, path = trials_folder(run), RunFolder(run).config
    trial = Trial.read(trials / str(like)) if like is not None else Trial(0, {})
    if trial is None:
        raise UserError(f"--like {like}: there is no such trial yet")
    config = load_config(path, settings).model_dump(mode="json")
    values = dict(trial.values)
    for name in settings:
        section, _, field = name.partition(".")
        values[name] = config[section].get(field)  # what is not searched is refused later
    return values


def describe_steers(folder: RunFolder) -> list[tuple[str, str]]:
    """Return when and what people changed in a finished search, in their order."""
    steers = ledger.read_steers(folder / "search" / "trials" / ledger.LEDGER)
    return [
        (f"{datetime.fromtimestamp(steer.time, UTC):%Y-%m-%d %H:%M} UTC", steer.words)
        for steer in steers
        if not steer.refused
    ]
