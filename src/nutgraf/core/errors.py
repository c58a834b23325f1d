"""Errors that a person reads: one line with the fact, the value and the knob.

The command line prints the message without a traceback and exits with `exit_code`.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable

LONGEST = 1_000  # characters of a message; the middle of a longer one is left out

# A token of the Hub, user and password in an address (those of S3 may have a slash), a header with
# either, keys among an address's options.
_SECRET = re.compile(
    r"hf_[A-Za-z0-9]{20,}|(?<=://)(?:[^/@\s]+|[A-Z0-9]{16,}:[^@\s]+)(?=@)|(?<=\bBearer )\S+|"
    r"[?&](?:access_?key|secret|account_?key|client_secret|sas|session_token|token|password|sig)"
    r"[a-z_]*=[^&\s]+",
    re.I,
)
_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")


class Problem(Exception):
    """An error whose message is one line, whatever text it was made of."""

    exit_code: int

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


class UserError(Problem):
    """A mistake in what the user gave: a setting, a file, a column."""

    exit_code = 2


class Failure(Problem):
    """Something that should have worked and did not: a full disk, a device, a trial."""

    exit_code = 1


def one_line(text: object, longest: int = LONGEST) -> str:
    """`text` on one line of at most `longest` characters, visible and without secrets."""
    line = visible(" ".join(without_secrets(str(text)).split()))
    if len(line) <= longest:
        return line
    left_out = " … "
    head = 2 * longest // 3
    return line[:head].rstrip() + left_out + line[head + len(left_out) - longest :].lstrip()


def visible(text: str) -> str:
    """`text` with what a terminal would not show, or would obey, as escapes such as \\x1b."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def without_secrets(text: str) -> str:
    """`text` with three dots in place of tokens of the Hub and of credentials in addresses."""
    for given in filter(None, map(os.environ.get, _VARIABLES)):
        text = text.replace(given, "…")
    return _SECRET.sub("…", text)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`: did you mean 'x'?` where a known name is close, else nothing."""
    close = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.5)
    return f": did you mean {close[0]!r}?" if close else ""
