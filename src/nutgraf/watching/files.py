"""Read files that others are writing: each again only if it has changed, logs from where they were.

A file that is gone, half written or damaged is as if it were not there: the study says what is
wrong with it when it reads it.
"""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nutgraf.pipeline.run_log import BEGINS, DONE_BEFORE

_LINES = 300  # the last ones of a log


class Files:
    """What is in files, by path and reader."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, Callable[[str], Any]], tuple[tuple[int, ...], Any]] = {}

    def read(self, path: Path, reader: Callable[[str], Any] = json.loads) -> Any:
        """Return what `reader` makes of the text, the same object while the file is the same."""
        key = (str(path), reader)
        try:
            stat = path.stat()
            version = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
            known = self._known.get(key)
            if known is None or known[0] != version:
                known = self._known[key] = (version, reader(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, KeyError):
            self._known.pop(key, None)
            return None
        return known[1]


class LogTail:
    """The last lines of a log.jsonl, which grows; only what is new is read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._begin(0)

    def _begin(self, inode: int) -> None:
        self._inode, self._place = inode, 0
        self.lines: deque[dict[str, Any]] = deque(maxlen=_LINES)
        self.problems: deque[dict[str, Any]] = deque(maxlen=_LINES)
        # Of the latest session: when each stage began, and the artefacts that stay as they are.
        self.began: dict[str, float] = {}
        self.current: set[str] = set()
        self.total = 0

    def update(self) -> None:
        """Read the whole lines that have been added."""
        try:
            with self._path.open("rb") as file:
                stat = os.fstat(file.fileno())
                if (stat.st_ino, self._place) != (self._inode, min(self._place, stat.st_size)):
                    self._begin(stat.st_ino)  # another file, or a shorter one
                file.seek(self._place)
                new = file.read()
        except FileNotFoundError:
            return
        whole, newline, _ = new.rpartition(b"\n")
        self._place += len(whole) + len(newline)
        for line in whole.split(b"\n"):
            try:
                row = json.loads(line)
                self._add({name: row[name] for name in ("time", "level", "stage", "text")})
            except (ValueError, KeyError, TypeError):
                continue  # a kill or a full disk tore it

    def _add(self, row: dict[str, Any]) -> None:
        self.total += 1
        self.lines.append(row)
        if row["text"].startswith(BEGINS):
            self.began.clear()
            self.current.clear()
            self.problems.clear()
        if row["stage"]:
            self.began.setdefault(row["stage"], row["time"])
        if row["text"].endswith(DONE_BEFORE):
            self.current.add(row["text"].removesuffix(DONE_BEFORE))
        if row["level"] != "info":
            self.problems.append(row)
