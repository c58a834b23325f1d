"""Name what a training leaves beside its adapter; write its curves, for whoever watches it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def curves_path(out: Path) -> Path:
    """Return the file with the curves of the training that saves its adapter to `out`."""
    return out.with_name(f"{out.name}.curves.json")


def record_path(out: Path) -> Path:
    """Return the file with the record of a finished training that saved its adapter to `out`."""
    return out.with_name(f".{out.name}.done.json")


def write_curves(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write about fifty rows, whole or not at all.

    They follow from the checkpoints, so they need not be on the disk at once.
    """
    scratch = path.with_name(f".{path.name}.part")
    scratch.write_text(json.dumps(list(rows)), encoding="utf-8")
    scratch.replace(path)
