"""Measure how long work takes on a quiet machine, also while other programs take some of it."""

from __future__ import annotations

import time
from collections.abc import Callable

import psutil


class Stopwatch:
    """The time that work of this process would have taken alone on the machine, in seconds.

    `threads` compute. Processor time that they did not get while other programs used as much counts
    as lost. Time is counted up to the latest call of `now`.

    Args:
        threads: Threads of this process that compute; 0 if a GPU does, of which nothing is lost.
        wait: Called before each look at the clock; for a GPU, waits until it has finished.
    """

    def __init__(self, threads: int, wait: Callable[[], None] = lambda: None) -> None:
        self.threads, self._wait = threads, wait
        self.wall = self.quiet = self.others = 0.0
        self._at = self._look()

    def now(self) -> float:
        """Return the seconds so far, without what was lost."""
        before, self._at = self._at, self._look()
        wall, own, all_programs = (b - a for a, b in zip(before, self._at, strict=True))
        others = max(0.0, all_programs - own)
        lost = min(others, max(0.0, self.threads * wall - own))
        self.wall += wall
        self.others += others
        self.quiet += wall * own / (own + lost) if self.threads and own else wall
        return self.quiet

    @property
    def cores_of_others(self) -> float:
        """The mean number of cores that other programs used."""
        return self.others / self.wall if self.wall else 0.0

    def _look(self) -> tuple[float, float, float]:
        """Return the time, this process's processor time, and that of all programs."""
        self._wait()
        cores = psutil.cpu_times()
        idle = cores.idle + getattr(cores, "iowait", 0.0)
        # On Linux `guest` is a part of `user`.
        guests = getattr(cores, "guest", 0.0) + getattr(cores, "guest_nice", 0.0)
        return time.perf_counter(), time.process_time(), sum(cores) - idle - guests
