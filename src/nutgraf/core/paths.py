"""Tell paths that a user gives from ids of the Hub, and make them independent of the folder."""

from __future__ import annotations

import os
import re
from pathlib import Path

from nutgraf.core.errors import UserError

_VARIABLE = re.compile(r"\$(\{\w+\}|[^\W\d]\w*)")
_HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?", re.ASCII)


def expand(path: str | Path) -> Path:
    """Return a path with `~` and environment variables replaced, as a shell does.

    Raises UserError for a user or a variable that there is none of.
    """
    if os.path.lexists(path):
        return Path(path)
    text = os.path.expandvars(os.path.expanduser(path))
    unknown = _VARIABLE.search(text) or re.match("~[^/]*", text)
    if unknown and not os.path.lexists(text):
        kind = "user" if unknown[0].startswith("~") else "environment variable"
        raise UserError(f"{path} has {unknown[0]}, and there is no such {kind}: correct the path")
    return Path(text)


def absolute(path: str) -> str:
    """Return a path from the root: of the current folder, as `expand` reads it, which may raise.

    Links stay, so that what they lead to may change.
    """
    whole = str(expand(path).absolute())
    short = os.path.normpath(whole)
    return short if os.path.realpath(short) == os.path.realpath(whole) else whole


def is_path(text: str) -> bool:
    """Return whether there is something at `text`, or it cannot be the id of a repository.

    A name that ends in `.gguf` is a file's.
    """
    is_file = text.lower().endswith(".gguf")
    return is_file or os.path.lexists(os.path.expanduser(text)) or not _HUB_ID.fullmatch(text)


def shown(path: str | Path) -> str:
    """Return a path as it reads from the current folder, if it lies there."""
    return str(
        Path(path).relative_to(Path.cwd()) if Path(path).is_relative_to(Path.cwd()) else path
    )
