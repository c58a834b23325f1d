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
from nutgraf.core.errors import library_message, one_line
from nutgraf.core.signals import as_stopped

NAME = "log.jsonl"
_LOGGER = logging.getLogger("nutgraf")


class RunLog(logging.Handler):
    """Append a line of JSON a message: time, level, the stage that was running, text.

    If the disk takes no more, one message says so, and the study goes on without.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path, self.stage, self._full = path, "", False

    def emit(self, record: logging.LogRecord) -> None:
        """Append a message of the log."""
        self.add(record.levelname.lower(), record.getMessage())

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


@contextlib.contextmanager
def logged(folder: Path) -> Iterator[RunLog]:
    """Write what is logged in the block, and what ends it, to the log of a run folder."""
    log = RunLog(folder / NAME)
    log.add(
        "info", f"begins: process {os.getpid()} on {socket.gethostname()}, nutgraf {__version__}"
    )
    _LOGGER.addHandler(log)
    try:
        yield log
    except KeyboardInterrupt as interrupt:
        log.add("warning", str(as_stopped(interrupt)))
        raise
    except Exception as error:
        log.add("error", _words(error))
        raise
    else:
        log.add("info", "ends: all that was asked for is there")
    finally:
        _LOGGER.removeHandler(log)


def _words(error: Exception) -> str:
    """Return an error as the command line prints it."""
    if isinstance(error, OSError):
        return f"{error.strerror or error}: {error.filename or ''}".rstrip(": ")
    return str(error) if hasattr(error, "exit_code") else library_message(error)
