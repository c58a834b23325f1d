"""Run the model in one thread, behind a queue of summaries to write.

The oldest job goes next, with all others that can go with it: jobs of the same system are decoded
in one batch, jobs that are streamed take turns, a piece each. So no job waits forever.
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

from nutgraf.generation.summarizer import SummaryResult
from nutgraf.modeling.losses import DeviceMemoryError
from nutgraf.serving.errors import RequestError
from nutgraf.serving.limits import Limits
from nutgraf.serving.metrics import Metrics, log_place
from nutgraf.serving.models import Models

_SMOOTHING = 0.2  # weight of the last turn in the mean seconds of a summary
_MAX_RETRY_AFTER = 60  # seconds
_STOPPING = "the server is stopping: try again when it is back"


@dataclass(eq=False)
class Job:
    """One summary to write: of the article at `index` in its request, by one system.

    `on_event` is called from the worker's thread with pieces, if the job is streamed, and last with
    the whole summary or the reason why there is none. A client that gives up sets `abandoned`.
    """

    index: int
    article: str
    system: str
    streamed: bool
    on_event: Callable[[Job, str | SummaryResult | RequestError], None]
    abandoned: bool = False


class Worker:
    """A thread that writes summaries while a `with` block lasts; then it refuses what waits."""

    def __init__(self, models: Models, limits: Limits, batch_size: int, metrics: Metrics) -> None:
        self._models, self._limits, self._metrics = models, limits, metrics
        self._batch_size = batch_size
        self._queue: deque[Job] = deque()
        self._changed = threading.Condition()
        self._mean_seconds = 1.0  # of a summary
        self._stopping = False
        self._thread = threading.Thread(target=self._work, name="nutgraf-worker", daemon=True)
        self.unanswered = 0  # summaries accepted and not yet answered

    def __enter__(self) -> Worker:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._thread.join()

    def check(self) -> None:
        """Raise RequestError (503) if no summary can be written any more."""
        if self._stopping or not self._thread.is_alive():
            raise RequestError(503, _STOPPING, retry_after=5)

    def submit(self, jobs: Sequence[Job]) -> None:
        """Queue the jobs, all or none.

        An idle worker accepts any number, so that no request is refused forever. Raises
        RequestError: 429 if the queue is full, 503 at the end.
        """
        self.check()
        with self._changed:
            if self.unanswered and self.unanswered + len(jobs) > self._limits.max_queue:
                wait = min(_MAX_RETRY_AFTER, math.ceil(self.unanswered * self._mean_seconds))
                raise RequestError(
                    429,
                    f"{self.unanswered} summaries are waiting and {len(jobs)} more asked for, "
                    f"limit {self._limits.max_queue}: ask again in {wait} s",
                    retry_after=wait,
                )
            self._queue.extend(jobs)
            self._count(len(jobs))
            self._changed.notify_all()

    def _work(self) -> None:
        while jobs := self._next_jobs():
            started = time.perf_counter()
            n = self._stream(jobs) if jobs[0].streamed else self._write_batch(jobs)
            _release_memory()
            seconds = (time.perf_counter() - started) / n
            self._mean_seconds += _SMOOTHING * (seconds - self._mean_seconds)
        for job in self._queue:
            self._answer(job, RequestError(503, _STOPPING, retry_after=5))

    def _next_jobs(self) -> list[Job]:
        """Return the oldest job and those that go with it; none at the end."""
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._queue or self._stopping)
                if not self._stopping and not self._queue[0].streamed:
                    self._changed.wait_for(
                        lambda: self._stopping or len(self._compatible()) >= self._batch_size,
                        self._limits.batch_wait,
                    )
                if self._stopping:
                    return []
                jobs = self._compatible()[: self._batch_size]
                for job in jobs:
                    self._queue.remove(job)
                if active := [job for job in jobs if not self._drop_if_abandoned(job)]:
                    return active

    def _compatible(self) -> list[Job]:
        """Return the oldest job and all that can be written together with it."""
        oldest = self._queue[0]
        if oldest.streamed:
            return [job for job in self._queue if job.streamed]
        return [j for j in self._queue if not j.streamed and j.system == oldest.system]

    def _write_batch(self, jobs: Sequence[Job]) -> int:
        """Write the summaries of jobs of one system; return how many."""
        self._metrics.batch_size.observe(len(jobs))
        answers: Sequence[SummaryResult | RequestError]
        try:
            answers = self._models.batch(jobs[0].system, [job.article for job in jobs])
        except Exception as error:
            answers = [self._request_error(error, len(jobs))] * len(jobs)
        for job, answer in zip(jobs, answers, strict=True):
            self._answer(job, answer)
        return len(jobs)

    def _stream(self, jobs: Sequence[Job]) -> int:
        """Stream jobs side by side, and those that join meanwhile; return how many."""
        active = {job: self._models.stream(job.system, job.article) for job in jobs}
        n = len(active)
        while active:
            # Sorted by system, because changing adapters takes time.
            for job in sorted(active, key=lambda job: job.system):
                if self._drop_if_abandoned(job) or self._step(job, active[job], len(active)):
                    del active[job]
            with self._changed:
                while len(active) < self._batch_size and self._queue and self._queue[0].streamed:
                    job = self._queue.popleft()
                    active[job] = self._models.stream(job.system, job.article)
                    n += 1
        return n

    def _step(self, job: Job, pieces: Iterator[str | SummaryResult], n_active: int) -> bool:
        """Pass on the next piece; return whether it was the last."""
        try:
            piece: str | SummaryResult | RequestError = next(pieces)
        except Exception as error:
            piece = self._request_error(error, n_active)
        if isinstance(piece, str):
            job.on_event(job, piece)
            return False
        self._answer(job, piece)
        return True

    def _drop_if_abandoned(self, job: Job) -> bool:
        if job.abandoned:
            self._count(-1)
        return job.abandoned

    def _answer(self, job: Job, answer: SummaryResult | RequestError) -> None:
        self._count(-1)
        if isinstance(answer, SummaryResult):
            self._metrics.summaries.labels(job.system).inc()
            self._metrics.new_tokens.labels(job.system).inc(answer.new_tokens)
        job.on_event(job, answer)

    def _count(self, change: int) -> None:
        with self._changed:
            self.unanswered += change
            self._metrics.unanswered.set(self.unanswered)

    def _request_error(self, error: Exception, n_active: int) -> RequestError:
        log_place(error)
        if isinstance(error, (MemoryError, DeviceMemoryError)):
            return RequestError(
                503,
                f"out of memory with {n_active} summaries at once: start the server with a smaller "
                f"--batch-size (now {self._batch_size})",
                retry_after=5,
            )
        return RequestError(
            500, f"no summary could be written ({type(error).__name__}): see the server's messages"
        )


def _release_memory() -> None:
    """Return freed memory to the system, which glibc keeps in ever more fragments (docs/log.md)."""
    with contextlib.suppress(AttributeError, OSError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)
