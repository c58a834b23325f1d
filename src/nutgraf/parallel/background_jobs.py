"""Run a few long jobs side by side, each in a process of its own."""

from __future__ import annotations

import logging
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from logging.handlers import QueueHandler
from multiprocessing.connection import Connection, wait
from multiprocessing.reduction import ForkingPickler
from typing import Any, cast

from nutgraf.core import signals
from nutgraf.core.errors import Failure
from nutgraf.core.fast_import import fast_imports
from nutgraf.parallel.process_pool import SPAWN, Result, Row, follow_parent

logger = logging.getLogger(__name__)

_LOG = logging.getLogger("nutgraf")  # of the package
_LOOK = 0.2  # seconds between two looks at whether to stop


def run_jobs(
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
        with signals.deferred_stop() as asked:
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
        self.answers, self.theirs = SPAWN.Pipe(duplex=False)
        # Pickled apart, so that what it needs is loaded `quickly` there.
        work = ForkingPickler.dumps((function, row))
        level = _LOG.getEffectiveLevel()
        self.process = SPAWN.Process(target=_answer, args=(bytes(work), self.theirs, level))
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
    follow_parent()
    _LOG.setLevel(level)
    _LOG.addHandler(_ToParent(cast(Any, answers)))
    _LOG.propagate = False
    try:
        with signals.stop_on_signals(signal.SIGTERM):
            with fast_imports():
                function, row = ForkingPickler.loads(work)
            answers.send((function(row), None))
    except signals.Stopped as stop:
        sys.exit(stop.exit_code)
    except Exception as error:
        error.add_note(traceback.format_exc())
        answers.send((None, error))
