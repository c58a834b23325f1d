"""Run the model in one thread, behind a queue of summaries to write.

The oldest job goes next, with all others of the same system up to the size of a batch, streamed or
not: they are decoded together. A job that nobody wants any more ends at the next token.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from nutgraf.generation.summarizer import SummaryResult
from nutgraf.modeling.losses import DeviceMemoryError
from nutgraf.serving.errors import RequestError
from nutgraf.serving.limits import Limits
from nutgraf.serving.metrics import Metrics, log_place
from nutgraf.serving.models import Models

_SMOOTHING = 0.2  # weight of the last batch in the mean seconds of a batch
_MAX_RETRY_AFTER = 60  # seconds
# To pass on a piece takes the interpreter from the model for some milliseconds. So each of several
# streams gets its next piece after so many seconds for each of the others.
_PIECE_SECONDS = 0.01


@dataclass(eq=False)
class Job:
    """One summary to write: of the article at `index` in its request, by one system.

    `on_event` is called with pieces, if the job is streamed, and last with the whole summary or the
    reason why there is none: by the worker's thread, or by the one that stops the worker.
    """

    index: int
    article: str
    system: str
    streamed: bool
    on_event: Callable[[Job, str | SummaryResult | RequestError], None]
    closed: bool = False  # answered, or not wanted any more


class Worker:
    """A thread that writes summaries while a `with` block lasts."""

    def __init__(self, models: Models, limits: Limits, batch_size: int, metrics: Metrics) -> None:
        self._models, self._limits, self._metrics = models, limits, metrics
        self._batch_size = batch_size
        self._queue: list[Job] = []
        self._running: list[Job] = []
        self._changed = threading.Condition()
        self._batch_seconds = 0.0  # mean; 0 before the first batch
        self._stopping = False
        self._thread = threading.Thread(target=self._work, name="nutgraf-worker", daemon=True)
        self.unanswered = 0  # summaries accepted and not yet answered

    def __enter__(self) -> Worker:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self.refuse_running()
        self._thread.join()

    def check(self) -> None:
        """Raise RequestError (503) if no summary can be written any more."""
        if self._stopping or not self._thread.is_alive():
            raise _stopping_error()

    def stop(self) -> None:
        """Refuse what waits and what comes; what is being written goes on."""
        with self._changed:
            self._stopping = True
            waiting, self._queue = self._queue, []
            self._changed.notify_all()
        for job in waiting:
            self._answer(job, _stopping_error())

    def refuse_running(self) -> None:
        """End what is being written, with the reason."""
        for job in self._running:
            self._answer(job, _stopping_error())

    def submit(self, jobs: Sequence[Job]) -> None:
        """Queue the jobs, all or none.

        An idle worker accepts any number, so that no request is refused forever. Raises
        RequestError: 429 if the queue is full or would take longer than a request may, 503 at the
        end.
        """
        with self._changed:
            self.check()
            if self.unanswered:
                self._check_room(jobs)
            self._queue.extend(jobs)
            self._count(len(jobs))
            self._changed.notify_all()

    def abandon(self, jobs: Sequence[Job]) -> None:
        """Drop those jobs that are not answered, because nobody wants them any more."""
        with self._changed:
            for job in jobs:
                self._close(job)
            self._queue = [job for job in self._queue if not job.closed]

    def _check_room(self, jobs: Sequence[Job]) -> None:
        by_system = Counter(job.system for job in [*self._queue, *jobs])
        batches = sum(math.ceil(n / self._batch_size) for n in by_system.values())
        seconds = (batches + bool(self._running)) * self._batch_seconds
        max_queue, time_limit = self._limits.max_queue, self._limits.time_limit
        if self.unanswered + len(jobs) > max_queue:
            line = f"limit {max_queue} (--max-queue)"
        elif seconds > time_limit:
            line = f"about {seconds:.3g} s of work, limit {time_limit:g} s (--time-limit)"
            seconds -= time_limit
        else:
            return
        wait = min(_MAX_RETRY_AFTER, max(1, math.ceil(seconds)))
        line = f"{self.unanswered} summaries are waiting and {len(jobs)} more asked for, {line}"
        raise RequestError(429, f"{line}: ask again in {wait} s", retry_after=wait)

    def _work(self) -> None:
        while self._next_jobs():
            started = time.perf_counter()
            self._write(self._running)
            self._running = []
            _release_memory()
            seconds = time.perf_counter() - started
            weight = _SMOOTHING if self._batch_seconds else 1.0
            self._batch_seconds += weight * (seconds - self._batch_seconds)

    def _next_jobs(self) -> bool:
        """Take the oldest job and those that go with it off the queue; return False at the end."""
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._queue or self._stopping)
                self._changed.wait_for(
                    lambda: not self._queue or len(self._compatible()) >= self._batch_size,
                    self._limits.batch_wait,
                )
                if self._stopping:
                    return False
                if self._queue:
                    self._running = self._compatible()[: self._batch_size]
                    self._queue = [job for job in self._queue if job not in self._running]
                    return True

    def _compatible(self) -> list[Job]:
        """Return the oldest job and all that can be written together with it."""
        return [job for job in self._queue if job.system == self._queue[0].system]

    def _write(self, jobs: Sequence[Job]) -> None:
        """Write the summaries of jobs of one system."""
        self._metrics.batch_size.observe(len(jobs))
        articles, streamed = [job.article for job in jobs], [job.streamed for job in jobs]
        pieces, shown = [""] * len(jobs), [0.0] * len(jobs)
        pause = _PIECE_SECONDS * (sum(streamed) - 1)

        def on_event(i: int, event: str | SummaryResult) -> bool:
            job, now = jobs[i], time.monotonic()
            if isinstance(event, str):
                pieces[i] += event
            due = isinstance(event, SummaryResult) or now - shown[i] >= pause
            if due and pieces[i] and not job.closed:
                job.on_event(job, pieces[i])
                pieces[i], shown[i] = "", now
            if isinstance(event, SummaryResult):
                self._answer(job, event)
            return not job.closed

        try:
            self._models.write(jobs[0].system, articles, streamed, on_event)
        except Exception as error:
            refusal = self._request_error(error, len(jobs))
            for job in jobs:
                self._answer(job, refusal)

    def _answer(self, job: Job, answer: SummaryResult | RequestError) -> None:
        if not self._close(job):
            return
        if isinstance(answer, SummaryResult):
            self._metrics.summaries.labels(job.system).inc()
            self._metrics.new_tokens.labels(job.system).inc(answer.new_tokens)
        job.on_event(job, answer)

    def _close(self, job: Job) -> bool:
        """Count a job as answered; return False if it was before."""
        with self._changed:
            if not job.closed:
                job.closed = True
                self._count(-1)
                return True
        return False

    def _count(self, change: int) -> None:
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


def _stopping_error() -> RequestError:
    return RequestError(503, "the server is stopping: try again when it is back", retry_after=5)


def _release_memory() -> None:
    """Return freed memory to the system, which glibc keeps in ever more fragments (docs/log.md)."""
    with contextlib.suppress(AttributeError, OSError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)
