"""Show how far long work is: a bar on a terminal, a line of the log now and then elsewhere."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import sys
import time
from typing import Any

from tqdm import tqdm

from nutgraf.core.units import duration, rate

logger = logging.getLogger(__name__)

# Between two lines of a log are so many seconds at least, and a share of the work or so many more.
SOONEST, SHARE, LATEST = 60.0, 1 / 20, 600.0
_FORMAT = "{percentage:3.0f}%|{bar:20}| {desc}"


class Progress(contextlib.AbstractContextManager["Progress"]):
    """How many of `total` articles are done, how many a second, and how much time is left.

    Articles that were done before the first `update` count, but not for the speed. If `at_most`,
    fewer than `total` may be needed.
    """

    def __init__(self, title: str, total: int, at_most: bool = False) -> None:
        self.title, self.total, self.bound = title, total, "at most " if at_most else ""
        self.done = 0
        self._first: tuple[int, float] | None = None
        self._bar: Any = None
        self._logged, self._at = 0, time.monotonic()
        # A process that runs beside others sends lines to the log that they share.
        self._has_terminal = sys.stderr.isatty() and multiprocessing.parent_process() is None

    def update(self, done: int, total: int | None = None) -> None:
        """Say that `done` articles are done, of `total` if that has changed."""
        now = time.monotonic()
        self.done, self.total = done, self.total if total is None else total
        self._first = self._first or (done, now)
        if self._has_terminal:
            self._bar = self._bar or tqdm(total=total, desc=str(self), bar_format=_FORMAT)
            self._bar.total = self.total
            self._bar.set_description_str(str(self), refresh=False)
            self._bar.update(done - self._bar.n)
        elif now - self._at >= SOONEST and (
            done - self._logged >= SHARE * self.total or now - self._at >= LATEST
        ):
            logger.info(str(self))
            self._logged, self._at = done, now

    def __str__(self) -> str:
        """Return all of it on a line."""
        words = f"{self.title}  {self.done:,} of {self.bound}{self.total:,} articles"
        before, since = self._first or (0, 0.0)
        if self.done <= before:
            return words
        speed = (self.done - before) / max(1e-9, time.monotonic() - since)
        left = duration((self.total - self.done) / speed)
        return f"{words}, {rate(speed)} a second, {self.bound}{left} left"

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
