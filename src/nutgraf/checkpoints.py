"""The checkpoints of one training: whole ones, which it carries on from, and half-written ones.

A checkpoint is written under a temporary name; its manifest, written last, names each file with its
hash; only then it gets its name. The newest two are kept.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nutgraf import claims
from nutgraf.files import files_in, move, sha256, sync_all, write_text
from nutgraf.peers import Peers

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
NOTES = "notes.json"
BEST = "best.safetensors"  # the adapter's weights at the lowest validation loss so far


class Checkpoints:
    """Those of the training that saves its adapter to `out`: a hidden folder beside it.

    `claim` says which training that is; what lies there of another one is thrown away. `title` is
    what lines of progress call it.
    """

    def __init__(self, out: Path, claim: Mapping[str, Any], title: str) -> None:
        self.out, self.title = out, title
        self.claim = claims.plain(claim)
        self.folder = _folder(out)
        self.half_written = self.folder / "half-written"
        self._record = out.with_name(f".{out.name}.done.json")

    def open(self) -> None:
        """Make the folder, or find it as a stopped run left it."""
        claims.take(self.folder, self.claim, self.title)

    def share(self, peers: Peers) -> None:
        """Give the checkpoints of the first process to the others, which begin with none."""
        if peers.size == 1:
            return
        files = [path for path in files_in(self.folder) if self.half_written not in path.parents]
        known = {str(p.relative_to(self.folder)): p.read_bytes() for p in files}
        for name, contents in peers.first(known).items():
            if not peers.is_first:
                (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
                (self.folder / name).write_bytes(contents)

    @property
    def notes(self) -> dict[str, Any]:
        """What was noted with `note`, whatever became of the checkpoints."""
        path = self.folder / NOTES
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    def note(self, **facts: Any) -> None:
        write_text(self.folder / NOTES, json.dumps({**self.notes, **facts}) + "\n")

    def keep(self, step: int) -> None:
        """Take `half_written/checkpoint-<step>` for whole, and clear the oldest away."""
        name = f"checkpoint-{step}"
        files = _hashes(self.half_written / name)
        write_text(self.half_written / name / MANIFEST, json.dumps(files, indent=2) + "\n")
        sync_all(self.half_written / name)
        move(self.half_written / name, self.folder / name)
        self.note(newest=step)
        for path in self._found()[2:]:
            shutil.rmtree(path)

    def newest(self) -> Path | None:
        """The newest whole checkpoint, None where there is none. Says which it is, and why.

        Those that are not whole are cleared away.
        """
        shutil.rmtree(self.half_written, ignore_errors=True)
        broken = []
        last = self.notes.get("newest")
        if last is not None and not (self.folder / f"checkpoint-{last}").exists():
            broken.append(f"checkpoint-{last} is missing")
        for path in self._found():
            if (damage := _damage(path)) is None:
                self._report(broken, f"carries on from {path.name}")
                return path
            broken.append(f"{path.name} is not whole ({damage})")
            shutil.rmtree(path)
        if broken:
            self._report(broken, "there is no other: it starts over")
        return None

    def finish(self, record: Mapping[str, Any]) -> None:
        """Note that `out` is whole, with what is to be known of the training; drop checkpoints."""
        sync_all(self.out)
        whole = {"claim": self.claim, "files": _hashes(self.out), "record": record}
        write_text(self._record, json.dumps(whole) + "\n")
        shutil.rmtree(self.folder)

    def finished(self) -> dict[str, Any] | None:
        """What `finish` was given, where this training was finished and its files are whole."""
        try:
            whole = json.loads(self._record.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return None
        if whole["claim"] != self.claim:
            return None
        for name, hashed in whole["files"].items():
            if not (self.out / name).is_file() or sha256(self.out / name) != hashed:
                return None
        shutil.rmtree(self.folder, ignore_errors=True)
        return dict(whole["record"])

    def _report(self, broken: Sequence[str], what: str) -> None:
        level = logging.WARNING if broken else logging.INFO
        logger.log(level, f"{self.title}: {'; '.join([*broken, what])}")

    def _found(self) -> list[Path]:
        """The checkpoints there are, newest first."""
        return sorted(
            self.folder.glob("checkpoint-*"), key=lambda p: -int(p.name.partition("-")[2])
        )


def copy_best(out: Path, step: int, target: Path) -> None:
    """Copy the best weights of the checkpoint of `step`, of the training into `out`, to `target`.

    Do nothing if that checkpoint is gone: an evaluation that is told again after a stop was copied
    when it was made.
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
    try:
        files = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return f"{MANIFEST} is missing or damaged"
    for name, hashed in files.items():
        if not (checkpoint / name).is_file():
            return f"{name} is missing"
        if sha256(checkpoint / name) != hashed:
            return f"{name} is not as it was written"
    return None


def _hashes(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): sha256(path) for path in files_in(folder)}
