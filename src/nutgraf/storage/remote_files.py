"""Read and write files at an address that pyarrow or fsspec reaches: a folder, `s3://`, `gs://`.

A file appears whole or not at all, on every kind of file system.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import fsspec
import pyarrow as pa
from pyarrow import fs

from nutgraf.core.errors import Failure, UserError, library_errors
from nutgraf.core.files import sha256
from nutgraf.core.paths import absolute

_CHUNK = 8 << 20  # bytes read at a time
# File systems on which a file appears at its close; on others it is renamed once it is whole.
_APPEARS_WHOLE = re.compile(r"(s3|gcs|abfs|py::fsspec\+.*(s3|gs|gcs|az|abfs)\b.*)$")
_UNKNOWN = "Unrecognized filesystem type"  # what Arrow says of an address of none that it knows
_USERS_MISTAKE = re.compile(
    "NO_?SUCH_?BUCKET|(bucket|container).*not exist|ACCESS_?DENIED|INVALID_ACCESS_KEY|SIGNATURE|"
    r"UNAUTH|Forbidden|Permission|\b40[13]\b",
    re.I,
)


class Unreachable(Failure):
    """The storage did not answer as it should; it may do so later."""


class RemoteFiles:
    """Read and write the files below the address `uri`, by their names relative to it."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._system, self._root = _open(uri)

    def names(self, under: str = "") -> set[str]:
        """Return the names of all files below the folder `under`, with half-written ones."""
        with self._errors():
            if isinstance(self._system, fs.PyFileSystem):
                self._system.handler.fs.invalidate_cache()
            selector = fs.FileSelector(self._path(under), recursive=True, allow_not_found=True)
            infos = self._system.get_file_info(selector)
        names = {posixpath.relpath(info.path, self._root) for info in infos if info.is_file}
        for name in names:
            check_name(name)
        return names

    def read(self, name: str) -> bytes | None:
        """Return the content of a small file, None if there is none."""
        try:
            with self._errors(), self._system.open_input_stream(self._path(name), None) as file:
                return bytes(file.read())
        except FileNotFoundError:
            return None

    def get(self, name: str, target: Path) -> str:
        """Copy a file to `target`, whole or not at all, and return its SHA-256.

        Raises FileNotFoundError.
        """
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = target.with_name(f".{target.name}.part")
        with self._errors():
            source = self._system.open_input_stream(self._path(name), None)
        with source, scratch.open("wb") as out:
            while chunk := self._read(source):
                out.write(chunk)
        scratch.replace(target)
        return sha256(target)

    def put(self, name: str, source: Path) -> str:
        """Copy the file `source` here, whole or not at all, and return its SHA-256."""
        with source.open("rb") as file:
            return self._put(name, file)

    def write(self, name: str, content: bytes) -> None:
        """Write a small file, whole or not at all."""
        self._put(name, io.BytesIO(content))

    def delete(self, name: str) -> None:
        """Delete a file, which may be gone already."""
        with contextlib.suppress(FileNotFoundError), self._errors():
            self._system.delete_file(self._path(name))

    def _put(self, name: str, source: BinaryIO) -> str:
        path = scratch = self._path(name)
        folder, base = posixpath.split(path)
        with self._errors():
            if not _APPEARS_WHOLE.match(self._system.type_name):
                scratch = posixpath.join(folder, f".{base}.part")
                self._system.create_dir(folder, recursive=True)
            out = self._system.open_output_stream(scratch, None)
        hashed = hashlib.sha256()
        try:
            while chunk := source.read(_CHUNK):
                hashed.update(chunk)
                with self._errors():
                    out.write(chunk)
        except BaseException:
            # pyarrow can only close a stream, which makes what was written the file.
            with contextlib.suppress(OSError):
                out.close()
                self._system.delete_file(scratch)
            raise
        with self._errors():
            out.close()
            if scratch != path:
                self._system.move(scratch, path)
        return hashed.hexdigest()

    def _read(self, source: Any) -> bytes:
        with self._errors():
            return bytes(source.read(_CHUNK))

    def _path(self, name: str) -> str:
        return posixpath.join(self._root, name) if name else self._root

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Raise what the file system reports as one line; FileNotFoundError stays what it is."""
        try:
            yield
        except FileNotFoundError:
            raise
        except (OSError, pa.ArrowException) as error:
            reason = str(error).strip().split("\n")[0] or type(error).__name__
            kind = UserError if _USERS_MISTAKE.search(reason) else Unreachable
            raise kind(
                f"storage {self.uri} cannot be used ({reason}): check the network, that its bucket "
                "or folder exists, and your rights (for s3:// AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY, for gs:// GOOGLE_APPLICATION_CREDENTIALS)"
            ) from error


def check_name(name: str) -> None:
    """Raise Failure for a name that leads out of the folder that it is relative to."""
    if ".." in PurePosixPath(name).parts or PurePosixPath(name).is_absolute():
        raise Failure(f"the storage holds a file named {name!r}: delete it there")


def _open(uri: str) -> tuple[Any, str]:
    """Return the file system of an address, and the path in it. Raises UserError."""
    if "://" not in uri:
        return fs.LocalFileSystem(), absolute(uri)
    address = uri
    if uri.startswith("s3://"):  # a small file is written by one request then, not three
        address += f"{'&' if '?' in uri else '?'}allow_delayed_open=true"
    change = (
        "give a folder, s3://BUCKET/PATH, gs://BUCKET/PATH, or another address that fsspec knows"
    )
    with library_errors(f"storage is {uri}, which cannot be opened", change):
        try:
            system, path = fs.FileSystem.from_uri(address)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            # fsspec may have what Arrow was built without, or does not know. Any other address that
            # is invalid to Arrow is the user's mistake.
            if isinstance(error, pa.ArrowInvalid) and not str(error).startswith(_UNKNOWN):
                raise
            inner, path = fsspec.core.url_to_fs(uri)
            system = fs.PyFileSystem(fs.FSSpecHandler(inner))
        if not path.strip("/"):
            raise ValueError("it names no bucket or folder")
    return system, path.rstrip("/")
