"""Copy a run folder to a storage, and fetch it on another machine.

Finished artefacts lie there as in the run folder. An artefact's old manifest is deleted before its
files change, and its new one is written after them. Of an unfinished artefact X there is a
snapshot: `.making/X/<SHA-256>` are its files, and `.making/X.json`, written last, names them. So
after a kill at any moment the storage may be older than the folder, but is never mixed.
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
from typing import TypeAlias

from nutgraf.core.errors import Failure, UserError, without_secrets
from nutgraf.core.files import move, sha256, sync_all, write_text
from nutgraf.storage import work_claim
from nutgraf.storage.artefact import SEALED, UNFINISHED
from nutgraf.storage.remote_files import RemoteFiles, check_name
from nutgraf.storage.run_folder import MANIFESTS, RunFolder

logger = logging.getLogger(__name__)

_LOCAL = ".remote"  # in the run folder: files on their way, and which storage it wrote to
# Copied too, and fetched if they are missing here or the storage is ahead.
_OTHERS = ("config.yaml", "log.jsonl", "tensorboard/*/*")
_NOT_COPIED = {".lock", ".ray", "half-written"}  # of unfinished artefacts

Files: TypeAlias = dict[str, tuple[Path, str]]  # {name there: (path here, SHA-256)}


class RemoteCopy:
    """The run folder `local` and its copy at `uri`, which one process at a time writes."""

    def __init__(self, uri: str, local: Path | str) -> None:
        self.files = RemoteFiles(uri)
        self.local = Path(local)
        self._uploaded: dict[str, bytes] = {}  # manifests and other small files in the storage
        self._staged = self.local / _LOCAL / "staged"
        self._state = self.local / _LOCAL / "state"
        self._identity = f"{without_secrets(uri)}\n{socket.gethostname()}:{self.local.resolve()}"

    @property
    def token(self) -> str:
        """The lease under which this folder last wrote to this storage, "" if it never did."""
        if not self._state.exists():
            return ""
        identity, _, token = self._state.read_text(encoding="utf-8").rpartition("\n")
        return token if identity == self._identity else ""  # else copied, or of another storage

    def save_token(self, token: str) -> None:
        """Note that from now on only this folder writes there, under the lease `token`."""
        write_text(self._state, f"{self._identity}\n{token}")

    def refuse_another_study(self) -> None:
        """Raise UserError if folder and storage have never met, and hold different studies."""
        if self.token:
            return
        for path in sorted((self.local / MANIFESTS).glob("*.json")):
            if self.files.read(f"{MANIFESTS}/{path.name}") not in (None, path.read_bytes()):
                raise UserError(
                    f"{self.local} and storage {self.files.uri} hold different studies "
                    f"({path.stem} differs): give another folder with --run, or another storage"
                )

    def push(self) -> bool:
        """Upload finished artefacts, then snapshots of unfinished ones, if they have changed.

        Returns False if something changed meanwhile and has to go the next time. Raises
        Unreachable, after which it can be called again.
        """
        claims = list((self.local / UNFINISHED).glob(f"[!.]*/{work_claim.NAME}"))
        manifests = sorted((self.local / MANIFESTS).glob("*.json"))
        complete = [self._push_artefact(path) for path in manifests]
        for path in (path for pattern in _OTHERS for path in self.local.glob(pattern)):
            name = path.relative_to(self.local).as_posix()
            if path.is_file() and self._uploaded.get(name) != (content := path.read_bytes()):
                self._write(name, content)
        complete += [self._push_unfinished(claim.parent) for claim in claims]
        shutil.rmtree(self._staged, ignore_errors=True)
        if all(complete):  # other unfinished work in the storage is an artefact now, and there
            unfinished = {claim.parent.name for claim in claims}
            for name in sorted(self.files.names(UNFINISHED), key=lambda name: name.count("/")):
                if name.split("/")[1].removesuffix(".json") not in unfinished:
                    self._delete(name)  # an index before its files
        return all(complete)

    def _push_artefact(self, path: Path) -> bool:
        try:
            content = path.read_bytes()
            manifest = json.loads(content)
            files = {name: (self.local / name, h) for name, h in manifest["files"].items()}
            folders = [name for name in manifest["outputs"] if (self.local / name).is_dir()]
        except (FileNotFoundError, ValueError, KeyError):
            return False  # it is being replaced, or damaged and will be made again
        return self._upload(f"{MANIFESTS}/{path.name}", content, files, folders)

    def _push_unfinished(self, folder: Path) -> bool:
        hashes = self._freeze(folder)
        if hashes is None:
            return False
        remote = f"{UNFINISHED}/{folder.name}"
        index = json.dumps({"files": hashes}, indent=2).encode()
        files = {f"{remote}/{h}": (self._staged / name, h) for name, h in hashes.items()}
        return self._upload(f"{remote}.json", index, files, [remote])

    def _upload(self, index: str, content: bytes, files: Files, folders: list[str]) -> bool:
        """Upload `files`, then their manifest or index; delete other files in `folders`.

        Returns False if a file has changed meanwhile.
        """
        if self._uploaded.get(index) == content:
            return True
        old = {name for folder in folders for name in self.files.names(folder)}
        if index.startswith(MANIFESTS):
            self._delete(index)
        for name, (path, expected) in files.items():
            if name in old and name.endswith(f"/{expected}"):
                continue
            try:
                if self.files.put(name, path) != expected:
                    self.files.delete(name)
                    return False
            except FileNotFoundError:
                return False
        self._write(index, content)
        for name in old - files.keys():
            self.files.delete(name)
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
            unchanged = _versions(folder) == versions
        except FileNotFoundError:
            return None
        if not unchanged or work_claim.NAME not in versions or SEALED in versions:
            return None  # without a claim it is thrown away; sealed, it becomes an artefact
        return {name: sha256(self._staged / name) for name in versions}

    def pull(self, over: bool = True) -> None:
        """Fetch artefacts that are missing in the run folder, and other files that are copied.

        With `over`, those that are here and unfinished artefacts are replaced, too. What only this
        folder has stays. Raises Failure for a damaged manifest.
        """
        folder = RunFolder(self.local)
        folder.recover()
        names = sorted(self.files.names())
        for name in names:
            path = self.local / name
            if is_index(name, MANIFESTS):
                content, files = read_index(self.files, name)
                self._uploaded[name] = content
                if not path.exists() or (over and path.read_bytes() != content):
                    self._fetch(name, files)
            elif (over or not path.exists()) and any(fnmatch(name, other) for other in _OTHERS):
                self.files.get(name, path)
        folder.recover()
        for name in names:
            if over and is_index(name, UNFINISHED):
                self._fetch(name, read_index(self.files, name)[1])

    def _fetch(self, index: str, files: dict[str, str]) -> None:
        """Fetch what a manifest or index lists, with its hashes, as unfinished work.

        Warn and fetch nothing if a file is missing or damaged. An artefact is sealed: `recover`
        moves it into place.
        """
        artefact = PurePosixPath(index).stem
        shutil.rmtree(self._staged, ignore_errors=True)
        self._staged.mkdir(parents=True)
        for file, expected in files.items():
            source = file if index in self._uploaded else f"{UNFINISHED}/{artefact}/{expected}"
            damage = ""
            try:
                if self.files.get(source, self._staged / file) != expected:
                    damage = "is not as it was made"
            except FileNotFoundError:
                damage = "is missing"
            if damage:
                logger.warning(f"{artefact} is not fetched from {self.files.uri}: {file} {damage}")
                return
        if index in self._uploaded:
            (self._staged / SEALED).write_bytes(self._uploaded[index])
        sync_all(self._staged)
        move(self._staged, self.local / UNFINISHED / artefact)

    def _write(self, name: str, content: bytes) -> None:
        self.files.write(name, content)
        self._uploaded[name] = content

    def _delete(self, name: str) -> None:
        self._uploaded.pop(name, None)
        self.files.delete(name)


def read_index(store: RemoteFiles, name: str) -> tuple[bytes, dict[str, str]]:
    """Return a manifest or index and the hashes in it, by names that stay in the folder.

    Raises FileNotFoundError if it is there no more, Failure if it is damaged.
    """
    content = store.read(name)
    if content is None:
        raise FileNotFoundError(f"{name} of storage {store.uri}")
    try:
        index = json.loads(content)
        files = {str(file): str(expected) for file, expected in index["files"].items()}
        others = [index["artefact"], *index["outputs"]] if is_index(name, MANIFESTS) else []
        for path in (*files, *others):
            check_name(path)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Failure(
            f"{name} of storage {store.uri} is damaged ({error!r}): delete it there, "
            "and what it names is made again"
        ) from error
    return content, files


def is_index(name: str, folder: str) -> bool:
    """Return whether a file of a storage lists what is in an artefact of `folder`."""
    return bool(re.fullmatch(rf"{re.escape(folder)}/[^/.][^/]*\.json", name))


def _versions(folder: Path) -> dict[str, tuple[int, int, int]]:
    """List the files that another machine needs: {name: (inode, size, time of change)}."""
    versions = {}
    for path in folder.rglob("*"):
        name = path.relative_to(folder)
        temporary = path.name.startswith(".") and path.suffix == ".part"
        if _NOT_COPIED.isdisjoint(name.parts) and not temporary and path.is_file():
            status = path.stat()
            versions[name.as_posix()] = status.st_ino, status.st_size, status.st_mtime_ns
    return versions


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        if source.suffix == ".part":  # a journal, which grows
            raise OSError
        os.link(source, target)
    except OSError:  # or a file system without links
        shutil.copyfile(source, target)
