"""The engine of trials that are trained together: holds base and rows, trains whoever asks.

A trial's folder is its memory here too: an engine that dies is started again, and its trials carry
on from their checkpoints.
"""

from __future__ import annotations

import contextlib
import faulthandler
import functools
import json
import math
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from nutgraf import config as configuration
from nutgraf.files import write_text
from nutgraf.loading import quickly
from nutgraf.problems import Failure
from nutgraf.trials import evaluated_weights

if TYPE_CHECKING:
    from nutgraf.history import Evaluation
    from nutgraf.member import Member
    from nutgraf.members import Members

ASKED_EVERY = 1.0  # seconds that a trial waits for news at most
GONE = 30.0  # seconds after which a trial that no longer asks counts as dead
DEATHS = 2  # of an engine that trained one trial alone, after which that trial has failed


class Found(NamedTuple):
    """An evaluation, without its rows."""

    step: int
    examples: int
    loss: float


class Row(NamedTuple):
    """The loss of one summary: `inference.RowLoss`, without what that loads."""

    nll: float
    tokens: int


class News(NamedTuple):
    """What a trial had not heard: evaluations; `rows` of the best one at its end, or an error."""

    evaluations: list[Found]
    rows: list[Row] | None
    error: Exception | None


@dataclass
class _Client:
    """A trial that asks, and what there is to tell it."""

    folder: Path
    values: dict[str, Any]
    seen: float
    evaluations: list[Found] = field(default_factory=list)
    rows: list[Row] | None = None
    error: Exception | None = None
    member: Member | None = None

    @property
    def over(self) -> bool:
        return self.error is not None or self.rows is not None


class Engine:
    """Trains together whoever asks. `given`: configuration, rows, how many in a pass.

    Its methods are called from a thread each; one more does the work.
    """

    def __init__(self, given: Any, notes: str, threads: int, minutes: float | None) -> None:
        self._given, self._threads, self._minutes = given, threads, minutes
        self._notes = _Notes(Path(notes))
        self._clients: dict[str, _Client] = {}
        self._changed = threading.Condition()
        threading.Thread(target=self._work, daemon=True).start()

    def advance(self, folder: str, values: dict[str, Any], told: int) -> News:
        """Train the trial in `folder`; what is new after `told` evaluations, soon or after a wait.

        Asking again, after an error or a death on either side, does no harm.
        """
        with self._changed:
            client = self._clients.get(folder)
            if client is None:
                client = self._clients[folder] = _Client(Path(folder), values, time.monotonic())
                self._changed.notify_all()
            client.seen = time.monotonic()
            self._changed.wait_for(
                lambda: client.over or len(client.evaluations) > told, timeout=ASKED_EVERY
            )
            return News(client.evaluations[told:], client.rows, client.error)

    def load(self, folder: str) -> int | None:
        """How many trials it trains; None where the one in `folder` is among them."""
        with self._changed:
            if folder in self._clients:
                return None
            return sum(not client.over for client in self._clients.values())

    def leave(self, folder: str) -> None:
        """Go on without the trial in `folder`."""
        with self._changed:
            self._clients.pop(folder, None)

    def _work(self) -> None:
        import torch

        torch.set_num_threads(self._threads)
        members: Members | None = None
        while True:
            with self._changed:
                self._changed.wait_for(lambda: any(not c.over for c in self._clients.values()))
                now = time.monotonic()
                for folder, client in list(self._clients.items()):
                    if now - client.seen > GONE:
                        del self._clients[folder]
                clients = [client for client in self._clients.values() if not client.over]
            try:
                with _limited(self._minutes):
                    members = members or self._members()
                    self._turn(members, clients)
            except (
                Exception
            ) as error:  # of no trial alone: all hear of it, the next ones start anew
                error.add_note(traceback.format_exc())
                for client in clients:
                    self._tell(client, error=error)
                if members:
                    members.close()
                members = None

    def _members(self) -> Members:
        """Nobody yet, over base and rows, which are loaded here."""
        with quickly():
            from nutgraf.members import Members
            from nutgraf.model import choose_device, load_base, load_tokenizer

        config, train, validation, most = self._given
        members = Members(
            load_base(config.model),
            load_tokenizer(config.model).pad_token_id,
            train,
            validation,
            choose_device(config.model),
            most=self._notes.most or most,
        )
        members.before = self._notes.of
        return members

    def _turn(self, members: Members, clients: Sequence[_Client]) -> None:
        """Let in who is new, let go who has left, and train the others for a pass."""
        wanted = {id(client.member) for client in clients}
        for member in [m for m in members.present if id(m) not in wanted]:
            members.leave(member)
        for client in clients:
            if client.member is None:
                self._join(members, client)
        members.advance()
        for client in clients:
            if client.member in members.errors:
                self._tell(client, error=members.errors.pop(client.member))
            elif client.member and client.member.done:
                best = client.member.done.best
                self._tell(client, rows=[Row(row.nll, row.tokens) for row in best.rows])

    def _join(self, members: Members, client: _Client) -> None:
        try:
            self._notes.check(client.folder)
            client.member = members.join(self._job(members, client))
        except Exception as error:
            error.add_note(traceback.format_exc())
            self._tell(client, error=error)

    def _job(self, members: Members, client: _Client) -> Any:
        from nutgraf.checkpoints import copy_best
        from nutgraf.member import Job
        from nutgraf.model import fresh_adapter

        out = client.folder / "adapter"

        def evaluated(found: Evaluation) -> None:
            copy_best(out, found.step, evaluated_weights(client.folder, found.examples))
            with self._changed:
                client.evaluations.append(Found(found.step, found.examples, found.loss))
                self._changed.notify_all()

        settings = configuration.replace(self._given[0], client.values)
        return Job(
            functools.partial(fresh_adapter, members.base, settings.lora, settings.train.seed),
            settings.train,
            out,
            on_eval=evaluated,
            title=f"trial {client.folder.name}",
        )

    def _tell(
        self, client: _Client, rows: list[Row] | None = None, error: Exception | None = None
    ) -> None:
        with self._changed:
            client.rows, client.error = rows, error
            self._changed.notify_all()


class _Notes:
    """Who is trained in a pass, on the disk: what an engine that died was at, for the next one.

    The next one takes half as many at a time. Where there was one alone, it was that one's.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.most: int | None = None
        self.deaths: dict[str, int] = {}
        self._latest: list[str] = []
        if path.exists():
            before = json.loads(path.read_text(encoding="utf-8"))
            self.most, self.deaths = before["most"], before["deaths"]
            group = before["group"]
            if len(group) == 1:
                self.deaths[group[0]] = self.deaths.get(group[0], 0) + 1
            self.most = max(1, math.ceil(len(group) / 2))

    def of(self, group: Sequence[Member]) -> None:
        """Note that these are trained next."""
        names = [member.job.out.parent.name for member in group]
        if names != self._latest:
            self._latest = names
            known = {"group": names, "most": self.most, "deaths": self.deaths}
            write_text(self.path, json.dumps(known))

    def check(self, folder: Path) -> None:
        """Raise Failure where engines died of the trial in `folder`."""
        if self.deaths.get(folder.name, 0) >= DEATHS:
            raise Failure(
                f"the process that trained it was killed {DEATHS} times, most likely for want of "
                "memory: lower train.micro_batch_size or prompt.max_tokens"
            )


@contextlib.contextmanager
def _limited(minutes: float | None) -> Iterator[None]:
    """End the process where the block takes longer: it hangs, and Ray starts it again."""
    if minutes is None:
        yield
        return
    faulthandler.dump_traceback_later(60 * minutes, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
