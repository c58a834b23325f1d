"""From a run folder into a storage: one pass over what was made or changed.

What a kill leaves in the storage, at any moment, is older than the folder here, never wrong:

- An artefact's manifest there goes before its files change, and is put after them.
- Half-made work goes there under its claim. Where the claim is another one, what lies there is
  deleted, the old claim first.
- Files go in the order in which they were written; those that change while they are looked at go
  the next time. So what is there refers to nothing that is not.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple, TypeAlias

from nutgraf import claims
from nutgraf.lease import LEASE
from nutgraf.runfolder import MAKING, MANIFESTS, SEALED
from nutgraf.storage import Storage, is_temporary

STATE = ".mirror.json"  # in the folder here: what is known of the storage
_NOT_KEPT = {".lock", ".ray", "half-written", LEASE, STATE}
_CLOCK = 1.1  # seconds, more than the storage's clock tells apart


class Version(NamedTuple):
    """What tells a file here from what it was before."""

    inode: int
    size: int
    mtime: int  # nanoseconds


Known: TypeAlias = dict[str, tuple[Version, str | None]]  # as it was here, its mark there


class Push:
    """One pass: what differs in `local`/`under` from what is `known` goes into the storage."""

    def __init__(self, local: Path, storage: Storage, known: Known, under: str) -> None:
        self.local, self.storage, self.known, self.under = local, storage, known, under
        self.skipped: set[str] = set()
        self.there: dict[str, str] = {}
        self.again: dict[str, str] = {}  # put over a file there of this mark
        before = time.time_ns()
        time.sleep(0.01)  # the clock of files is so much behind
        self.guards = {n: v for n, v in self._scan().items() if is_claim(n)}
        self.manifests = version(self.local / MANIFESTS)
        found = self._scan()
        after = time.time_ns()
        self.found = {n: v for n, v in found.items() if is_claimed(n, self.guards, under)}
        self.skipped |= {n for n, v in self.found.items() if before < v.mtime <= after}

    def run(self) -> bool:
        """Returns whether all went: False where something changed while it was looked at."""
        self.there = self.storage.list(self.under)
        gone = [n for n in self.known if is_in(n, self.under) and n not in self.found]
        for name in filter(_is_seal, [*self._changed(), *gone]):
            self._delete(name)
        claims_first = sorted(filter(is_claim, self._changed()), key=len)
        for name in claims_first:
            if name not in self.skipped:
                self._claim(name)
        changed = sorted(self._changed(), key=lambda n: self.found[n].mtime)
        todo = [n for n in changed if n not in self.skipped]
        for name in todo:
            if not _is_seal(name):
                self._put(name)
        for name in [n for n in gone if not is_work(n)]:
            self._delete(name)
        for name in filter(_is_seal, todo):
            if any(self._speaks_of(name, skipped) for skipped in self.skipped):
                self.skipped.add(name)
            else:
                self._put(name)
        for name in sorted(filter(is_work, gone), key=lambda n: (not is_claim(n), len(n))):
            self._delete(name)
        self._mark()
        return not self.skipped

    def _changed(self) -> list[str]:
        """What is not there as it is here; of half-made work others may have put a newer one."""
        return [
            n
            for n, v in self.found.items()
            if not self._has(n, v) or not (is_work(n) or n in self.there)
        ]

    def _scan(self) -> dict[str, Version]:
        found = {}
        for folder, folders, names in os.walk(self.local / self.under):
            folders[:] = [name for name in folders if name not in _NOT_KEPT]
            for path in (Path(folder, name) for name in names):
                name = path.relative_to(self.local).as_posix()
                if is_kept(name) and (here := version(path)):
                    found[name] = here
        return found

    def _has(self, name: str, here: Version) -> bool:
        return name in self.known and self.known[name][0] == here

    def _claim(self, name: str) -> None:
        """Put a claim; before it delete what lies in its folder there, of another one."""
        if self.storage.read(name) != (self.local / name).read_bytes():
            scope = name.removesuffix(claims.NAME)
            inside = [n for n in self.there if n.startswith(scope)]
            for other in sorted(inside, key=lambda n: n != name):
                self._delete(other)
        self._put(name)

    def _put(self, name: str) -> bool:
        """Put a file as it was listed, unless it, or what vouches for it, has changed since."""
        listed = self.found[name]
        try:
            with (self.local / name).open("rb") as file:
                now = _version(os.fstat(file.fileno()))
                grown = now.inode == listed.inode and now.size >= listed.size
                same = now == listed or (grown and name.endswith(".part"))  # a journal
                done = same and self._is_guarded(name)
                if done:
                    self.storage.put(name, file, listed.size)
        except (FileNotFoundError, EOFError):
            done = False
        if not done:
            self.skipped.add(name)
            return False
        if mark := self.there.get(name):
            self.again[name] = mark
        self.known[name] = (listed, None)
        return True

    def _is_guarded(self, name: str) -> bool:
        """Whether the claims above a file, or the manifests, are as they were before the listing.

        Asked while the file is open: what is read then belongs to them.
        """
        if not is_work(name):
            return version(self.local / MANIFESTS) == self.manifests
        return all(
            version(self.local / claim) == listed and (claim == name or self._has(claim, listed))
            for claim, listed in self.guards.items()
            if _vouches(claim, name)
        )

    def _speaks_of(self, seal: str, name: str) -> bool:
        """Whether a seal has the hash of a file."""
        if not is_manifest(seal):
            return _vouches(seal, name)
        try:
            outputs = json.loads((self.local / seal).read_text(encoding="utf-8"))["outputs"]
        except (FileNotFoundError, ValueError, KeyError):
            return True  # gone in this moment, or damaged: it vouches for nothing
        return any(name == output or is_in(name, output) for output in outputs)

    def _delete(self, name: str) -> None:
        if name in self.there:
            self.storage.delete(name)
            del self.there[name]
        self.known.pop(name, None)

    def _mark(self) -> None:
        """Take down the marks of what was put: those of new contents differ from the old ones'.

        Where one does not, the clock there could not tell them apart, and it is put once more.
        """
        put = [name for name, (_, mark) in self.known.items() if mark is None]
        if not put:
            return
        there = self.storage.list(self.under)
        same = [n for n in put if n in self.again and self.again[n] == there.get(n)]
        if same:
            time.sleep(_CLOCK)
            again = [name for name in same if self._put(name)]
            there = self.storage.list(self.under)
            put = [name for name in put if name not in same or name in again]
        for name in put:
            self.known[name] = (self.known[name][0], there.get(name))


def version(path: Path) -> Version | None:
    """That of a file or folder, None where it is not there."""
    try:
        return _version(path.stat())
    except FileNotFoundError:
        return None


def _version(found: os.stat_result) -> Version:
    return Version(found.st_ino, found.st_size, found.st_mtime_ns)


def is_kept(name: str) -> bool:
    """Whether a file belongs in the storage: no lock, nothing that is half written."""
    parts = name.split("/")
    if is_temporary(name) or not _NOT_KEPT.isdisjoint(parts):
        return False
    # Of a folder in the making, what is sealed or thrown away is so for a moment only.
    return parts[0] != MAKING or not (parts[1].startswith(".") or parts[2:] == [SEALED])


def is_claimed(name: str, there: Iterable[str], under: str) -> bool:
    """Whether a file is no half-made work, or such that can be carried on: with a claim."""
    if not is_work(name):
        return True
    claim = "/".join([*name.split("/")[:2], claims.NAME])
    return claim in there or not is_in(claim, under)


def is_work(name: str) -> bool:
    """Whether a file is of something half made."""
    return name.startswith(f"{MAKING}/")


def is_claim(name: str) -> bool:
    """Whether a file says what the half-made work beside it is of."""
    return name.split("/")[-1] == claims.NAME


def is_manifest(name: str) -> bool:
    """Whether a file is the manifest of an artefact in place."""
    return name.startswith(f"{MANIFESTS}/")


def _is_seal(name: str) -> bool:
    """Whether a file vouches with hashes: an artefact's manifest, or a checkpoint's."""
    return is_manifest(name) or name.split("/")[-1] == SEALED


def _vouches(voucher: str, name: str) -> bool:
    """Whether a file lies in the folder of a claim, or of a checkpoint's seal."""
    return is_in(name, voucher.rpartition("/")[0])


def is_in(name: str, folder: str) -> bool:
    """Whether a file lies in the folder; in "", the whole, each does."""
    return not folder or name.startswith(f"{folder}/")
