"""How far long work is: a line now and then in a log, a bar on a terminal."""

from __future__ import annotations

import io
import logging
import sys

import pytest

from nutgraf.core import progress
from nutgraf.core.progress import Progress

logger = logging.getLogger("nutgraf.test_progress")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time in seconds, which a test sets."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_it_says_what_is_done_how_fast_and_what_is_left(clock: list[float]) -> None:
    search = Progress("search", 8_000, at_most=True)
    assert str(search) == "search  0 of at most 8,000 articles"
    search.update(400)  # from before a stop: not of this speed
    assert str(search) == "search  400 of at most 8,000 articles"
    clock[0] = 800.0
    search.update(1_000, total=6_400)
    line = "search  1,000 of at most 6,400 articles, 0.75 a second, at most 2 h 0 min left"
    assert str(search) == line
    best = Progress("best", 100)
    best.update(0)
    clock[0] += 2
    best.update(25)
    assert str(best) == "best  25 of 100 articles, 12 a second, 6 s left"


def test_a_log_has_a_line_now_and_then(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    """One a minute at most, one for a twentieth of the work or in ten minutes."""
    for seconds, lines in ((0.4, 6), (4, 20), (24, 40)):
        with Progress("best", 1_000) as best:
            for done in range(0, 1_001, 5):
                clock[0] += 5 * seconds
                best.update(done)
        printed = capsys.readouterr().err.splitlines()
        assert len(printed) == lines
        assert all(line.startswith("best  ") and line.endswith(" left") for line in printed)


def test_on_a_terminal_messages_stand_above_the_bar(
    clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = io.StringIO()
    terminal.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stderr", terminal)
    with Progress("best", 100) as best:
        best.update(0)
        clock[0] = 10.0
        best.update(50)
        logger.info("validation loss 2.034")
        best.update(100)
    screen = terminal.getvalue().split("\r")
    assert "validation loss 2.034\n" in screen
    assert any("50%|" in state and "best  50 of 100 articles, 5.0 a second" in state
               for state in screen)  # fmt: skip
    assert "100 of 100 articles" in screen[-1]
