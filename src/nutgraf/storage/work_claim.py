"""What half-made work is of: a claim beside it says so, and other work is not carried on."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nutgraf.core.files import sync, write_text

logger = logging.getLogger(__name__)

NAME = "claim.json"


def claim_folder(folder: Path, claim: Mapping[str, Any], what: str) -> None:
    """Make `folder` the place for work on `claim`; what lies there of the same claim is kept.

    Work of another claim, or without one, is thrown away, and one line says so of `what`.
    """
    if folder.exists():
        other = claim_mismatch(folder, claim)
        if other is None:
            return
        if any(path.name.strip(".") not in (NAME, f"{NAME}.part") for path in folder.iterdir()):
            logger.warning(f"{what}: what a stopped run left is thrown away: {other}")
        (folder / NAME).unlink(missing_ok=True)  # first, so that a kill leaves nothing believable
        sync(folder)
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    write_text(folder / NAME, json.dumps(plain(claim), indent=2, ensure_ascii=False) + "\n")


def claim_mismatch(folder: Path, claim: Mapping[str, Any]) -> str | None:
    """Why the work in `folder` is not of `claim`, in words; None if it is, or nothing is there."""
    if not folder.exists():
        return None
    try:
        made = json.loads((folder / NAME).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return f"{folder / NAME} is missing or damaged"
    return "; ".join(describe_changes(made, plain(claim))) or None


def plain(value: Any) -> Any:
    """The value as JSON would give it back, so that comparing with what was written is exact."""
    return json.loads(json.dumps(value))


def describe_changes(made: Any, asked: Any, name: str = "") -> list[str]:
    """What differs between two trees of values, an entry each: `train.seed was 1, is now 2`."""
    if isinstance(made, dict) and isinstance(asked, dict):
        keys = sorted(made.keys() | asked.keys())
        trees = [(made.get(key), asked.get(key), f"{name}.{key}".lstrip(".")) for key in keys]
        return [line for tree in trees for line in describe_changes(*tree)]
    return [] if made == asked else [f"{name} was {json.dumps(made)}, is now {json.dumps(asked)}"]
