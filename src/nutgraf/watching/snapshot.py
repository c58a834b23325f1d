"""Take snapshots of a study: all that its run folder says at one moment.

Nothing is written, no lock is taken, and the study is not asked. Neither torch nor Ray is loaded.
"""

from __future__ import annotations

import csv
import functools
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from nutgraf.config import Config
from nutgraf.config.load import load_config
from nutgraf.config.systems import JUDGED, start_of_round, trained_models
from nutgraf.config.types import Choices
from nutgraf.core.errors import NutgrafError, UserError
from nutgraf.pipeline.run_log import ENDS
from nutgraf.pipeline.run_log import NAME as LOG
from nutgraf.search.ledger import REQUESTS
from nutgraf.search.trial import CURVES, SAMPLES
from nutgraf.storage.artefact import UNFINISHED
from nutgraf.storage.run_folder import MANIFESTS
from nutgraf.training.budget import round_config, total_examples
from nutgraf.training.curves import curves_path, samples_path
from nutgraf.watching.curves import thinned
from nutgraf.watching.files import Files, LogTail
from nutgraf.watching.machine import holder, machine
from nutgraf.watching.stages import is_being_made, is_made, search_folder, stages, written
from nutgraf.watching.trials import Search, Trials

EVERY = 1.0  # seconds between two snapshots at least
_SHARE = 0.1  # of the time at most that snapshots take
_MACHINE_EVERY = 5.0  # seconds between two measurements of the machine
_POINTS = 400  # of each curve of one training


class Watcher:
    """The snapshots of one run folder, each from what has changed since the one before."""

    def __init__(
        self, folder: Path, who: Callable[[], str | None] | None = None, title: str = ""
    ) -> None:
        """Begin with nothing read. Raises UserError if there is no folder.

        Args:
            folder: The run folder, or what is here of one that is elsewhere.
            who: Returns who runs the study; without it, that is who holds the folder's lock.
            title: What the folder is called; without it its path.
        """
        self.folder, self._title = folder, title or str(folder)
        self.is_here = who is None
        self._who = who or functools.partial(holder, folder / ".lock")
        if not folder.is_dir():
            raise UserError(f"{folder} does not exist: give the folder of a study with --run")
        self._files, self._log = Files(), LogTail(folder / LOG)
        self._config: Config | None = None
        self._text = ""
        self._search: Search | None = None
        self._lock = threading.Lock()
        self._latest: dict[str, Any] = {}
        self._due = self._machine_due = 0.0

    def latest(self, at_once: bool = False) -> dict[str, Any]:
        """Return a snapshot: a new one, or one at most a second or ten times its cost old."""
        with self._lock:
            started = time.monotonic()
            if at_once or started >= self._due:
                self._latest = self._take()
                ended = time.monotonic()
                self._due = max(started + EVERY, ended + (ended - started) / _SHARE)
            return self._latest

    def curves(self, name: str) -> list[dict[str, Any]]:
        """Return the rows of one training: of trial 7 by `7`, of a model by its name.

        Raises UserError if there is none of that name.
        """
        with self._lock:
            if trial := self._trial_folder(name):
                return self._files.read(trial / CURVES) or []
            return self._training_rows(name)

    def samples(self, name: str) -> dict[str, Any]:
        """Return what one training has written at its evaluations (`Samples`), {} if nothing.

        Names and errors are those of `curves`.
        """
        with self._lock:
            if trial := self._trial_folder(name):
                return self._files.read(trial / SAMPLES) or {}
            return self._model_samples(name)

    def _trial_folder(self, name: str) -> Path | None:
        """Return the folder of a trial, None for a model. Raises UserError if there is neither."""
        if name in self._latest.get("trials", {}):
            return search_folder(self.folder) / "trials" / name
        if name not in self._latest.get("trainings", {}):
            raise UserError(f"there is no training {name[:80]!r} in {self.folder}")
        return None

    def _take(self) -> dict[str, Any]:
        folder = self.folder
        held = self._who()
        self._log.update()
        config, unreadable = self._read_config()
        common: dict[str, Any] = {
            "folder": self._title,
            "holder": held,
            "log": list(self._log.lines),
            "lines": self._log.total,
            "problems": [*self._log.problems, *unreadable],
            "machine": self._machine(),
            "report": (folder / "report.html").exists(),
            "judge": self.is_here and all(self._is_scored(name) for name in JUDGED),
        }
        if config is None or self._search is None:
            ended = self._end() if unreadable else "empty"
            return {**common, "state": "running" if held else ended, "stages": [], "trials": {},
                    "trainings": {}, "search": None}  # fmt: skip
        search = search_folder(folder)
        trials = self._search.trials(search, running=bool(held))
        trainings = {name: self._training(name, config) for name in trained_models(config)}
        progress = {
            "search": _searched(trials, config.search.trials),
            "train": self._trained(trainings),
            "generate": written(folder, config, self._files, self._log),
        }
        began = self._log.began if held else {}
        of_stages = stages(folder, config, self._files, bool(held), began, progress)
        finished = all(stage["state"] == "finished" for stage in of_stages)
        return {
            **common,
            "state": "running" if held else "finished" if finished else self._end(),
            "stages": of_stages,
            "search": {
                "of": config.search.trials,
                "settings": list(config.search.space),
                "log": [n for n, d in config.search.space.items() if getattr(d, "log", False)],
                "choices": {
                    name: domain.choices
                    for name, domain in config.search.space.items()
                    if isinstance(domain, Choices)
                },
                "steered": self.is_here and (search / "trials" / REQUESTS).is_dir(),
            },
            "trials": trials,
            "trainings": {name: training for name, training in trainings.items() if training["of"]},
        }

    def _is_scored(self, system: str) -> bool:
        return (self.folder / MANIFESTS / f"scores.{system}.json").exists()

    def _end(self) -> str:
        """Return how a process that did not finish the study ended, by the last line of its log."""
        last = self._log.lines[-1] if self._log.lines else {"level": "", "text": ENDS[0]}
        if last["level"] == "error":
            return "failed"
        return "stopped" if last["text"].startswith(ENDS) else "killed"

    def _read_config(self) -> tuple[Config | None, list[dict[str, Any]]]:
        """Return the study's configuration, read again if it has changed, and what is wrong."""
        path = self.folder / "config.yaml"
        text = self._files.read(path, str)
        if text is not None and text != self._text:
            try:
                self._config = load_config(path)
            except NutgrafError as error:  # of another version
                return None, [{"level": "error", "stage": "", "text": str(error)}]
            self._text, self._search = text, Search(self._config, self._files)
        return self._config, []

    def _training(self, name: str, config: Config) -> dict[str, Any]:
        rows = self._training_rows(name)
        losses = [(r["examples"], r["validation_loss"]) for r in rows if r["validation_loss"]]
        pairs = start_of_round(name) is not None
        own = round_config(config, config.preference.articles) if pairs else config
        seen = rows[-1]["examples"] if rows else 0
        # A round has fewer rows than planned if candidates of an article are equally good.
        return {
            "points": thinned(losses, _POINTS),
            "seen": seen,
            "of": total_examples(own.train) if rows and self._is_being_made(name) else seen,
            "pairs": pairs,
            "written": len(self._model_samples(name).get("evaluations", ())),
        }

    def _training_rows(self, name: str) -> list[dict[str, Any]]:
        if self._is_being_made(name):
            return self._files.read(curves_path(self._unfinished(name))) or []
        return self._files.read(self.folder / "models" / name / "history.csv", _history) or []

    def _model_samples(self, name: str) -> dict[str, Any]:
        if self._is_being_made(name):
            return self._files.read(samples_path(self._unfinished(name))) or {}
        return self._files.read(self.folder / "models" / name / "samples.json") or {}

    def _is_being_made(self, name: str) -> bool:
        return is_being_made(self.folder, f"models/{name}")

    def _trained(self, trainings: Mapping[str, Mapping[str, Any]]) -> float | None:
        """Return the share of the trainings that is done, None if nothing is.

        A model of before that is to be trained anew counts from the start of its training on.
        """
        shares = [
            training["seen"] / training["of"]
            for name, training in trainings.items()
            if training["of"]
            and (
                self._is_being_made(name)
                or is_made(self.folder, "train", f"models/{name}", self._files, self._log)
            )
        ]
        return sum(shares) / len(trainings) if shares else None

    def _unfinished(self, name: str) -> Path:
        """Return where a model is saved that is being made."""
        return self.folder / UNFINISHED / f"models.{name}" / "models" / name

    def _machine(self) -> dict[str, Any]:
        now = time.monotonic()
        if now >= self._machine_due:
            self._machine_due, self._measured = now + _MACHINE_EVERY, machine(self.folder)
        return self._measured


def changes(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Return what of a snapshot differs from an earlier one; of trials those that do.

    A trial that is gone is None.
    """
    news = {name: value for name, value in new.items() if old.get(name) != value}
    if "trials" in news and "trials" in old:
        before, now = old["trials"], new["trials"]
        news["trials"] = {n: trial for n, trial in now.items() if before.get(n) is not trial}
        news["trials"] |= {n: None for n in before if n not in now}
    if "log" in news and (added := new["lines"] - old.get("lines", 0)) > 0 and "log" in old:
        news["log"], news["log_goes_on"] = new["log"][-added:], True
    return news


def _searched(trials: Trials, of: int) -> float | None:
    """Return the share of the articles that all trials see at most; stopped ones are whole."""
    ended = ("completed", "stopped", "error")
    shares = [1.0 if t["state"] in ended else t["seen"] / t["of"] for t in trials.values()]
    return sum(shares) / max(of, len(trials)) if shares else None


def _history(text: str) -> list[dict[str, Any]]:
    """Return the rows of a history.csv, with None in empty places."""
    return [
        {name: float(value) if value else None for name, value in row.items()}
        for row in csv.DictReader(text.splitlines())
    ]
