"""A process that ends in the middle of its work on files, for tests within one process."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


class Killed(BaseException):
    """The end of a process in a test: nothing that touches the disk works after it."""


class Killer:
    """Lets `left` operations on files happen, then ends the process in the middle of its work."""

    events = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate")

    def __init__(self, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.place = str(place)
        self.left: int | None = None
        sys.addaudithook(self.hear)
        monkeypatch.setattr(os, "fsync", lambda file: self.step())

    def hear(self, event: str, args: tuple[Any, ...]) -> None:
        if event in self.events or (event == "open" and self.place in str(args[0])):
            self.step()

    def step(self) -> None:
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise Killed

    def survives(self, left: int, work: Callable[[], None]) -> bool:
        self.left = left
        try:
            work()
        except Killed:
            return False
        finally:
            self.left = None
        return True
