"""Define errors for people: one line with the fact, the value and the setting to change.

The command line prints the message without a traceback and exits with `exit_code`.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator

MAX_LENGTH = 1_000  # characters of a message; the middle of a longer one is left out

# A token of the Hub, user and password in an address (those of S3 may have a slash), a header with
# either, keys in the query of an address.
_SECRET = re.compile(
    r"hf_[A-Za-z0-9]{20,}|(?<=://)(?:[^/@\s]+|[A-Z0-9]{16,}:[^@\s]+)(?=@)|(?<=\bBearer )\S+|"
    r"[?&](?:access_?key|secret|account_?key|client_secret|sas|session_token|token|password|sig)"
    r"[a-z_]*=[^&\s]+",
    re.I,
)
_TOKEN_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")


class NutgrafError(Exception):
    """An error whose message is one line, whatever text is in it."""

    exit_code: int

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


class UserError(NutgrafError):
    """A mistake in the user's input: a setting, a file, a column."""

    exit_code = 2


class Failure(NutgrafError):
    """Something that should have worked and did not: a full disk, a device, a trial."""

    exit_code = 1


@contextlib.contextmanager
def library_errors(fact: str, change: str, kind: type[NutgrafError] = UserError) -> Iterator[None]:
    """Raise a `kind` for whatever a library raises in the block about what the user gave.

    The one rule for such errors: a file that is damaged or of another kind can make a library
    raise anything. The message is `fact (what the library says): change`. `fact` names the input
    with its value, `change` the setting to change. Our own errors pass, and so do those of a full
    memory or disk, which are not the input's fault.
    """
    try:
        yield
    except (NutgrafError, MemoryError):
        raise
    except Exception as error:
        full = isinstance(error, OSError) and is_full(error)
        if full or type(error).__name__ == "OutOfMemoryError":  # torch's: it is not imported here
            raise
        raise kind(f"{fact} ({library_message(error)}): {change}") from error


def is_full(error: OSError) -> bool:
    """Return whether a disk, or the user's quota of it, is full."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def library_message(error: BaseException) -> str:
    """Return the kind and the text of a library's error on one line of at most 300 characters."""
    return one_line(f"{type(error).__name__}: {error}".rstrip(": "), 300)


def os_error_message(error: OSError) -> str:
    """Return what the system reports, with the file if it names one."""
    return f"{error.strerror or error}: {error.filename or ''}".rstrip(": ")


def one_line(text: object, max_length: int = MAX_LENGTH) -> str:
    """Return `text` on one line of at most `max_length` characters, visible, without secrets."""
    line = visible(" ".join(without_secrets(str(text)).split()))
    if len(line) <= max_length:
        return line
    gap = " … "
    head = 2 * max_length // 3
    return line[:head].rstrip() + gap + line[head + len(gap) - max_length :].lstrip()


def visible(text: str) -> str:
    r"""Return `text` with invisible and control characters as escapes such as `\x1b`.

    Spaces of any width stay, as they are common in articles.
    """
    return "".join(
        c if c.isprintable() or unicodedata.category(c) == "Zs" else repr(c)[1:-1] for c in text
    )


def without_secrets(text: str) -> str:
    """Return `text` with three dots in place of tokens of the Hub and credentials in addresses."""
    for token in filter(None, map(os.environ.get, _TOKEN_VARIABLES)):
        text = text.replace(token, "…")
    return _SECRET.sub("…", text)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `: did you mean 'x'?` if a known name is close, else nothing."""
    close = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.5)
    return f": did you mean {close[0]!r}?" if close else ""
