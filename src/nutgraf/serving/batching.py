"""One thread that owns the model, and the queue of summaries before it.

The oldest job goes next, with all others that can go with it: jobs of the same system are decoded
in one batch, jobs that are streamed take turns, a piece each. So nobody waits for ever.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from nutgraf.generation.summarizer import Written
from nutgraf.modeling.losses import DeviceMemoryError
from nutgraf.serving.errors import Refusal
from nutgraf.serving.limits import Limits
from nutgraf.serving.metrics import Metrics, log_place

_RECENT = 0.2  # weight of the last turn in the mean time for a summary
_PATIENCE = 60  # seconds, the most that a client is told to wait


class Writer(Protocol):
    """What writes summaries: `models.Models`."""

    def batch(self, system: str, articles: Sequence[str]) -> list[Written]: ...

    def stream(self, system: str, article: str) -> Iterator[str | Written]: ...


@dataclass(eq=False)
class Job:
    """One summary to be written.

    `tell` is called from the worker's thread: with pieces where it is streamed, and last of all
    with the whole or the reason why there is none. Whoever gives up sets `abandoned`.
    """

    system: str
    article: str
    streamed: bool
    tell: Callable[[str | Written | Refusal], None]
    abandoned: bool = False


class Worker:
    """Start it with `with`; jobs that wait at the end of the block are refused."""

    def __init__(self, writer: Writer, limits: Limits, batch_size: int, metrics: Metrics) -> None:
        self._writer, self._limits, self._metrics = writer, limits, metrics
        self._batch_size = batch_size
        self._queue: deque[Job] = deque()
        self._changed = threading.Condition()
        self._unanswered = 0
        self._seconds = 1.0  # for a summary, lately
        self._stopping = False
        self._thread = threading.Thread(target=self._work, name="nutgraf-worker", daemon=True)

    def __enter__(self) -> Worker:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._thread.join()

    @property
    def unanswered(self) -> int:
        """Summaries accepted and not yet answered."""
        return self._unanswered

    def check(self) -> None:
        """Raise Refusal (503) where no summary can be had."""
        if self._stopping or not self._thread.is_alive():
            raise Refusal(503, "the server is stopping: try again when it is back", retry_after=5)

    def accept(self, jobs: Sequence[Job]) -> None:
        """Queue the jobs, all or none. Raises Refusal: 429 for a full queue, 503 at the end.

        An idle worker takes any number, so that no request can be too large for ever.
        """
        self.check()
        with self._changed:
            if self._unanswered and self._unanswered + len(jobs) > self._limits.max_queue:
                wait = min(_PATIENCE, math.ceil(self._unanswered * self._seconds))
                raise Refusal(
                    429,
                    f"{self._unanswered} summaries are waiting and {len(jobs)} more asked for, "
                    f"limit {self._limits.max_queue}: ask again in {wait} s",
                    retry_after=wait,
                )
            self._queue.extend(jobs)
            self._count(len(jobs))
            self._changed.notify_all()

    def _work(self) -> None:
        while turn := self._next_turn():
            started, taken = time.perf_counter(), len(turn)
            if turn[0].streamed:
                taken = self._take_turns(turn)
            else:
                self._write_together(turn)
            _give_back()
            lately = (time.perf_counter() - started) / taken
            self._seconds += _RECENT * (lately - self._seconds)
        for job in self._queue:
            self._answer(job, Refusal(503, "the server is stopping: try again", retry_after=5))

    def _next_turn(self) -> list[Job]:
        """The oldest job and those that go with it; none at the end."""
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._queue or self._stopping)
                if self._stopping:
                    return []
                if not self._queue[0].streamed:
                    self._changed.wait_for(
                        lambda: self._stopping or len(self._alike()) >= self._batch_size,
                        self._limits.batch_wait,
                    )
                turn = self._alike()[: self._batch_size]
                for job in turn:
                    self._queue.remove(job)
                if wanted := [job for job in turn if not self._dropped(job)]:
                    return wanted

    def _alike(self) -> list[Job]:
        """The oldest job and all that can be done together with it."""
        oldest = self._queue[0]
        if oldest.streamed:
            return [job for job in self._queue if job.streamed]
        return [j for j in self._queue if not j.streamed and j.system == oldest.system]

    def _write_together(self, jobs: Sequence[Job]) -> None:
        self._metrics.batch_size.observe(len(jobs))
        try:
            found = self._writer.batch(jobs[0].system, [job.article for job in jobs])
        except Exception as error:
            for job in jobs:
                self._answer(job, self._failure(error, len(jobs)))
            return
        for job, written in zip(jobs, found, strict=True):
            self._answer(job, written)

    def _take_turns(self, jobs: Sequence[Job]) -> int:
        """Stream jobs side by side, and those that come up while it lasts; returns how many."""
        active = {job: self._writer.stream(job.system, job.article) for job in jobs}
        taken = len(active)
        while active:
            # Side by side by system: changing adapters takes time.
            for job in sorted(active, key=lambda job: job.system):
                if self._dropped(job) or self._step(job, active[job], len(active)):
                    del active[job]
            for job in self._joining(self._batch_size - len(active)):
                active[job] = self._writer.stream(job.system, job.article)
                taken += 1
        return taken

    def _step(self, job: Job, pieces: Iterator[str | Written], beside: int) -> bool:
        """Tell the next piece; whether it was the last."""
        try:
            piece = next(pieces)
        except Exception as error:
            self._answer(job, self._failure(error, beside))
            return True
        if isinstance(piece, str):
            job.tell(piece)
            return False
        self._answer(job, piece)
        return True

    def _joining(self, room: int) -> list[Job]:
        with self._changed:
            joining: list[Job] = []
            while len(joining) < room and self._queue and self._queue[0].streamed:
                joining.append(self._queue.popleft())
            return joining

    def _dropped(self, job: Job) -> bool:
        """Whether nobody waits for the job any more; then it is done with."""
        if job.abandoned:
            self._count(-1)
        return job.abandoned

    def _answer(self, job: Job, answer: Written | Refusal) -> None:
        self._count(-1)
        if isinstance(answer, Written):
            self._metrics.summaries.labels(job.system).inc()
            self._metrics.new_tokens.labels(job.system).inc(answer.new_tokens)
        job.tell(answer)

    def _count(self, change: int) -> None:
        with self._changed:
            self._unanswered += change
            self._metrics.unanswered.set(self._unanswered)

    def _failure(self, error: Exception, together: int) -> Refusal:
        log_place(error)
        if isinstance(error, (MemoryError, DeviceMemoryError)):
            return Refusal(
                503,
                f"out of memory with {together} summaries at once: start the server with a smaller "
                f"--batch-size (now {self._batch_size})",
                retry_after=5,
            )
        return Refusal(
            500, f"no summary could be written ({type(error).__name__}): see the server's messages"
        )


def _give_back() -> None:
    """Give the system the memory that a turn has freed: glibc keeps it, and turns of many shapes
    leave more and more in pieces (docs/log.md). Other C libraries do as they do."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
