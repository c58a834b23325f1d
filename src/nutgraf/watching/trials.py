"""Describe the trials of a search as it goes, from their folders and the search's own rules."""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nutgraf.config import Config
from nutgraf.config.load import with_overrides
from nutgraf.search.halving import Halving, TrialProgress, Verdict
from nutgraf.search.ledger import LEDGER, Steer, parse_steers
from nutgraf.search.steering import Steering
from nutgraf.search.trial import CURVES
from nutgraf.training.budget import evaluation_steps, total_examples
from nutgraf.watching.curves import Point, thinned
from nutgraf.watching.files import Files

_POINTS = 20_000  # of all curves on the chart of a search
_PER_CURVE = (20, 400)  # at least and at most, whatever the number of trials

Trials = dict[str, dict[str, Any]]


class Search:
    """The trials of one search, as `config` has it; only what has changed is read again."""

    def __init__(self, config: Config, files: Files) -> None:
        self._config, self._files = config, files
        self._lengths: dict[str, tuple[int, int]] = {}
        self._last: Trials = {}
        self._judged: tuple[Any, Any, Any, dict[int, Verdict]] = ({}, None, None, {})
        self._thinned: dict[int, tuple[Any, list[Point]]] = {}

    def trials(self, search: Path, running: bool) -> Trials:
        """Return the trials by number; those without news are the same objects as before.

        Args:
            search: The folder of the search, half made or whole.
            running: Whether a process works on it.
        """
        table = self._files.read(search / "trials.csv", _by_number) or {}
        steering = Steering(self._files.read(search / "trials" / LEDGER, parse_steers) or ())
        records = {}
        for number in itertools.islice(steering.proposed(), self._config.search.trials):
            record = self._files.read(search / "trials" / str(number) / "trial.json", _trial)
            if record is None:
                break  # they are proposed in order
            records[number] = record
        for number, values in steering.added.items():
            record = self._files.read(search / "trials" / str(number) / "trial.json", _trial)
            if record is not None and record["values"] == values:
                records[number] = record
        if table:
            records = {n: record for n, record in records.items() if str(n) in table}
        verdicts = {} if table else self._verdicts(search, records, steering)
        limit = min(_PER_CURVE[1], max(_PER_CURVE[0], _POINTS // max(1, len(records))))
        trials: Trials = {}
        for number, record in records.items():
            row = table.get(str(number), {})
            home = search / "trials" / str(number)
            state = row.get("status") or self._state(home, record, verdicts[number], running)
            history = record["history"]
            # What a trial does past its rung does not count.
            if verdicts and (stop := verdicts[number].stop) is not None:
                history = history[:stop]
            elif state == "stopped":
                history = [point for point in history if point[0] <= int(row["examples"])]
            trial = {
                "state": state,
                "values": record["values"],
                "points": self._points(number, history, limit),
                "loss": min((loss for _, loss in history), default=None),
                "seen": self._seen(home, history, state),
                "of": self._length(number, record["values"])[1],
                "seconds": round(record["seconds"]),
                "rouge": (self._files.read(home / "rouge.json") or {}).get("rougeLsum"),
                "chosen": row.get("chosen") == "True",
                "why": row.get("error")
                or _steered(steering.of(number, record["values"]), state, len(history))
                or self._why(search, number, state, history),
            }
            before = self._last.get(str(number), trial)
            trials[str(number)] = before if before == trial else trial
        self._last = trials
        return trials

    def _points(self, number: int, history: list[Point], limit: int) -> list[Point]:
        version = len(history), history[-1:], limit
        if self._thinned.get(number, (None,))[0] != version:
            self._thinned[number] = version, thinned(history, limit)
        return self._thinned[number][1]

    def _length(self, number: int, values: Mapping[str, Any]) -> tuple[int, int]:
        """Return the evaluations and the examples of a whole training with these values."""
        key = f"{number} {json.dumps(values)}"
        if key not in self._lengths:
            train = with_overrides(self._config, values).train
            self._lengths[key] = len(evaluation_steps(train)), total_examples(train)
        return self._lengths[key]

    def _halving(self, search: Path) -> Halving:
        settings = self._config.search
        noted = self._files.read(search / "together.json") or {}
        at_once = min(noted.get("concurrent", settings.concurrent), settings.trials)
        return Halving(settings.grace_evaluations, settings.reduction_factor, at_once)

    def _verdicts(
        self, search: Path, records: Mapping[int, Any], steering: Steering
    ) -> dict[int, Verdict]:
        progress = {
            n: TrialProgress(
                tuple(loss for _, loss in record["history"]),
                self._length(n, record["values"])[0],
                record["completed"] or (search / "trials" / str(n) / "error.txt").exists(),
            )
            for n, record in records.items()
        }
        if (progress, rule := self._halving(search), steering) != self._judged[:3]:
            values = {number: record["values"] for number, record in records.items()}
            held = steering.judge(rule, progress, values)[1]
            self._judged = progress, rule, steering, held
        return self._judged[3]

    def _state(self, home: Path, record: Mapping[str, Any], verdict: Verdict, running: bool) -> str:
        if verdict.stop is not None:
            return "stopped"
        if record["completed"]:
            return "completed"
        if _time(home / "error.txt") > _time(home / "trial.json"):
            return "error"
        if not record["history"] and not (home / ".lock").exists():
            return "queued"
        return "running" if running else "interrupted"

    def _seen(self, home: Path, history: list[Point], state: str) -> int:
        """Return the examples that a trial has seen, between two evaluations too."""
        evaluated = int(history[-1][0]) if history else 0
        rows = self._files.read(home / CURVES) if state in ("running", "interrupted") else None
        return max(evaluated, rows[-1]["examples"]) if rows else evaluated

    def _why(self, search: Path, number: int, state: str, history: list[Point]) -> str:
        if state == "error":
            error = search / "trials" / str(number) / "error.txt"
            return self._files.read(error, _last_line) or ""
        if state != "stopped" or not history:
            return ""
        rule, (examples, loss) = self._halving(search), history[-1]
        others = max(number, rule.parallel)
        return (
            f"after {examples:,} articles its loss {loss:.3f} was not among the best "
            f"1/{rule.factor} of trials 1 to {others} there"
        )


def _steered(steers: Sequence[Steer], state: str, evaluations: int) -> str:
    """Return what a person last did to a trial, if that is why it is as it is."""
    if not steers or (state == "stopped" and steers[-1].until != evaluations):
        return ""
    return steers[-1].words if state != "error" else ""


def _trial(text: str) -> dict[str, Any]:
    record = json.loads(text)
    names = ("values", "history", "seconds")
    return {name: record[name] for name in names} | {"completed": bool(record["row_nll"])}


def _by_number(text: str) -> dict[str, dict[str, str]]:
    return {row["trial"]: row for row in csv.DictReader(text.splitlines())}


def _last_line(text: str) -> str:
    """Return the words of the error at the end of a traceback."""
    line = next((line for line in reversed(text.splitlines()) if line.strip()), "")
    return line.removeprefix("nutgraf.core.errors.")


def _time(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
