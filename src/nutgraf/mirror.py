"""A run folder kept in a storage: what is made here goes there, and comes back on another machine.

What is there after a kill, and why it is never wrong, stands in `push`.
"""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import socket
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from nutgraf.files import sha256, sync, write_text
from nutgraf.problems import Failure, UserError, without_secrets
from nutgraf.push import (
    STATE,
    Known,
    Push,
    Version,
    is_claim,
    is_claimed,
    is_in,
    is_kept,
    is_manifest,
    is_work,
    version,
)
from nutgraf.runfolder import MAKING, MANIFESTS, SEALED, RunFolder
from nutgraf.storage import Storage, check_name

logger = logging.getLogger(__name__)


class Mirror:
    """The folder `local` and the storage at `uri`; can be pickled. One at a time for a folder."""

    def __init__(self, uri: str, local: Path | str) -> None:
        self.storage = Storage(uri)
        self.local = Path(local)
        self._lock = threading.RLock()
        self._place = f"{socket.gethostname()}:{self.local.resolve()}"
        self._known: Known = {}
        self.lease = ""  # under which the folder was last all that the storage has
        self._read_state()

    def __reduce__(self) -> tuple[type[Mirror], tuple[str, Path]]:
        return Mirror, (self.storage.uri, self.local)

    def push(self, under: str = "") -> bool:
        """Put into the storage what was made or changed in `under`, a folder in `local`.

        Returns whether all went; what was written meanwhile goes the next time. Deleted there is
        what this folder has put there and does not have any more. Raises Unreachable, after which
        it can be called again.
        """
        with self._lock:
            try:
                return Push(self.local, self.storage, self._known, under).run()
            finally:
                self._write_state()

    def pull(self, under: str = "", over: bool = True) -> None:
        """Fetch from the storage what differs in `under`, a folder in `local`, or in all of it.

        Where artefacts differ, the storage's take the place of those here; so do half-made work and
        single files in `under`, which are deleted here where they were deleted there. What only
        this folder has stays. Without `over` only artefacts that are missing here are fetched.
        """
        with self._lock:
            there = {n: mark for n, mark in self.storage.list(under).items() if is_kept(n)}
            if not under:
                self._pull_artefacts(there, over)
            if over:
                self._pull_work(under, there)
            self._write_state()

    def begin(self, lease: str) -> None:
        """Note that from here on only this folder writes there, holding `lease`."""
        self.lease = lease
        self._write_state()

    def refuse_another_study(self) -> None:
        """Raise UserError where folder and storage have never met, and hold different studies."""
        if self.lease:
            return
        for path in sorted((self.local / MANIFESTS).glob("*.json")):
            other = self.storage.read(f"{MANIFESTS}/{path.name}")
            if other is not None and other != path.read_bytes():
                raise UserError(
                    f"{self.local} and storage {self.storage.uri} hold different studies "
                    f"({path.stem} differs): give another folder with --run, or another storage"
                )

    def _pull_artefacts(self, there: dict[str, str], over: bool) -> None:
        outputs: set[str] = set()
        for name in filter(is_manifest, there):
            content = self.storage.read(name)
            if content is None:
                continue  # deleted there in this moment
            manifest = self._manifest(name, content)
            outputs.update(manifest["outputs"])
            here = self.local / name
            same = here.exists() and here.read_bytes() == content
            if not same and (over or not here.exists()):
                same = self._fetch(manifest)
            if same:
                self._note(there, [name, *manifest["files"]])
        loose = [n for n in there if not (is_manifest(n) or is_work(n) or _in_any(n, outputs))]
        self._get([name for name in loose if not (self.local / name).exists()], there)

    def _manifest(self, name: str, content: bytes) -> dict[str, Any]:
        """A manifest of the storage's, whose names stay in the folder. Raises Failure."""
        try:
            manifest: dict[str, Any] = json.loads(content)
            for inside in [*manifest["outputs"], *manifest["files"]]:
                check_name(inside)
            str(manifest["artefact"])
        except (ValueError, KeyError, TypeError) as error:
            raise Failure(
                f"{name} of storage {self.storage.uri} is damaged ({error!r}): delete it there, "
                "and what it names is made again"
            ) from error
        return manifest

    def _fetch(self, manifest: dict[str, Any]) -> bool:
        """Put an artefact of the storage's in place, like one that was made here."""
        name = str(manifest["artefact"])
        scratch = self.local / MAKING / f"{name.replace('/', '.')}-fetched"
        shutil.rmtree(scratch, ignore_errors=True)
        for file, hashed in manifest["files"].items():
            try:
                self.storage.get(file, scratch / file)
                damage = "is not as it was made" if sha256(scratch / file) != hashed else None
            except FileNotFoundError:
                damage = "is missing"
            if damage:
                logger.warning(f"{name} is not fetched from {self.storage.uri}: {file} {damage}")
                shutil.rmtree(scratch, ignore_errors=True)
                return False
        write_text(scratch / SEALED, json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")
        RunFolder(self.local).recover()
        return True

    def _pull_work(self, under: str, there: dict[str, str]) -> None:
        """Half-made work, its claims last; all files of `under`, where that is given."""
        work = {n: mark for n, mark in there.items() if under or is_work(n)}
        work = {n: mark for n, mark in work.items() if is_claimed(n, work, under)}
        fresh: dict[str, bytes] = {}
        for name in sorted(filter(is_claim, work), key=len):
            content = self.storage.read(name)
            here = self.local / name
            if content is None or (here.exists() and here.read_bytes() == content):
                continue
            if here.parent.exists():
                here.unlink(missing_ok=True)  # first, so that a kill leaves nothing believable
                sync(here.parent)
                shutil.rmtree(here.parent)
            fresh[name] = content
        self._get([n for n in work if not is_claim(n) and self._differs(n, work[n])], work)
        for name in sorted(fresh, key=len, reverse=True):
            write_text(self.local / name, fresh[name].decode())
            self._note(work, [name])
        if there:  # a storage that somebody has emptied is no reason to delete anything here
            gone = [n for n in self._known if is_in(n, under or MAKING) and n not in there]
            for name in sorted(gone, key=lambda n: not is_claim(n)):
                (self.local / name).unlink(missing_ok=True)
                del self._known[name]

    def _get(self, names: Iterable[str], there: dict[str, str]) -> None:
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # deleted there in this moment
                self.storage.get(name, self.local / name)
                self._note(there, [name])

    def _differs(self, name: str, mark: str) -> bool:
        return self._known.get(name) != (version(self.local / name), mark)

    def _note(self, there: dict[str, str], names: Iterable[str]) -> None:
        """Remember of files that they are the same here and there."""
        for name in names:
            if name in there and (here := version(self.local / name)):
                self._known[name] = (here, there[name])

    def _read_state(self) -> None:
        """A state of another place, or of another storage, says nothing about this one."""
        try:
            state = json.loads((self.local / STATE).read_text(encoding="utf-8"))
            of = [state["place"], state["uri"]]
            known: Known = {n: (Version(*v), mark) for n, (v, mark) in state["files"].items()}
            lease = str(state["lease"])
        except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
            return  # or one that somebody has damaged
        if of == [self._place, without_secrets(self.storage.uri)]:
            self.lease, self._known = lease, known

    def _write_state(self) -> None:
        state = {
            "uri": without_secrets(self.storage.uri),
            "place": self._place,
            "lease": self.lease,
            "files": self._known,
        }
        write_text(self.local / STATE, json.dumps(state) + "\n")


def _in_any(name: str, folders: Iterable[str]) -> bool:
    return any(name == folder or is_in(name, folder) for folder in folders)
