"""SIGTERM and Ctrl-C: work ends where the same command carries on, then the program says so."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType


class Stopped(KeyboardInterrupt):
    """The end of a program that was asked to stop by the signal `number`."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number

    @property
    def exit_code(self) -> int:
        """What a shell gives a program that the signal ended: 143 for SIGTERM, 130 for Ctrl-C."""
        return 128 + self.number


def stopped(by: KeyboardInterrupt) -> Stopped:
    """`by` itself, or what it stands for: Ray raises one of its own in place of ours."""
    return by if isinstance(by, Stopped) else Stopped(_latest or signal.SIGINT)


def listen(*numbers: int) -> None:
    """From now on these signals raise Stopped in this process: at once, or where `later` says."""
    global _heard
    _heard = numbers
    for number in numbers:
        signal.signal(number, _on_signal)


def listen_again() -> None:
    """Take back the signals of `listen`, where it was called: Ray takes SIGTERM over."""
    if _heard and threading.current_thread() is threading.main_thread():
        listen(*_heard)


@contextlib.contextmanager
def listening() -> Iterator[None]:
    """`listen` to SIGTERM and Ctrl-C within the block."""
    global _latest
    _latest = None
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    listen(*before)
    try:
        yield
    finally:
        listen()
        for number, handler in before.items():
            if handler is not None:  # None where it was not set from Python
                signal.signal(number, handler)


@contextlib.contextmanager
def later() -> Iterator[Callable[[], int | None]]:
    """In the block a signal is only noted: what is given tells its number, None as long as none.

    The block ends itself with `Stopped`, where it is ready; a second Ctrl-C raises it at once. A
    signal that the block has not looked at any more is raised at its end.
    """
    global _waits, _asked
    listen_again()  # Ray keeps SIGTERM for as long as the program runs
    outer, _waits = _waits, True
    _asked = _asked if outer else None
    try:
        yield lambda: _asked
        if _asked is not None:
            raise Stopped(_asked)
    finally:
        _waits = outer


_heard: tuple[int, ...] = ()
_waits = False
_asked: int | None = None
_latest: int | None = None  # signal that came since `listening`


def _on_signal(number: int, frame: FrameType | None) -> None:
    global _asked, _latest
    _latest = number
    if not _waits or (_asked is not None and number == signal.SIGINT):
        raise Stopped(number)
    if _asked is None:
        # Not with print, which may be what the signal has interrupted.
        os.write(2, f"\n{signal.Signals(number).name}: stopping after this step\n".encode())
    _asked = number
