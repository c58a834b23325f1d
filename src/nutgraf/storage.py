"""A place for files that pyarrow or fsspec reaches by an address: a folder, `s3://`, `gs://`.

A file is there whole or not at all, on every kind of file system.
"""

from __future__ import annotations

import contextlib
import io
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import fsspec
import pyarrow as pa
from pyarrow import fs

from nutgraf.files import sync
from nutgraf.problems import Failure, UserError

_CHUNK = 8 << 20  # bytes read at a time
# What is written here appears at its close, whole; elsewhere it is written under a temporary name.
_APPEARS_WHOLE = re.compile(r"(s3|gcs|abfs|py::fsspec\+.*(s3|gs|gcs|az|abfs)\b.*)$")
_NO_PLACE = re.compile(r"NO_SUCH_BUCKET|NoSuchBucket|bucket does not exist|[Cc]ontainer.*not exist")
_REFUSED = re.compile(
    r"ACCESS_DENIED|INVALID_ACCESS_KEY|SIGNATURE|UNAUTH|Forbidden|Permission|\b40[13]\b", re.I
)
_CREDENTIALS = (
    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY for s3://, GOOGLE_APPLICATION_CREDENTIALS for "
    "gs://, or the rights of a folder"
)


class Unreachable(Failure):
    """The storage did not answer as it should; it may do so later."""


class Storage:
    """The files below one address, by their names relative to it. Can be pickled."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._files, self._root = _opened(uri)
        self._local = isinstance(self._files, fs.LocalFileSystem)
        self._appears_whole = bool(_APPEARS_WHOLE.match(self._files.type_name))

    def __reduce__(self) -> tuple[type[Storage], tuple[str]]:
        return Storage, (self.uri,)

    def list(self, under: str = "") -> dict[str, str]:
        """All files below `under`, each with a mark that differs where the content may differ.

        Two contents of one size, written within what its clock tells apart (a second, on S3), have
        the same mark.
        """
        root = self._path(under)
        with self._told():
            if isinstance(self._files, fs.PyFileSystem):
                inner = self._files.handler.fs
                inner.invalidate_cache()
                marks = {path: str(about) for path, about in inner.find(root, detail=True).items()}
            else:
                selector = fs.FileSelector(root, recursive=True, allow_not_found=True)
                found = self._files.get_file_info(selector)
                marks = {f.path: f"{f.size} {f.mtime_ns}" for f in found if f.is_file}
        names = {posixpath.relpath(path, self._root): mark for path, mark in marks.items()}
        for name in names:
            check_name(name)
        return {name: mark for name, mark in names.items() if not is_temporary(name)}

    def read(self, name: str) -> bytes | None:
        """The content of a small file, None where it is not there."""
        try:
            with self._told(), self._files.open_input_stream(self._path(name), None) as file:
                return bytes(file.read())
        except FileNotFoundError:
            return None

    def get(self, name: str, target: Path) -> None:
        """Copy a file to `target`, whole or not at all. Raises FileNotFoundError."""
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = target.with_name(f".{target.name}.part")
        with scratch.open("wb") as out:
            with self._told():
                source = self._files.open_input_stream(self._path(name), None)
            with source:
                while chunk := self._read(source):
                    out.write(chunk)
        sync(scratch)
        scratch.replace(target)
        sync(target.parent)

    def put(self, name: str, source: BinaryIO, size: int) -> None:
        """Copy the next `size` bytes of `source` to a file, whole or not at all."""
        path = self._path(name)
        folder, base = posixpath.split(path)
        scratch = path if self._appears_whole else posixpath.join(folder, f".{base}.part")
        with self._told():
            if not self._appears_whole:
                self._files.create_dir(folder, recursive=True)
            out = self._files.open_output_stream(scratch, None)
        try:
            self._copy(source, out, size)
        except BaseException:
            # Closing is all that pyarrow offers, and it makes what was written the file.
            with contextlib.suppress(OSError):
                out.close()
                self._files.delete_file(scratch)
            raise
        with self._told():
            out.close()
            if scratch != path:
                if self._local:
                    sync(Path(scratch))
                self._files.move(scratch, path)
                if self._local:
                    sync(Path(folder))

    def write(self, name: str, content: bytes) -> None:
        """Write a small file, whole or not at all."""
        self.put(name, io.BytesIO(content), len(content))

    def delete(self, name: str) -> None:
        """Delete a file, which may be gone already."""
        with contextlib.suppress(FileNotFoundError), self._told():
            self._files.delete_file(self._path(name))

    def _copy(self, source: BinaryIO, out: Any, size: int) -> None:
        while size:
            chunk = source.read(min(size, _CHUNK))
            if not chunk:
                raise EOFError(f"{size} bytes less than there were")
            with self._told():
                out.write(chunk)
            size -= len(chunk)

    def _read(self, source: Any) -> bytes:
        with self._told():
            return bytes(source.read(_CHUNK))

    def _path(self, name: str) -> str:
        return posixpath.join(self._root, name) if name else self._root

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """What the storage says goes on as one line; a file that is not there stays what it is."""
        try:
            yield
        except FileNotFoundError:
            raise
        except (OSError, pa.ArrowException) as error:
            said = _first_line(error)
            if _NO_PLACE.search(said):
                raise UserError(
                    f"storage is {self.uri}, and its bucket does not exist: make it, or correct "
                    "storage"
                ) from error
            if _REFUSED.search(said):
                raise UserError(
                    f"storage {self.uri} refuses access ({said}): {_CREDENTIALS}"
                ) from error
            raise Unreachable(
                f"storage {self.uri} cannot be used ({said}): check it and the network"
            ) from error


def check_name(name: str) -> None:
    """Raise Failure for a name that leads out of the folder that it is relative to."""
    if ".." in PurePosixPath(name).parts or PurePosixPath(name).is_absolute():
        raise Failure(f"the storage holds a file named {name!r}: delete it there")


def is_temporary(name: str) -> bool:
    """Whether a file of that name is being written, here or there."""
    base = posixpath.basename(name)
    return base.startswith(".") and base.endswith(".part")


def _opened(uri: str) -> tuple[Any, str]:
    """The file system of an address, and the path in it. Raises UserError."""
    if "://" not in uri:
        return fs.LocalFileSystem(), str(Path(uri).expanduser().absolute())
    try:
        try:
            files, path = fs.FileSystem.from_uri(_with_options(uri))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            if not re.search("Unrecognized filesystem|without", str(error)):
                raise
            inner, path = fsspec.core.url_to_fs(uri)
            files = fs.PyFileSystem(fs.FSSpecHandler(inner))
    except ImportError as error:
        raise UserError(f"storage is {uri}, and a library is missing: {error}") from error
    except (OSError, ValueError) as error:  # ArrowInvalid is a ValueError
        raise UserError(
            f"storage is {uri}, which cannot be opened ({_first_line(error)}): give a folder, "
            "s3://BUCKET/PATH, gs://BUCKET/PATH, or another address that fsspec knows"
        ) from error
    if not path.strip("/"):
        raise UserError(f"storage is {uri}, which names no bucket or folder: give one")
    return files, path.rstrip("/")


def _with_options(uri: str) -> str:
    """An address of S3 with small files written by one request, not three."""
    if not uri.startswith("s3://") or "allow_delayed_open" in uri:
        return uri
    return f"{uri}{'&' if '?' in uri else '?'}allow_delayed_open=true"


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__
