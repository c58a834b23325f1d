"""Name what a training leaves beside its adapter; write what is for whoever watches it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def curves_path(out: Path) -> Path:
    """Return the file with the curves of the training that saves its adapter to `out`."""
    return out.with_name(f"{out.name}.curves.json")


def samples_path(out: Path) -> Path:
    """Return the file with what that training wrote at its evaluations (`train.samples`)."""
    return out.with_name(f"{out.name}.samples.json")


def record_path(out: Path) -> Path:
    """Return the file with the record of a finished training that saved its adapter to `out`."""
    return out.with_name(f".{out.name}.done.json")


def leave(path: Path, value: Any) -> None:
    """Write a small value as JSON, whole or not at all.

    It follows from the checkpoints, so it need not be on the disk at once.
    """
    scratch = path.with_name(f".{path.name}.part")
    scratch.write_text(json.dumps(value), encoding="utf-8")
    scratch.replace(path)
