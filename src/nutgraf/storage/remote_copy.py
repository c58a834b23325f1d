"""The copy of a run folder in a storage: uploaded from here, fetched on another machine.

Finished artefacts lie there as in the run folder. An artefact's old manifest is deleted before its
files change, and its new one is written after them. Of an unfinished artefact X there is a
snapshot: `.making/X/<SHA-256>` are its files, and `.making/X.json`, written last, names them. So
what is there after a kill, at any moment, may be older than the folder here but is never mixed.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import socket
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias

from nutgraf.core.errors import Failure, UserError, without_secrets
from nutgraf.core.files import move, sha256, sync_all, write_text
from nutgraf.storage import work_claim
from nutgraf.storage.remote_files import RemoteFiles, check_name
from nutgraf.storage.run_folder import MAKING, MANIFESTS, SEALED, RunFolder

logger = logging.getLogger(__name__)

_OWN = ".remote"  # folder here: files on their way, and which storage this folder wrote to
_OTHERS = ("config.yaml", "tensorboard/*/*")  # copied too, and fetched if they are missing
_NOT_COPIED = {".lock", ".ray", "half-written"}  # of unfinished artefacts

Version: TypeAlias = tuple[int, int, int]  # a file's inode, size and time of change
Files: TypeAlias = dict[str, tuple[Path, str]]  # {name there: (path here, SHA-256)}


class RemoteCopy:
    """The run folder `local` and its copy at `uri`, which one process at a time writes."""

    def __init__(self, uri: str, local: Path | str) -> None:
        self.files = RemoteFiles(uri)
        self.local = Path(local)
        self._written: dict[str, bytes] = {}  # manifests and other small files in the storage
        self._staged = self.local / _OWN / "staged"  # files on their way
        self._state = self.local / _OWN / "state"
        self._identity = f"{without_secrets(uri)}\n{socket.gethostname()}:{self.local.resolve()}"

    @property
    def lease(self) -> str:
        """The token under which this folder last wrote to this storage, "" if it never did."""
        if not self._state.exists():
            return ""
        identity, _, lease = self._state.read_text(encoding="utf-8").rpartition("\n")
        return lease if identity == self._identity else ""  # else copied, or of another storage

    def begin(self, lease: str) -> None:
        """Note that from here on only this folder writes there, under the token `lease`."""
        write_text(self._state, f"{self._identity}\n{lease}")

    def refuse_another_study(self) -> None:
        """Raise UserError if folder and storage have never met, and hold different studies."""
        if self.lease:
            return
        for path in sorted((self.local / MANIFESTS).glob("*.json")):
            other = self.files.read(f"{MANIFESTS}/{path.name}")
            if other is not None and other != path.read_bytes():
                raise UserError(
                    f"{self.local} and storage {self.files.uri} hold different studies "
                    f"({path.stem} differs): give another folder with --run, or another storage"
                )

    def push(self) -> bool:
        """Upload finished artefacts, then snapshots of unfinished ones, if they have changed.

        Returns False if something changed meanwhile and has to go the next time. Raises
        Unreachable, after which it can be called again.
        """
        unfinished = [
            p for p in (self.local / MAKING).glob("[!.]*") if (p / work_claim.NAME).exists()
        ]
        manifests = sorted((self.local / MANIFESTS).glob("*.json"))
        complete = [self._push_artefact(path) for path in manifests]
        for path in (path for pattern in _OTHERS for path in self.local.glob(pattern)):
            name = path.relative_to(self.local).as_posix()
            if path.is_file() and self._written.get(name) != (content := path.read_bytes()):
                self._write(name, content)
        complete += [self._push_unfinished(folder) for folder in unfinished]
        shutil.rmtree(self._staged, ignore_errors=True)
        if all(complete):  # other unfinished work in the storage is an artefact now, and there
            places = {PurePosixPath(MAKING, folder.name) for folder in unfinished}
            for name in sorted(self.files.names(MAKING), key=lambda name: name.count("/")):
                path_there = PurePosixPath(name)
                if places.isdisjoint({path_there.with_suffix(""), *path_there.parents}):
                    self._delete(name)  # an index before its files
        return all(complete)

    def _push_artefact(self, path: Path) -> bool:
        try:
            content = path.read_bytes()
            manifest = json.loads(content)
            files = {name: (self.local / name, h) for name, h in manifest["files"].items()}
            folders = [name for name in manifest["outputs"] if (self.local / name).is_dir()]
        except (FileNotFoundError, ValueError, KeyError):
            return False  # it is replaced in this moment, or damaged and will be made again
        return self._upload(f"{MANIFESTS}/{path.name}", content, files, folders)

    def _push_unfinished(self, folder: Path) -> bool:
        hashes = self._freeze(folder)
        if hashes is None:
            return False
        place = f"{MAKING}/{folder.name}"
        index = json.dumps({"files": hashes}, indent=2).encode()
        files = {f"{place}/{h}": (self._staged / name, h) for name, h in hashes.items()}
        return self._upload(f"{place}.json", index, files, [place])

    def _upload(self, index: str, content: bytes, files: Files, folders: list[str]) -> bool:
        """Upload `files`, then the manifest or index of them; delete what else is in `folders`.

        Returns False if a file has changed meanwhile.
        """
        if self._written.get(index) == content:
            return True
        there = {name for folder in folders for name in self.files.names(folder)}
        if index.startswith(MANIFESTS):
            self._delete(index)
        for name, (path, hashed) in files.items():
            if name in there and name.endswith(f"/{hashed}"):
                continue
            try:
                if self.files.put(name, path) != hashed:
                    self.files.delete(name)
                    return False
            except FileNotFoundError:
                return False
        self._write(index, content)
        for stale in there - files.keys():
            self.files.delete(stale)
        return True

    def _freeze(self, folder: Path) -> dict[str, str] | None:
        """Link the files of `folder` into `_staged` as they are at one moment; return their hashes.

        Returns None if they change meanwhile. Files are replaced by new ones, not written to,
        except journals, which are copied.
        """
        shutil.rmtree(self._staged, ignore_errors=True)
        try:
            versions = _versions(folder)
            for name in versions:
                _link(folder / name, self._staged / name)
            if _versions(folder) != versions:
                return None
        except FileNotFoundError:
            return None
        if work_claim.NAME not in versions or SEALED in versions:
            return None  # it is thrown away, or becomes an artefact, in this moment
        return {name: sha256(self._staged / name) for name in versions}

    def pull(self, over: bool = True) -> None:
        """Fetch artefacts that are missing here; with `over` also those that differ.

        With `over` unfinished artefacts of the storage replace those here, too. What only this
        folder has stays. Raises Failure for a damaged manifest.
        """
        RunFolder(self.local).recover()
        names = sorted(self.files.names())
        for name in names:
            here = self.local / name
            if _is_in(name, MANIFESTS):
                content, files = self._read(name)
                self._written[name] = content
                if not here.exists() or (over and here.read_bytes() != content):
                    self._fetch(name, {file: (file, h) for file, h in files.items()})
            elif not here.exists() and any(fnmatch(name, pattern) for pattern in _OTHERS):
                self.files.get(name, here)
        RunFolder(self.local).recover()
        for name in names:
            if over and _is_in(name, MAKING):
                place = name.removesuffix(".json")
                files = self._read(name)[1]
                self._fetch(name, {file: (f"{place}/{h}", h) for file, h in files.items()})

    def _fetch(self, name: str, sources: dict[str, tuple[str, str]]) -> None:
        """Fetch what the manifest or index `name` lists into its folder of unfinished artefacts.

        `sources` has the name there and the SHA-256 of each file here. With a file missing or
        damaged, say so and fetch nothing. An artefact is sealed, and only to be moved.
        """
        what = PurePosixPath(name).stem
        shutil.rmtree(self._staged, ignore_errors=True)
        self._staged.mkdir(parents=True)
        for file, (source, hashed) in sources.items():
            try:
                same = self.files.get(source, self._staged / file) == hashed
                damage = None if same else "is not as it was made"
            except FileNotFoundError:
                damage = "is missing"
            if damage:
                logger.warning(f"{what} is not fetched from {self.files.uri}: {file} {damage}")
                return
        if name in self._written:
            (self._staged / SEALED).write_bytes(self._written[name])
        sync_all(self._staged)
        move(self._staged, self.local / MAKING / what)

    def _read(self, name: str) -> tuple[bytes, dict[str, str]]:
        """Return a manifest or index and the hashes in it, by names that stay in the folder."""
        content = self.files.read(name) or b""
        try:
            listed: dict[str, Any] = json.loads(content)
            files = {str(file): str(hashed) for file, hashed in listed["files"].items()}
            others = [listed["artefact"], *listed["outputs"]] if _is_in(name, MANIFESTS) else []
            for path in (*files, *others):
                check_name(path)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise Failure(
                f"{name} of storage {self.files.uri} is damaged ({error!r}): delete it there, "
                "and what it names is made again"
            ) from error
        return content, files

    def _write(self, name: str, content: bytes) -> None:
        self.files.write(name, content)
        self._written[name] = content

    def _delete(self, name: str) -> None:
        self._written.pop(name, None)
        self.files.delete(name)


def _is_in(name: str, folder: str) -> bool:
    """Return whether `name` is a manifest or index in `folder`."""
    return bool(re.fullmatch(rf"{re.escape(folder)}/[^/]+\.json", name))


def _versions(folder: Path) -> dict[str, Version]:
    """List the files of an unfinished artefact that another machine can carry on from."""
    versions = {}
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name not in _NOT_COPIED]
        for path in (Path(place, name) for name in names if name not in _NOT_COPIED):
            temporary = path.name.startswith(".") and path.suffix == ".part"
            if path.is_file() and not temporary:
                status = path.stat()
                version = status.st_ino, status.st_size, status.st_mtime_ns
                versions[path.relative_to(folder).as_posix()] = version
    return versions


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        if source.suffix == ".part":  # a journal, which grows
            raise OSError
        os.link(source, target)
    except OSError:  # or a file system without links
        shutil.copyfile(source, target)
