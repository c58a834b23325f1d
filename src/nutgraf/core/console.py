"""Print the log on standard error, and styled lines that fit on standard output.

All messages of nutgraf go to the logger "nutgraf" and its children, so that a program that uses the
package can redirect or silence them. The command line calls `show_log`.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import textwrap
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from nutgraf.core.errors import one_line, visible, without_secrets

WIDTH = 96
_CODES = {"red": "31", "green": "32", "bold": "1"}


@dataclass(frozen=True)
class Styled:
    """A line that is red, green or bold."""

    text: str
    style: str


class _StandardError(logging.Handler):
    """Print each message, alone and on one line, to what `sys.stderr` is at that moment.

    A closed pipe raises, as it does for `print`: logging's own handler would print a traceback.
    """

    def emit(self, record: logging.LogRecord) -> None:
        message = visible(without_secrets(record.getMessage()))
        bars = sys.modules.get("tqdm")  # not loaded for the log alone
        if bars is not None and getattr(bars.tqdm, "_instances", None):
            bars.tqdm.write(message, file=sys.stderr)  # above the bars
        else:
            print(message, file=sys.stderr, flush=True)


_LOGGER, _HANDLER = logging.getLogger("nutgraf"), _StandardError()


def show_log() -> None:
    """Print the log on standard error, from INFO on. A second call changes nothing.

    Warnings of libraries come on one line too.
    """
    _LOGGER.addHandler(_HANDLER)
    _LOGGER.setLevel(logging.INFO)
    logging.lastResort = _HANDLER
    warnings.showwarning = warn_in_a_line


def warn_in_a_line(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: Any = None,
    line: str | None = None,
) -> None:
    """Log a warning that Python would print with a place in the code, by its library's name."""
    library = re.search(r"-packages/(\w+)", filename)
    _LOGGER.warning(one_line(f"{library[1] if library else category.__name__}: {message}", 300))


def supports_colour() -> bool:
    """Return whether to use colours: NO_COLOR and FORCE_COLOR count before the kind of terminal."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


def print_line(line: str | Styled, indent: str = "") -> None:
    """Print a line, wrapped at WIDTH characters, with control characters as escapes."""
    text, style = (line.text, line.style) if isinstance(line, Styled) else (line, "")
    wrapped = textwrap.wrap(
        text,
        WIDTH,
        initial_indent=indent,
        subsequent_indent=indent if style else f"{indent}    ",
        break_long_words=False,
        break_on_hyphens=False,
    )
    for part in map(visible, wrapped):
        coloured = style and supports_colour()
        print(f"\x1b[{_CODES[style]}m{part}\x1b[0m" if coloured else part, flush=True)


def print_section(title: str, lines: Iterable[str | Styled]) -> None:
    """Print a heading and its lines, each as soon as it is known."""
    print_line(Styled(title, "bold"))
    for line in lines:
        print_line(line, indent="  ")
    print()
