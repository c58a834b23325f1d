"""The `nutgraf` command within the test's process, which has loaded the large libraries before.

A process of its own costs five to ten seconds of a core for them. It is worth that where the
process itself is the promise: its signals, its end, what it loads.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO
from unittest import mock

from nutgraf.cli import main


@dataclass(frozen=True)
class Result:
    """What a command printed, child processes included, and its exit status."""

    status: int
    stdout: str
    stderr: str


def run(*words: str, status: int = 0, stdin: str = "") -> Result:
    """Run `nutgraf WORDS`; fails the test if the exit status is another than `status`."""
    with _captured("stdout") as out, _captured("stderr") as err:
        with mock.patch.object(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode()))):
            ended = main.main(words)
        for file in (out, err):
            file.seek(0)
        result = Result(ended, out.read(), err.read())
    assert result.status == status, result.stderr
    return result


@contextlib.contextmanager
def _captured(name: str) -> Iterator[IO[str]]:
    """Send what this process and its children write to a standard stream to a file."""
    stream = getattr(sys, name)
    stream.flush()
    descriptor = {"stdout": 1, "stderr": 2}[name]
    before = os.dup(descriptor)
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="backslashreplace") as file:
        file.reconfigure(line_buffering=True)
        os.dup2(file.fileno(), descriptor)
        try:
            with mock.patch.object(sys, name, file):
                yield file
        finally:
            os.dup2(before, descriptor)
            os.close(before)
