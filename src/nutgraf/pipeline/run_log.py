"""Write the log of a study into its run folder, for whoever watches it or comes later."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from nutgraf import __version__
from nutgraf.core.errors import library_message, one_line, os_error_message
from nutgraf.core.signals import as_stopped

NAME = "log.jsonl"
# How the first line of a session begins, and the last one of a process that was not killed.
BEGINS, ENDS = "begins: process ", ("ends: ", "stopped by ")
DONE_BEFORE = ": done before"  # behind the name of an artefact that a stage leaves as it is
_LOGGER = logging.getLogger("nutgraf")


class RunLog(logging.Handler):
    """Append a line of JSON a message: time, level, the stage that was running, text.

    If the disk takes no more, one message says so, and the study goes on without.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path, self.stage, self._full = path, "", False
        self._others = logging.Logger("nutgraf")

    def emit(self, record: logging.LogRecord) -> None:
        """Append a message of the log, and pass it on to who else gets it."""
        self.add(record.levelname.lower(), record.getMessage())
        if record.levelno >= self._others.level:
            self._others.callHandlers(record)

    def add(self, level: str, text: str) -> None:
        """Append one line, which no other process can write into."""
        row = {"time": round(time.time(), 3), "level": level, "stage": self.stage}
        line = json.dumps({**row, "text": one_line(text)}, ensure_ascii=False) + "\n"
        if self._full:
            return
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(line)
        except OSError as error:
            self._full = True
            _LOGGER.warning(f"{self.path} gets no more lines: {error.strerror or error}")

    def end_torn_line(self) -> None:
        """End the last line if an earlier process could write only a part of it."""
        with contextlib.suppress(OSError), self.path.open("r+b") as file:  # or there is no log yet
            if file.seek(0, os.SEEK_END):
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    file.write(b"\n")

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Take all messages from INFO on in the block; others get those that they would without.

        A program that calls nutgraf may show warnings alone, or leave logging as it is.
        """
        level, others = _LOGGER.level, self._others
        others.setLevel(_LOGGER.getEffectiveLevel())
        others.parent, others.propagate = _LOGGER.parent, _LOGGER.propagate
        others.handlers, _LOGGER.handlers = _LOGGER.handlers, [self]
        _LOGGER.propagate = False
        _LOGGER.setLevel(min(others.level, logging.INFO))
        try:
            yield
        finally:
            _LOGGER.handlers, _LOGGER.propagate = others.handlers, others.propagate
            _LOGGER.setLevel(level)


@contextlib.contextmanager
def logged(folder: Path) -> Iterator[RunLog]:
    """Write what is logged in the block, and what ends it, to the log of a run folder."""
    log = RunLog(folder / NAME)
    log.end_torn_line()
    log.add("info", f"{BEGINS}{os.getpid()} on {socket.gethostname()}, nutgraf {__version__}")
    try:
        with log.listening():
            yield log
    except KeyboardInterrupt as interrupt:
        log.add("warning", str(as_stopped(interrupt)))
        raise
    except Exception as error:
        log.add("error", _words(error))
        raise
    else:
        log.add("info", "ends: all that was asked for is there")


def _words(error: Exception) -> str:
    """Return an error as the command line prints it."""
    if isinstance(error, OSError):
        return os_error_message(error)
    return str(error) if hasattr(error, "exit_code") else library_message(error)
