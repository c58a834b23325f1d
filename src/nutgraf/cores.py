"""Work in several processes: the same on many rows, or a few long jobs side by side.

Processes are spawned, not forked, so threads of torch or Ray do no harm; functions have to be ones
of a module, and a script that calls this needs `if __name__ == "__main__":`. A process ends with
the one that started it, however that ends.
"""

from __future__ import annotations

import functools
import logging
import math
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from logging.handlers import QueueHandler
from multiprocessing.connection import Connection, wait
from multiprocessing.reduction import ForkingPickler
from typing import Any, Protocol, TypeVar, cast

from tqdm import tqdm

from nutgraf import stopping
from nutgraf.loading import quickly
from nutgraf.problems import Failure

logger = logging.getLogger(__name__)

Row = TypeVar("Row")
Result = TypeVar("Result")

_LOG = logging.getLogger("nutgraf")  # of the package
_SPAWN = multiprocessing.get_context("spawn")
_CHUNK = 32
_LOOK = 0.2  # seconds between two looks at whether to stop


class Spread(Protocol):
    """`spread`, or one that does the same elsewhere."""

    def __call__(
        self,
        function: Callable[[Row], Result],
        rows: Sequence[Row],
        *,
        rows_per_process: int,
        processes: int | None = None,
        progress: str | None = None,
    ) -> list[Result]: ...


def spread(
    function: Callable[[Row], Result],
    rows: Sequence[Row],
    *,
    rows_per_process: int,
    processes: int | None = None,
    progress: str | None = None,
) -> list[Result]:
    """`function` of each row, in order, over all cores (or `processes`) where there are many rows.

    `rows_per_process` is how many rows take as long as starting a process; `progress` labels a bar.
    What `function` raises is raised here. Raises Failure where a process is killed.
    """
    workers = min(processes or os.cpu_count() or 1, math.ceil(len(rows) / rows_per_process))
    hidden = None if progress else True  # None: on a terminal only
    bar = functools.partial(tqdm, total=len(rows), desc=progress, disable=hidden)
    if workers <= 1:
        return list(bar(map(function, rows)))
    chunk = min(_CHUNK, math.ceil(len(rows) / workers))
    with ProcessPoolExecutor(workers, mp_context=_SPAWN, initializer=_obey) as pool:
        try:
            return list(bar(pool.map(function, rows, chunksize=chunk)))
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        except BrokenProcessPool:
            raise Failure(
                f"one of {workers} processes was killed, maybe for want of memory: free some; "
                "the same command carries on"
            ) from None


def side_by_side(
    function: Callable[[Row], Result], rows: Sequence[Row], *, processes: int
) -> list[Result]:
    """`function` of each row, in order, each in a process of its own, `processes` at a time.

    For long work, which another's failure must not end: where one fails, which is said, the others
    go on, and what it raised is raised at the end. A signal to stop is passed on, and raised here
    (`stopping.Stopped`) when all have ended as they do. Raises Failure where a process is killed.
    """
    jobs = [_Job(function, row) for row in rows]
    waiting, running = list(jobs), list[_Job]()
    try:
        with stopping.later() as asked:
            while running or (waiting and not asked()):
                while waiting and len(running) < processes and not asked():
                    running.append(waiting.pop(0).start())
                wait([job.answers for job in running], timeout=_LOOK)
                if asked():
                    for job in running:
                        job.stop()
                running = [job for job in running if not job.is_over()]
    finally:
        for job in running:
            job.process.kill()
    for job in jobs:
        if job.error:
            raise job.error
    return [job.result for job in jobs]


class _Job:
    """One call of a function in a process of its own."""

    def __init__(self, function: Callable[[Any], Any], row: Any) -> None:
        self.answers, self.theirs = _SPAWN.Pipe(duplex=False)
        # Pickled apart, so that what it needs is loaded `quickly` there.
        work = ForkingPickler.dumps((function, row))
        level = _LOG.getEffectiveLevel()
        self.process = _SPAWN.Process(target=_answer, args=(bytes(work), self.theirs, level))
        self.stopped = False
        self.result: Any = None
        self.error: BaseException | None = None

    def start(self) -> _Job:
        self.process.start()
        self.theirs.close()  # so that its end is seen here
        return self

    def stop(self) -> None:
        if not self.stopped:
            self.process.terminate()
            self.stopped = True

    def is_over(self) -> bool:
        """Whether it has ended; `result` or `error` is set then."""
        if not self.answers.poll():
            return False
        try:
            answer = self.answers.recv()
            if isinstance(answer, logging.LogRecord):
                logging.getLogger(answer.name).handle(answer)
                return False
            self.result, self.error = answer
        except EOFError:  # it ended without a word
            self.process.join()
            self.error = Failure(
                f"a process ended with status {self.process.exitcode} (-9 is a kill, maybe for "
                "want of memory: free some); the same command carries on from its last checkpoint"
            )
        if self.error and not self.stopped:
            logger.warning(f"failed, what else is under way goes on: {self.error}")
        self.process.join()
        return True


class _ToParent(QueueHandler):
    """Hand log records to the process that started this one, which shows them as its own."""

    queue: Any  # a Connection

    def enqueue(self, record: logging.LogRecord) -> None:
        self.queue.send(record)


def _answer(work: bytes, answers: Connection, level: int) -> None:
    _obey()
    _LOG.setLevel(level)
    _LOG.addHandler(_ToParent(cast(Any, answers)))
    _LOG.propagate = False
    try:
        with stopping.listening(signal.SIGTERM):
            with quickly():
                function, row = ForkingPickler.loads(work)
            answers.send((function(row), None))
    except stopping.Stopped as stop:
        sys.exit(stop.exit_code)
    except Exception as error:
        error.add_note(traceback.format_exc())
        answers.send((None, error))


def _obey() -> None:
    """Leave Ctrl-C to the process that started this one, and end when that one has ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
