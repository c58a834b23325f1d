"""Train the trials of a search packed into one process, over one base.

A trial's folder is its memory here too: an engine that dies is started again, and its trials
resume from their checkpoints.
"""

from __future__ import annotations

import contextlib
import json
import math
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from nutgraf.core.errors import Failure
from nutgraf.core.fast_import import fast_imports
from nutgraf.core.files import write_text
from nutgraf.search.trial import SearchInputs, time_limit

if TYPE_CHECKING:
    from nutgraf.training.history import Evaluation
    from nutgraf.training.packed.loop import PackedTrainer
    from nutgraf.training.packed.run import PackedRun


NEWS_TIMEOUT = 1.0  # seconds that a trial waits for news
CLIENT_TIMEOUT = 30.0  # seconds after which a trial that no longer asks counts as dead
MAX_DEATHS = 2  # of an engine while it trained one trial alone, after which that trial has failed


class Loss(NamedTuple):
    """An evaluation, without its rows."""

    step: int
    examples: int
    loss: float


class Row(NamedTuple):
    """The loss of one summary: `modeling.losses.RowLoss`, but it loads no torch."""

    nll: float
    tokens: int


class News(NamedTuple):
    """New evaluations; at the trial's end also the `rows` of the best one, or an error.

    `examples` have been seen so far.
    """

    evaluations: list[Loss]
    rows: list[Row] | None
    error: Exception | None
    examples: int


@dataclass
class _Client:
    """A trial that asks, and the news for it."""

    folder: Path
    overrides: dict[str, Any]
    last_seen: float = 0.0
    evaluations: list[Loss] = field(default_factory=list)
    rows: list[Row] | None = None
    error: Exception | None = None
    run: PackedRun | None = None

    @property
    def ended(self) -> bool:
        """Return whether the trial has a result or has failed."""
        return self.error is not None or self.rows is not None


class Engine:
    """Trains, packed together, the trials that ask for it.

    `work` is the search's inputs, and how many trials are trained in a pass. Each method call comes
    from a thread of its own; one more thread trains.
    """

    def __init__(
        self,
        work: tuple[SearchInputs, int | None],
        notes: str,
        threads: int,
        minutes: float | None,
    ) -> None:
        self._inputs, self._max_packed = work
        self._threads, self._minutes = threads, minutes
        self._notes = _Notes(Path(notes))
        self._clients: dict[str, _Client] = {}
        self._changed = threading.Condition()
        threading.Thread(target=self._loop, daemon=True).start()

    def advance(self, folder: str, overrides: dict[str, Any], received: int) -> News:
        """Train the trial in `folder`; wait for news after `received` evaluations and return it.

        Asking again, after an error or a death on either side, does no harm.
        """
        with self._changed:
            if folder not in self._clients:
                self._clients[folder] = _Client(Path(folder), overrides)
                self._changed.notify_all()
            client = self._clients[folder]
            client.last_seen = time.monotonic()
            self._changed.wait_for(
                lambda: client.ended or len(client.evaluations) > received, timeout=NEWS_TIMEOUT
            )
            examples = client.run.examples if client.run else 0
            return News(client.evaluations[received:], client.rows, client.error, examples)

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

    def _loop(self) -> None:
        import torch

        torch.set_num_threads(self._threads)
        trainer: PackedTrainer | None = None
        while True:
            clients = self._wait_for_clients()
            try:
                with contextlib.ExitStack() as stack:
                    if self._minutes:  # if it hangs Ray starts this process again
                        stack.enter_context(time_limit(60 * self._minutes, sys.stderr))
                    trainer = trainer or self._load_trainer()
                    self._train_pass(trainer, clients)
            except Exception as error:  # of no single trial: all get it, the next ones start anew
                error.add_note(traceback.format_exc())
                for client in clients:
                    self._end(client, error=error)
                if trainer:
                    trainer.close()
                trainer = None

    def _wait_for_clients(self) -> list[_Client]:
        """Return the trials to train, once there are any; forget those that no longer ask."""
        with self._changed:
            self._changed.wait_for(lambda: any(not c.ended for c in self._clients.values()))
            oldest = time.monotonic() - CLIENT_TIMEOUT
            clients = {f: c for f, c in self._clients.items() if c.last_seen >= oldest}
            self._clients = clients
            return [client for client in clients.values() if not client.ended]

    def _load_trainer(self) -> PackedTrainer:
        """Load the base; return a trainer without runs."""
        with fast_imports():
            from nutgraf.modeling.load import choose_device, load_base, load_tokenizer
            from nutgraf.training.packed.loop import PackedTrainer

        model = self._inputs.config.model
        trainer = PackedTrainer(
            load_base(model),
            load_tokenizer(model).pad_token_id,
            choose_device(model),
            self._notes.max_packed or self._max_packed,
        )
        trainer.before_pass = self._notes.write
        return trainer

    def _train_pass(self, trainer: PackedTrainer, clients: Sequence[_Client]) -> None:
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
        def on_eval(evaluation: Evaluation) -> None:
            with self._changed:
                loss = Loss(evaluation.step, evaluation.examples, evaluation.loss)
                client.evaluations.append(loss)
                self._changed.notify_all()

        try:
            self._notes.check(client.folder)
            job = self._inputs.job(client.overrides, client.folder, on_eval)
            client.run = trainer.add(job)
        except Exception as error:
            error.add_note(traceback.format_exc())
            self._end(client, error=error)

    def _end(
        self, client: _Client, rows: list[Row] | None = None, error: Exception | None = None
    ) -> None:
        with self._changed:
            client.rows, client.error = rows, error
            self._changed.notify_all()


class _Notes:
    """Note on disk which trials are in the pass, so that the next engine knows after a death.

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
        if self.deaths.get(folder.name, 0) >= MAX_DEATHS:
            raise Failure(
                f"the process that trained it was killed {MAX_DEATHS} times, most likely for want "
                "of memory: lower train.micro_batch_size or prompt.max_tokens"
            )
