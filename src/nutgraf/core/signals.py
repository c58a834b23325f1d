"""Stop on SIGTERM and Ctrl-C so that the same command carries on, and say so.

The exception that a signal raises can get lost: libraries catch everything, and Python drops what
is raised in a `__del__` (of 649 signals while libraries were loaded, 3 did not arrive as raised).
So it is raised again every `RETRY_SECONDS` until it is on its way out, and what fails after it does
not hide it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType

RETRY_SECONDS = 1.0

_handled: tuple[int, ...] = ()  # signals of the innermost `stop_on_signals`
_deferring = False
_pending: int | None = None  # the signal that `deferred_stop` has noted
_raised: int | None = None  # the signal that `Stopped` was raised for since `stop_on_signals`


class Stopped(KeyboardInterrupt):
    """The end of a program that was asked to stop by the signal `number`."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number

    @property
    def exit_code(self) -> int:
        """Return what a shell reports for the signal: 143 for SIGTERM, 130 for Ctrl-C."""
        return 128 + self.number


def as_stopped(interrupt: KeyboardInterrupt) -> Stopped:
    """Return `interrupt` as Stopped: Ray raises a KeyboardInterrupt of its own in its place."""
    return interrupt if isinstance(interrupt, Stopped) else Stopped(_raised or signal.SIGINT)


@contextlib.contextmanager
def stop_on_signals(*numbers: int) -> Iterator[None]:
    """Raise Stopped in the block on SIGTERM and Ctrl-C, or on the signals given.

    `deferred_stop` delays it. What fails after the signal is the cause of the Stopped that leaves
    the block.
    """
    global _raised
    _raised = None
    numbers = numbers or (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.getsignal(number) for number in (*numbers, signal.SIGALRM)}
    _handle(*numbers)
    try:
        yield
    except Exception as error:
        if _raised is None:
            raise
        raise Stopped(_raised) from error
    finally:
        if _raised is not None:
            signal.setitimer(signal.ITIMER_REAL, 0)
        _handle()
        for number, handler in before.items():
            if handler is not None:  # None if it was not set from Python
                signal.signal(number, handler)


def restore_handlers() -> None:
    """Take the signals of `stop_on_signals` back from Ray, which takes SIGTERM over."""
    if _handled and threading.current_thread() is threading.main_thread():
        _handle(*_handled)


@contextlib.contextmanager
def deferred_stop() -> Iterator[Callable[[], int | None]]:
    """Only note a signal in the block; yield a function that returns its number, or None.

    The block raises `Stopped` itself when it is ready, else its end does. A second Ctrl-C raises it
    at once.
    """
    global _deferring, _pending
    restore_handlers()  # Ray keeps SIGTERM as long as the program runs
    outer, _deferring = _deferring, True
    _pending = _pending if outer else None
    try:
        yield lambda: _pending
        if _pending is not None:
            raise Stopped(_pending)
    finally:
        _deferring = outer


def _handle(*numbers: int) -> None:
    global _handled
    _handled = numbers
    for number in numbers:
        signal.signal(number, _on_signal)


def _on_signal(number: int, frame: FrameType | None) -> None:
    global _pending, _raised
    if not _deferring or (_pending is not None and number == signal.SIGINT):
        _raised = number
        signal.signal(signal.SIGALRM, _on_alarm)
        signal.setitimer(signal.ITIMER_REAL, RETRY_SECONDS, RETRY_SECONDS)
        raise Stopped(number)
    if _pending is None:
        # Not with print, which may be what the signal has interrupted.
        os.write(2, f"\n{signal.Signals(number).name}: stopping after this step\n".encode())
    _pending = number


def _on_alarm(number: int, frame: FrameType | None) -> None:
    """Raise Stopped again, unless an interrupt is being handled: in a `finally`, say."""
    error = sys.exception()
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return
        error = error.__context__
    assert _raised is not None
    raise Stopped(_raised)
