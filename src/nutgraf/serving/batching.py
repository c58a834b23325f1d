"""Run the model in one thread, behind a queue of summaries to write.

The oldest job goes next, with all others of its kind up to the size of a batch, streamed or not:
they are decoded together. A job that nobody wants any more ends at the next token.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from nutgraf.config.systems import EXTRACTIVE_SYSTEMS
from nutgraf.core.memory import release_memory
from nutgraf.generation.result import SummaryResult
from nutgraf.modeling.losses import DeviceMemoryError
from nutgraf.serving.errors import RequestError, stopping_error
from nutgraf.serving.limits import Limits
from nutgraf.serving.metrics import Metrics, log_place
from nutgraf.serving.models import Models

# A batch of n summaries takes about as long as 1 + n units (docs/log.md). How long a unit is, the
# batches show; the last one has this weight.
_FIXED_UNITS, _SMOOTHING = 1, 0.3
_CANDIDATES_OF_UNIT = 4  # they share the reading of their article
_SHARE = 0.8  # of the time limit that work may be estimated to take
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
    candidates: int = 1  # of which one is chosen
    max_new_tokens: int | None = None  # if fewer than in the study
    checked: bool = False  # if this server checks facts
    deadline: float = math.inf  # of the estimate, on the monotonic clock
    closed: bool = False  # answered, or not wanted any more

    @property
    def kind(self) -> tuple[str, int, int | None]:
        """Return what jobs that are written together have in common."""
        return self.system, self.candidates, self.max_new_tokens


class Worker:
    """A thread that writes summaries while a `with` block lasts."""

    def __init__(self, models: Models, limits: Limits, batch_size: int, metrics: Metrics) -> None:
        self._models, self._limits, self._metrics = models, limits, metrics
        self._batch_size = batch_size
        self._queue: list[Job] = []
        self._running: list[Job] = []
        self._changed = threading.Condition()
        self._unit_seconds = 0.0  # 0 before the first batch
        self._started = 0.0  # when the running batch was
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
            raise stopping_error()

    def stop(self) -> None:
        """Refuse what waits and what comes; what is being written goes on."""
        with self._changed:
            self._stopping = True
            waiting, self._queue = self._queue, []
            self._changed.notify_all()
        for job in waiting:
            self._answer(job, stopping_error())

    def refuse_running(self) -> None:
        """End what is being written, with the reason."""
        for job in self._running:
            self._answer(job, stopping_error())

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
            for job in jobs:
                job.deadline = time.monotonic() + _SHARE * self._limits.time_limit
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
        waits = self._waits([*self._queue, *jobs])
        own, limits = max(waits[job] for job in jobs), self._limits
        asked = f"{self.unanswered} summaries are waiting and {len(jobs)} more asked for"
        if self.unanswered + len(jobs) > limits.max_queue:
            raise _busy(f"{asked}, limit {limits.max_queue} (--max-queue)", max(waits.values()))
        if own > _SHARE * limits.time_limit:
            line = f"{asked}, about {own:.3g} s of work, too much for the {limits.time_limit:g} s"
            raise _busy(f"{line} of --time-limit", own - _SHARE * limits.time_limit)

    def _waits(self, queue: Sequence[Job]) -> dict[Job, float]:
        """Estimate in how many seconds each job of a queue is ready."""
        left, waits = list(queue), dict[Job, float]()
        end = self._started + self._unit_seconds * _units(self._running)
        seconds = max(0.0, end - time.monotonic()) if self._running else 0.0
        while batch := self._batch(left):
            seconds += self._unit_seconds * _units(batch)
            waits |= dict.fromkeys(batch, seconds)
            left = [job for job in left if job not in waits]
        return waits

    def _refuse_late(self) -> None:
        """Refuse those that wait and cannot be ready in time, the youngest first."""
        while True:
            with self._changed:
                waits, now = self._waits(self._queue), time.monotonic()
                late = [job for job in self._queue if now + waits[job] > job.deadline]
                if not late:
                    return
                self._queue.remove(late[-1])
            seconds = waits[late[-1]]
            line = f"{len(waits)} summaries are waiting, about {seconds:.3g} s of work, too much "
            line += f"for the {self._limits.time_limit:g} s of --time-limit"
            self._answer(late[-1], _busy(line, now + seconds - late[-1].deadline))

    def _work(self) -> None:
        while self._next_jobs():
            self._started = time.monotonic()
            whole = self._write(self._running)
            release_memory()
            if whole and (units := _units(self._running)):
                unit = (time.monotonic() - self._started) / units
                weight = _SMOOTHING if self._unit_seconds else 1.0
                self._unit_seconds += weight * (unit - self._unit_seconds)
            self._running = []
            self._refuse_late()

    def _next_jobs(self) -> bool:
        """Take the oldest job and those that go with it off the queue; return False at the end."""
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._queue or self._stopping)
                self._changed.wait_for(
                    lambda: self._is_full(self._batch(self._queue)),
                    self._limits.batch_wait,
                )
                if self._stopping:
                    return False
                if self._queue:
                    self._running = self._batch(self._queue)
                    self._queue = [job for job in self._queue if job not in self._running]
                    return True

    def _batch(self, queue: Sequence[Job]) -> list[Job]:
        """Return the oldest job and those that are written together with it."""
        if not queue:
            return []
        alike = [job for job in queue if job.kind == queue[0].kind]
        return alike[: self._room(queue[0])]

    def _room(self, job: Job) -> int:
        """Return how many jobs like this one are written together at most."""
        return max(1, self._batch_size // _weight(job))

    def _is_full(self, batch: Sequence[Job]) -> bool:
        return not batch or len(batch) == self._room(batch[0])

    def _write(self, jobs: Sequence[Job]) -> bool:
        """Write the summaries of jobs of one kind; return whether any became whole."""
        self._metrics.batch_size.observe(len(jobs))
        articles, streamed = [job.article for job in jobs], [job.streamed for job in jobs]
        pieces, shown = [""] * len(jobs), [0.0] * len(jobs)
        whole: list[bool] = []
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
                whole.append(self._answer(job, event))
            return not job.closed

        try:
            system, candidates, limit = jobs[0].kind
            checked = [job.checked for job in jobs]
            self._models.write(system, articles, streamed, on_event, candidates, limit, checked)
        except Exception as error:
            refusal = self._request_error(error, len(jobs))
            for job in jobs:
                self._answer(job, refusal)
        return any(whole)

    def _answer(self, job: Job, answer: SummaryResult | RequestError) -> bool:
        """Answer a job; return False if it was closed before."""
        if not self._close(job):
            return False
        if isinstance(answer, SummaryResult):
            self._metrics.summaries.labels(job.system).inc()
            self._metrics.new_tokens.labels(job.system).inc(answer.new_tokens)
        job.on_event(job, answer)
        return True

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


def _units(jobs: Sequence[Job]) -> int:
    """Return how much work a batch is; extracts are none."""
    written = [job for job in jobs if job.system not in EXTRACTIVE_SYSTEMS]
    return _FIXED_UNITS + sum(map(_weight, written)) if written else 0


def _weight(job: Job) -> int:
    """Return how many summaries a job's candidates take as long as."""
    return math.ceil(job.candidates / _CANDIDATES_OF_UNIT)


def _busy(line: str, seconds: float) -> RequestError:
    wait = min(_MAX_RETRY_AFTER, max(1, math.ceil(seconds)))
    return RequestError(429, f"{line}: ask again in {wait} s", retry_after=wait)
