"""Identify unfinished work, so that a run resumes only work with the same inputs and settings."""

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


def claim_folder(folder: Path, claim: Mapping[str, Any], title: str) -> bool:
    """Prepare `folder` for work on `claim`; return whether work on the same claim was there.

    Work on another claim, or without one, is deleted, and a warning about `title` says so.
    """
    if folder.exists():
        mismatch = claim_mismatch(folder, claim)
        if mismatch is None:
            return True
        if any(path.name.strip(".") not in (NAME, f"{NAME}.part") for path in folder.iterdir()):
            logger.warning(f"{title}: what a stopped run left is thrown away: {mismatch}")
        (folder / NAME).unlink(missing_ok=True)  # first: after a kill nothing looks resumable
        sync(folder)
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    write_text(folder / NAME, json.dumps(claim, indent=2, ensure_ascii=False) + "\n")
    return False


def claim_mismatch(folder: Path, claim: Mapping[str, Any]) -> str | None:
    """Return why the work in `folder` is not on `claim`; None if it is."""
    try:
        old = json.loads((folder / NAME).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return f"{folder / NAME} is missing or damaged"
    return describe_changes(old, claim)


def describe_changes(old: Any, new: Any) -> str | None:
    """Return what differs between two trees of JSON values: `train.seed was 1, is now 2; …`."""
    return "; ".join(_changes(old, json.loads(json.dumps(new)), "")) or None


def _changes(old: Any, new: Any, name: str) -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted(old.keys() | new.keys())
        trees = [(old.get(key), new.get(key), f"{name}.{key}".lstrip(".")) for key in keys]
        return [line for tree in trees for line in _changes(*tree)]
    if old is None and new is False:
        return []  # an earlier version lacked the setting, which is off
    return [] if old == new else [f"{name} was {json.dumps(old)}, is now {json.dumps(new)}"]
