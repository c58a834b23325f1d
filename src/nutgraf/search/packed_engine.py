"""The engine that trains the trials of a search packed into one process, over one base.

A trial's folder is its memory here too: an engine that dies is started again, and its trials
resume from their checkpoints.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import math
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from nutgraf.config import load
from nutgraf.core.errors import Failure
from nutgraf.core.fast_import import fast_imports
from nutgraf.core.files import write_text
from nutgraf.search.trial import evaluated_weights

if TYPE_CHECKING:
    from nutgraf.config import Config
    from nutgraf.data.prompts import Example
    from nutgraf.training.history import Evaluation
    from nutgraf.training.job import TrainingJob
    from nutgraf.training.packed.loop import PackedTrainer
    from nutgraf.training.packed.run import PackedRun


WAIT = 1.0  # seconds that a trial waits for news, at most
GONE = 30.0  # seconds after which a trial that no longer asks counts as dead
DEATHS = 2  # of an engine while it trained one trial alone, after which that trial has failed


class Loss(NamedTuple):
    """An evaluation, without its rows."""

    step: int
    examples: int
    loss: float


class Row(NamedTuple):
    """The loss of one summary: `inference.RowLoss`, but loads no torch."""

    nll: float
    tokens: int


class News(NamedTuple):
    """New evaluations; at the trial's end also the `rows` of the best one, or an error."""

    evaluations: list[Loss]
    rows: list[Row] | None
    error: Exception | None


@dataclass
class _Client:
    """A trial that asks, and the news for it."""

    folder: Path
    overrides: dict[str, Any]
    last_seen: float
    evaluations: list[Loss] = field(default_factory=list)
    rows: list[Row] | None = None
    error: Exception | None = None
    run: PackedRun | None = None

    @property
    def ended(self) -> bool:
        """Whether the trial has a result or has failed."""
        return self.error is not None or self.rows is not None


Work = tuple["Config", "Sequence[Example]", "Sequence[Example]", int | None]


class Engine:
    """Trains, packed together, the trials that ask for it.

    `work` is the search's configuration, its rows to train and to validate on, and how many trials
    go through in a pass. Each method call comes from a thread of its own; one more thread trains.
    """

    def __init__(self, work: Work, notes: str, threads: int, minutes: float | None) -> None:
        self._config, self._train, self._validation, self._max_packed = work
        self._threads, self._minutes = threads, minutes
        self._notes = _Notes(Path(notes))
        self._clients: dict[str, _Client] = {}
        self._changed = threading.Condition()
        threading.Thread(target=self._work, daemon=True).start()

    def advance(self, folder: str, overrides: dict[str, Any], heard: int) -> News:
        """Train the trial in `folder`; return what is new after `heard` evaluations, or wait first.

        Asking again, after an error or a death on either side, does no harm.
        """
        with self._changed:
            client = self._clients.get(folder)
            if client is None:
                client = _Client(Path(folder), overrides, time.monotonic())
                self._clients[folder] = client
                self._changed.notify_all()
            client.last_seen = time.monotonic()
            self._changed.wait_for(
                lambda: client.ended or len(client.evaluations) > heard, timeout=WAIT
            )
            return News(client.evaluations[heard:], client.rows, client.error)

    def load(self, folder: str) -> int | None:
        """Return how many trials it trains; None if the one in `folder` is among them."""
        with self._changed:
            if folder in self._clients:
                return None
            return sum(not client.ended for client in self._clients.values())

    def leave(self, folder: str) -> None:
        """Go on without the trial in `folder`."""
        with self._changed:
            self._clients.pop(folder, None)

    def _work(self) -> None:
        import torch

        torch.set_num_threads(self._threads)
        trainer: PackedTrainer | None = None
        while True:
            with self._changed:
                self._changed.wait_for(lambda: any(not c.ended for c in self._clients.values()))
                now = time.monotonic()
                for folder, client in list(self._clients.items()):
                    if now - client.last_seen > GONE:
                        del self._clients[folder]
                clients = [client for client in self._clients.values() if not client.ended]
            try:
                with _time_limit(self._minutes):
                    trainer = trainer or self._load_trainer()
                    self._advance(trainer, clients)
            except Exception as error:  # of no single trial: all get it, the next ones start anew
                error.add_note(traceback.format_exc())
                for client in clients:
                    self._end(client, error=error)
                if trainer:
                    trainer.close()
                trainer = None

    def _load_trainer(self) -> PackedTrainer:
        """Load the base; return a trainer without runs."""
        with fast_imports():
            from nutgraf.modeling.load import choose_device, load_base, load_tokenizer
            from nutgraf.training.packed.loop import PackedTrainer

        model = self._config.model
        trainer = PackedTrainer(
            load_base(model),
            load_tokenizer(model).pad_token_id,
            choose_device(model),
            self._notes.max_packed or self._max_packed,
        )
        trainer.before_pass = self._notes.write
        return trainer

    def _advance(self, trainer: PackedTrainer, clients: Sequence[_Client]) -> None:
        """Let new trials join and others leave, and train all of them for one pass."""
        wanted = {id(client.run) for client in clients}
        for run in [run for run in trainer.runs if id(run) not in wanted]:
            trainer.remove(run)
        for client in clients:
            if client.run is None:
                self._join(trainer, client)
        trainer.advance()
        for client in clients:
            if client.run in trainer.errors:
                self._end(client, error=trainer.errors.pop(client.run))
            elif client.run and client.run.result:
                best = client.run.result.best
                self._end(client, rows=[Row(row.nll, row.tokens) for row in best.rows])

    def _join(self, trainer: PackedTrainer, client: _Client) -> None:
        try:
            self._notes.check(client.folder)
            client.run = trainer.add(self._job(client))
        except Exception as error:
            error.add_note(traceback.format_exc())
            self._end(client, error=error)

    def _job(self, client: _Client) -> TrainingJob:
        from nutgraf.training.checkpoints import copy_best
        from nutgraf.training.job import TrainingJob

        out = client.folder / "adapter"

        def on_eval(evaluation: Evaluation) -> None:
            weights = evaluated_weights(client.folder, evaluation.examples)
            copy_best(out, evaluation.step, weights)
            with self._changed:
                loss = Loss(evaluation.step, evaluation.examples, evaluation.loss)
                client.evaluations.append(loss)
                self._changed.notify_all()

        return TrainingJob(
            load.with_overrides(self._config, client.overrides),
            self._train,
            self._validation,
            out,
            title=f"trial {client.folder.name}",
            on_eval=on_eval,
        )

    def _end(
        self, client: _Client, rows: list[Row] | None = None, error: Exception | None = None
    ) -> None:
        with self._changed:
            client.rows, client.error = rows, error
            self._changed.notify_all()


class _Notes:
    """Which trials are in the pass, on disk: what a dead engine was working on, for the next one.

    The next one packs half as many. If there was one trial alone, the death counts against it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.max_packed: int | None = None
        self.deaths: dict[str, int] = {}
        self._latest: list[str] = []
        if path.exists():
            notes = json.loads(path.read_text(encoding="utf-8"))
            self.deaths, trials = notes["deaths"], notes["trials"]
            if len(trials) == 1:
                self.deaths[trials[0]] = self.deaths.get(trials[0], 0) + 1
            self.max_packed = max(1, math.ceil(len(trials) / 2))

    def write(self, runs: Sequence[PackedRun]) -> None:
        """Note that the trials of `runs` are in the next pass."""
        trials = [run.job.out.parent.name for run in runs]
        if trials != self._latest:
            self._latest = trials
            write_text(self.path, json.dumps({"trials": trials, "deaths": self.deaths}))

    def check(self, folder: Path) -> None:
        """Raise Failure if engines died of the trial in `folder`."""
        if self.deaths.get(folder.name, 0) >= DEATHS:
            raise Failure(
                f"the process that trained it was killed {DEATHS} times, most likely for want of "
                "memory: lower train.micro_batch_size or prompt.max_tokens"
            )


@contextlib.contextmanager
def _time_limit(minutes: float | None) -> Iterator[None]:
    """End the process if the block takes longer: it hangs, and Ray starts it again."""
    if minutes is None:
        yield
        return
    faulthandler.dump_traceback_later(60 * minutes, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
