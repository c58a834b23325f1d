"""What a signal raises arrives, though others catch it, and leaves the cleaning up in peace."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator

import pytest

from nutgraf.core import signals


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(signals, "RETRY_SECONDS", 0.05)
    # A shell starts what runs in the background with Ctrl-C ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def signalled(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)
    time.sleep(5)


def caught_by_a_library() -> None:
    with contextlib.suppress(BaseException):
        signalled(signal.SIGTERM)


def dropped_by_python() -> None:
    class Mortal:
        def __del__(self) -> None:
            signalled(signal.SIGTERM)

    Mortal()


def stopped_in(block: Callable[[], object]) -> BaseException:
    """What the block raises that is run where signals are listened to."""
    with pytest.raises(BaseException) as raised, signals.stop_on_signals():  # noqa: PT011
        block()
    return raised.value


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("lost", [caught_by_a_library, dropped_by_python])
def test_what_was_lost_is_raised_again(lost):
    def block() -> None:
        lost()
        time.sleep(5)

    started = time.monotonic()
    assert str(stopped_in(block)) == "stopped by SIGTERM"
    assert time.monotonic() - started < 2


@pytest.mark.parametrize("replaced", [False, True])
def test_what_is_on_its_way_out_is_not_raised_again(replaced):
    """Nor is what Ray raises in its place."""
    cleaned = []

    def clean() -> None:
        time.sleep(0.3)
        try:
            raise ValueError("a failure of the cleaning, and one that is dealt with")
        except ValueError:
            time.sleep(0.3)
        cleaned.append(True)

    def block() -> None:
        try:
            signalled(signal.SIGINT)
        except KeyboardInterrupt:
            if replaced:
                raise KeyboardInterrupt from None
            raise
        finally:
            clean()

    assert isinstance(stopped_in(block), signals.Stopped) is not replaced
    assert cleaned


def test_what_fails_after_it_is_its_cause():
    def block() -> None:
        caught_by_a_library()
        raise RuntimeError("No module named 'version'")

    stop = stopped_in(block)
    assert str(stop) == "stopped by SIGTERM"
    assert str(stop.__cause__) == "No module named 'version'"


def test_a_failure_while_a_signal_is_only_noted_is_told():
    def block() -> None:
        with signals.deferred_stop():
            os.kill(os.getpid(), signal.SIGTERM)
            raise ValueError("loss is nan")

    assert str(stopped_in(block)) == "loss is nan"


def test_after_the_block_all_is_as_it_was():
    names = (signal.SIGTERM, signal.SIGINT, signal.SIGALRM)
    before = [signal.getsignal(name) for name in names]
    assert str(stopped_in(lambda: signalled(signal.SIGTERM))) == "stopped by SIGTERM"
    assert [signal.getsignal(name) for name in names] == before
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def test_only_the_signals_named_are_listened_to():
    with pytest.raises(KeyboardInterrupt) as raised, signals.stop_on_signals(signal.SIGTERM):
        signalled(signal.SIGINT)
    assert not isinstance(raised.value, signals.Stopped)
