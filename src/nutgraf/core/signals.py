"""SIGTERM and Ctrl-C: work ends where the same command carries on, then the program says so.

What a signal raises can get lost: libraries catch all that goes wrong, those written in C too, and
Python drops what is raised in a `__del__`. Of 649 signals that came while the libraries of the
search were loaded 2 were lost, and 1 came out as a RuntimeError. So where it is not on its way out
after `AGAIN` seconds it is raised again, and what fails after it does not hide it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType

AGAIN = 1.0  # seconds


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
    return by if isinstance(by, Stopped) else Stopped(_raised or signal.SIGINT)


@contextlib.contextmanager
def stop_on_signals(*numbers: int) -> Iterator[None]:
    """In the block SIGTERM and Ctrl-C, or the signals given, raise Stopped: at once, or where
    `later` says. What fails after that is the cause of the Stopped that leaves the block."""
    global _raised
    _raised = None
    numbers = numbers or (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.getsignal(number) for number in (*numbers, signal.SIGALRM)}
    _listen(*numbers)
    try:
        yield
    except Exception as error:
        if _raised is None:
            raise
        raise Stopped(_raised) from error
    finally:
        if _raised is not None:
            signal.setitimer(signal.ITIMER_REAL, 0)
        _listen()
        for number, handler in before.items():
            if handler is not None:  # None where it was not set from Python
                signal.signal(number, handler)


def listen_again() -> None:
    """Within `listening` take its signals back: Ray takes SIGTERM over."""
    if _heard and threading.current_thread() is threading.main_thread():
        _listen(*_heard)


@contextlib.contextmanager
def deferred_stop() -> Iterator[Callable[[], int | None]]:
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
_raised: int | None = None  # signal that `Stopped` was raised for since `listening`


def _listen(*numbers: int) -> None:
    global _heard
    _heard = numbers
    for number in numbers:
        signal.signal(number, _on_signal)


def _on_signal(number: int, frame: FrameType | None) -> None:
    global _asked, _raised
    if not _waits or (_asked is not None and number == signal.SIGINT):
        _raised = number
        signal.signal(signal.SIGALRM, _on_alarm)
        signal.setitimer(signal.ITIMER_REAL, AGAIN, AGAIN)
        raise Stopped(number)
    if _asked is None:
        # Not with print, which may be what the signal has interrupted.
        os.write(2, f"\n{signal.Signals(number).name}: stopping after this step\n".encode())
    _asked = number


def _on_alarm(number: int, frame: FrameType | None) -> None:
    """Raise it again, unless what was raised is being dealt with: in a `finally`, say."""
    handled = sys.exception()
    while handled is not None:
        if isinstance(handled, KeyboardInterrupt):
            return
        handled = handled.__context__
    assert _raised is not None
    raise Stopped(_raised)
