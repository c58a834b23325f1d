"""Tell paths that a user gives from ids of the Hub, and make them independent of the folder."""

from __future__ import annotations

import os
import re
from pathlib import Path

_HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?", re.ASCII)


def absolute(path: str) -> str:
    """Return a path from the root: of the current folder, with `~` as the user's own folder.

    Links stay, so that what they lead to may change.
    """
    whole = str(Path(path).expanduser().absolute())
    short = os.path.normpath(whole)
    return short if os.path.realpath(short) == os.path.realpath(whole) else whole


def is_path(text: str) -> bool:
    """Return whether there is something at `text`, or it cannot be the id of a repository."""
    return os.path.lexists(os.path.expanduser(text)) or not _HUB_ID.fullmatch(text)


def shown(path: str | Path) -> str:
    """Return a path as it reads from the current folder, if it lies there."""
    return str(
        Path(path).relative_to(Path.cwd()) if Path(path).is_relative_to(Path.cwd()) else path
    )
