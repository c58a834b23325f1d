"""Run a few long jobs in parallel, each in a process of its own."""

from __future__ import annotations

import logging
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from logging.handlers import QueueHandler
from multiprocessing.connection import wait
from multiprocessing.reduction import ForkingPickler
from typing import Any

from nutgraf.core import signals
from nutgraf.core.console import warn_in_a_line
from nutgraf.core.errors import Failure
from nutgraf.core.fast_import import fast_imports
from nutgraf.parallel.process_pool import SPAWN, Result, Row, follow_parent

logger = logging.getLogger(__name__)

_PACKAGE_LOGGER = logging.getLogger("nutgraf")
_POLL_SECONDS = 0.2  # between two looks at whether to stop


def run_jobs(
    function: Callable[[Row], Result], rows: Sequence[Row], *, processes: int
) -> list[Result]:
    """Return `function` of each row, in order, each in a process of its own, `processes` at a time.

    If one fails, which is logged, the others go on, and its exception is raised at the end. A
    signal to stop is passed on, and raised here (`signals.Stopped`) once all have ended.

    Raises:
        Failure: if a process is killed.
    """
    jobs, running = list[_Job](), list[_Job]()
    try:
        with signals.deferred_stop() as stop_requested:
            while running or (len(jobs) < len(rows) and not stop_requested()):
                while len(jobs) < len(rows) and len(running) < processes and not stop_requested():
                    jobs.append(_Job(function, rows[len(jobs)]))
                    running.append(jobs[-1])
                wait([job.results for job in running], timeout=_POLL_SECONDS)
                if stop_requested():
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
        self.results, sender = SPAWN.Pipe(duplex=False)
        # Pickled apart, so that its modules are loaded with `fast_imports` there.
        work = bytes(ForkingPickler.dumps((function, row)))
        level = _PACKAGE_LOGGER.getEffectiveLevel()
        self.process = SPAWN.Process(target=_run, args=(work, sender, level))
        self.stopped = False
        self.result: Any = None
        self.error: BaseException | None = None
        self.process.start()
        sender.close()  # so that the end of the process is seen here

    def stop(self) -> None:
        if not self.stopped:
            self.process.terminate()
            self.stopped = True

    def is_over(self) -> bool:
        """Return whether it has ended; `result` or `error` is set then."""
        if not self.results.poll():
            return False
        try:
            message = self.results.recv()
            if isinstance(message, logging.LogRecord):
                logging.getLogger(message.name).handle(message)
                return False
            self.result, self.error = message
        except EOFError:  # it ended without a result
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
    """Send log records to the process that started this one, which logs them as its own."""

    queue: Any  # a Connection

    def enqueue(self, record: logging.LogRecord) -> None:
        self.queue.send(record)


def _run(work: bytes, sender: Any, level: int) -> None:
    follow_parent()
    _PACKAGE_LOGGER.setLevel(level)
    _PACKAGE_LOGGER.addHandler(_ToParent(sender))
    _PACKAGE_LOGGER.propagate = False
    warnings.showwarning = warn_in_a_line
    try:
        with signals.stop_on_signals(signal.SIGTERM):
            with fast_imports():
                function, row = ForkingPickler.loads(work)
            sender.send((function(row), None))
    except signals.Stopped as stop:
        sys.exit(stop.exit_code)
    except Exception as error:
        error.add_note(traceback.format_exc())
        sender.send((None, error))
