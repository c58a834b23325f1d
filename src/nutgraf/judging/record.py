"""Keep the clicks of one judge in a file that survives a kill, a line each.

A click has kind `click`, time (UTC), id of the article, systems, who was at the left, verdict
(`left`, `right`, `good`: both, `bad`: both), seconds of reading, wrong (system, start and end in
characters of its summary), seen (whether the result so far was open), and texts: a hash of what was
compared. Who takes a click back adds a line of kind `undo` with its id; nothing is ever deleted.
"""

from __future__ import annotations

import json
import logging
import re
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from nutgraf.core.errors import Failure, UserError
from nutgraf.core.files import Journal

logger = logging.getLogger(__name__)

FOLDER = "judgements"
VERDICTS = ("left", "right", "good", "bad")
_NAME = re.compile(r"\w(?:[\w .-]{0,38}\w)?")
_COLUMNS = {
    "undo": {"time", "id", "systems"},
    "click": {"time", "id", "systems", "left", "verdict", "seconds", "wrong", "seen", "texts"},
}

Click: TypeAlias = Mapping[str, Any]


def judge_name(text: str) -> str:
    """Return a judge's name as it is saved. Raises UserError if it cannot be the name of a file."""
    name = unicodedata.normalize("NFC", " ".join(text.split()))
    if not _NAME.fullmatch(name):
        raise UserError(
            f"a judge's name is {name[:60]!r}: give up to 40 letters, digits, spaces, dots and "
            "hyphens, a letter or digit first and last"
        )
    return name


def open_record(path: Path) -> Journal:
    """Return the file to add to, without a last line that a kill tore. Raises as `read_record`."""
    if path.exists():
        read_record(path)
    return Journal(path)


def read_record(path: Path) -> list[dict[str, Any]]:
    """Return the whole lines of a file of judgements; a warning says if the last one is torn.

    Raises Failure naming a line that is not as it was written.
    """
    *lines, torn = path.read_bytes().split(b"\n")
    if torn:
        logger.warning(f"{path}: its last line is torn, and is dropped: judge that article again")
    return [_checked(line, f"{path} line {number}") for number, line in enumerate(lines, 1)]


def _checked(line: bytes, place: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
        missing = _COLUMNS[row["kind"]] - row.keys()
    except (ValueError, KeyError, TypeError):
        missing = {"a judgement"}
    if missing:
        raise Failure(
            f"{place} lacks {', '.join(sorted(missing))}: correct the line, or move the file away"
        )
    return dict(row)


def clicks_in_force(rows: Sequence[Click], systems: Collection[str]) -> list[Click]:
    """Return the clicks on a pair of systems that were not taken back, in their order."""
    clicks: dict[str, Click] = {}
    for row in rows:
        if set(row["systems"]) == set(systems):
            clicks.pop(row["id"], None)
            if row["kind"] == "click":
                clicks[row["id"]] = row
    return list(clicks.values())


def score_of(click: Click, first: str) -> float:
    """Return 1 if the system `first` was preferred, 0 if the other was, 1/2 if neither."""
    if click["verdict"] in ("good", "bad"):
        return 0.5
    return float((click["verdict"] == "left") == (click["left"] == first))


def score_of_left(click: Click) -> float:
    """Return 1 if the left summary was preferred, 0 if the right one was, 1/2 if neither."""
    return {"left": 1.0, "right": 0.0}.get(click["verdict"], 0.5)
