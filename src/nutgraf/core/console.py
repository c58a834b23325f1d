"""The console: the log as lines on standard error, and styled lines that fit on standard output.

All messages of nutgraf go to the logger "nutgraf" and its children, so that a program that uses the
package can redirect or silence them. The command line calls `show_log`.
"""

from __future__ import annotations

import logging
import os
import sys
import textwrap
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

from nutgraf.core.errors import visible, without_secrets

WIDTH = 96
_COLOURS = {"red": "31", "green": "32", "bold": "1"}


@dataclass(frozen=True)
class Painted:
    """A line in one colour: red, green or bold."""

    text: str
    colour: str


class _StandardError(logging.Handler):
    """Print each message, alone and on one line, to what `sys.stderr` is at that moment.

    A closed pipe raises, as it does for `print`: logging's own handler would print a traceback.
    """

    def emit(self, record: logging.LogRecord) -> None:
        print(visible(without_secrets(record.getMessage())), file=sys.stderr, flush=True)


_LOGGER, _HANDLER = logging.getLogger("nutgraf"), _StandardError()


def show_log() -> None:
    """Print the log on standard error, from INFO on. A second call changes nothing."""
    _LOGGER.addHandler(_HANDLER)
    _LOGGER.setLevel(logging.INFO)


def harmless(text: str) -> str:
    """`text` in which what could drive a terminal stands as its code: `\\x1b`, `\\u202e`.

    Control characters, text directions and other format characters go; line ends stay.
    """
    return "".join(
        c if c == "\n" or unicodedata.category(c)[0] != "C" else c.encode("unicode_escape").decode()
        for c in text
    )


def coloured() -> bool:
    """Whether standard output takes colours: NO_COLOR and FORCE_COLOR count before what it is."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


def show(line: str | Painted, indent: str = "") -> None:
    """Print a line, harmless, as several of up to WIDTH characters; later ones are indented."""
    text, colour, later = (
        (line.text, line.colour, indent)
        if isinstance(line, Painted)
        else (line, "", f"{indent}    ")
    )
    for part in textwrap.wrap(
        harmless(text),
        WIDTH,
        initial_indent=indent,
        subsequent_indent=later,
        break_long_words=False,
        break_on_hyphens=False,
    ):
        print(_ink(part, colour) if colour and coloured() else part, flush=True)


def section(title: str, lines: Iterable[str | Painted]) -> None:
    """Print a heading and its lines, each as soon as it is known."""
    show(Painted(title, "bold"))
    for line in lines:
        show(line, indent="  ")
    print()


def _ink(text: str, colour: str) -> str:
    return f"\x1b[{_COLOURS[colour]}m{text}\x1b[0m"
