"""Write the checkpoints of one training, and find the newest whole one.

A checkpoint is written under a temporary name. Its manifest, written last, lists each file with its
hash; then the checkpoint gets its name. The newest two are kept.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nutgraf.core.files import files_in, move, read_json, sha256, sync_all, write_json
from nutgraf.storage import work_claim
from nutgraf.training.curves import record_path
from nutgraf.training.distributed.process_group import ProcessGroup

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
NOTES = "notes.json"
BEST = "best.safetensors"  # the adapter's weights at the lowest validation loss so far


class Checkpoints:
    """Checkpoints of the training that saves its adapter to `out`, in a hidden folder beside it.

    `claim` identifies the training; checkpoints of another one are discarded. `title` names it in
    log lines.
    """

    def __init__(self, out: Path, claim: Mapping[str, Any], title: str) -> None:
        self.out, self.title = out, title
        self.claim = dict(claim)
        self.folder = _folder(out)
        self.half_written = self.folder / "half-written"
        self._record = record_path(out)

    def open(self) -> None:
        """Create the folder, or reuse it as a stopped run left it."""
        work_claim.claim_folder(self.folder, self.claim, self.title)

    def share(self, group: ProcessGroup) -> None:
        """Copy the checkpoints of the first process to the others, which start with none."""
        if group.size == 1:
            return
        files = [path for path in files_in(self.folder) if self.half_written not in path.parents]
        contents = {str(p.relative_to(self.folder)): p.read_bytes() for p in files}
        for name, content in group.broadcast(contents).items():
            if not group.is_first:
                (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
                (self.folder / name).write_bytes(content)

    @property
    def notes(self) -> dict[str, Any]:
        """Return what `note` stored, whatever happened to the checkpoints."""
        path = self.folder / NOTES
        return dict(read_json(path)) if path.exists() else {}

    def note(self, **facts: Any) -> None:
        """Add facts to `notes`."""
        write_json(self.folder / NOTES, {**self.notes, **facts})

    def commit(self, step: int) -> None:
        """Declare `half_written/checkpoint-<step>` whole, and delete the oldest ones."""
        name = f"checkpoint-{step}"
        written = self.half_written / name
        write_json(written / MANIFEST, _hashes(written))
        sync_all(written)
        move(written, self.folder / name)
        self.note(newest=step)
        for path in self._existing()[2:]:
            shutil.rmtree(path)

    def newest(self) -> Path | None:
        """Return the newest whole checkpoint, or None; log which one it is, and why.

        Damaged ones are deleted.
        """
        shutil.rmtree(self.half_written, ignore_errors=True)
        damaged = []
        step = self.notes.get("newest")
        if step is not None and not (self.folder / f"checkpoint-{step}").exists():
            damaged.append(f"checkpoint-{step} is missing")
        for path in self._existing():
            if (damage := _damage(path)) is None:
                level = logging.WARNING if damaged else logging.INFO
                reasons = "".join(f"{reason}; " for reason in damaged)
                logger.log(level, f"{self.title}: {reasons}carries on from {path.name}")
                return path
            damaged.append(f"{path.name} is not whole ({damage})")
            shutil.rmtree(path)
        if damaged:
            logger.warning(f"{self.title}: {'; '.join(damaged)}; there is no other: it starts over")
        return None

    def finish(self, record: Mapping[str, Any]) -> None:
        """Record that `out` is whole, with a record of the training; delete the checkpoints."""
        sync_all(self.out)
        whole = {"claim": self.claim, "files": _hashes(self.out), "record": record}
        write_json(self._record, whole)
        shutil.rmtree(self.folder)

    def finished(self) -> dict[str, Any] | None:
        """Return the record of `finish` if this training was finished and its files are whole."""
        try:
            whole = read_json(self._record)
        except (FileNotFoundError, ValueError):
            return None
        mismatch = work_claim.describe_changes(whole["claim"], self.claim)
        if mismatch or _changes(self.out, whole["files"]):
            return None
        shutil.rmtree(self.folder, ignore_errors=True)
        logger.info(f"{self.title}: trained before, with the same settings and rows")
        return dict(whole["record"])

    def _existing(self) -> list[Path]:
        """Return all checkpoints, newest first."""
        return sorted(
            self.folder.glob("checkpoint-*"), key=lambda p: -int(p.name.partition("-")[2])
        )


def copy_finished(out: Path, target: Path) -> None:
    """Copy what a finished training into `out` has left, if it is there, to `target`.

    The same training into `target` is finished then; another one goes its own way.
    """
    if not record_path(out).is_file() or target.exists():
        return
    part = target.with_name(f".{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(out, part)
    shutil.copyfile(record_path(out), record_path(target))
    move(part, target)


def copy_best(out: Path, step: int, target: Path) -> None:
    """Copy the best weights of the checkpoint of `step`, of the training into `out`, to `target`.

    Do nothing if that checkpoint is gone: an evaluation that is repeated after a stop was copied
    the first time.
    """
    source = _folder(out) / f"checkpoint-{step}" / BEST
    if target.exists() or not source.exists():
        return
    part = target.with_name(f".{target.name}.part")
    target.parent.mkdir(exist_ok=True)
    shutil.copyfile(source, part)
    move(part, target)


def _folder(out: Path) -> Path:
    return out.with_name(f".{out.name}.checkpoints")


def _damage(checkpoint: Path) -> str | None:
    """Return what is wrong with a checkpoint, or None."""
    try:
        return _changes(checkpoint, read_json(checkpoint / MANIFEST))
    except (FileNotFoundError, ValueError):
        return f"{MANIFEST} is missing or damaged"


def _changes(folder: Path, hashes: Mapping[str, str]) -> str | None:
    """Return the first difference of the files in `folder` to their recorded hashes, or None."""
    for name, recorded in hashes.items():
        if not (folder / name).is_file():
            return f"{name} is missing"
        if sha256(folder / name) != recorded:
            return f"{name} is not as it was written"
    return None


def _hashes(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): sha256(path) for path in files_in(folder)}
