"""Whole files or none: atomic writes, what is on the disk, hashes, rows kept as they come."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from nutgraf.core.errors import UserError


def write_text(path: Path, text: str) -> None:
    """Write a whole file or nothing: temporary name, fsync, rename.

    What a kill leaves of it is the temporary name, which the next writer of the file takes over.
    Raises OSError naming the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.part")
    try:
        with scratch.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)
        sync(path.parent)
    except OSError as error:
        error.filename = error.filename or str(path)  # a full disk does not say which file it was
        raise


def is_full(error: OSError) -> bool:
    """Whether a disk, or what the user may have of it, is full."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


@contextlib.contextmanager
def written_by_others(place: Path) -> Iterator[None]:
    """In the block libraries write to `place`: what they make of a full disk becomes an OSError.

    safetensors and tokenizers say "os error 28" in errors of their own, torch that its container
    is not where it should be.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, OSError) or not re.search("os error|inline_container", str(error)):
            raise
        full = shutil.disk_usage(place).free < 2**24
        number = errno.ENOSPC if full else errno.EIO
        raise OSError(number, os.strerror(number), str(place)) from error


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_all(path: Path) -> None:
    """Wait until a file, or a folder with all that is in it, is on the disk."""
    for file in files_in(path):
        sync(file)
    folders = [path, *(p for p in path.rglob("*") if p.is_dir())] if path.is_dir() else []
    for folder in [*folders, path.parent]:
        sync(folder)


def files_in(path: Path) -> list[Path]:
    """The file itself, or every file in the folder, at any depth."""
    return sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]


def move(source: Path, target: Path) -> None:
    """Put a file or folder in the place of whatever is there, on the disk when it returns."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_dir():
        shutil.rmtree(target)
    source.replace(target)
    sync(target.parent)
    sync(source.parent)


# Of this process, so that a command reads a finished file once however often it is compared.
_hashes: dict[tuple[int, int, int, int], str] = {}
_SETTLED = 2_000_000_000  # ns after a change, when a further one has another time on any disk


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's contents, in hexadecimal.

    The file is read again only if it is another one, or has another size or time of change.
    """
    with path.open("rb") as file:
        seen = os.fstat(file.fileno())
        key = (seen.st_dev, seen.st_ino, seen.st_size, seen.st_mtime_ns)
        if key in _hashes:
            return _hashes[key]
        hashed = hashlib.file_digest(file, "sha256").hexdigest()
    if time.time_ns() - seen.st_mtime_ns > _SETTLED:
        _hashes[key] = hashed
    return hashed


def digest(files: Mapping[str, str]) -> str:
    """One hash of several files, given as name: hash."""
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


class Journal:
    """Rows in a JSONL file that are on the disk as soon as they are added.

    What a kill leaves half written at its end is dropped when the journal is opened again.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab+") as file:
            file.seek(0)
            lines = file.read().splitlines(keepends=True)
            self.rows: list[dict[str, Any]] = []
            whole = 0
            for line in lines:
                try:
                    row = json.loads(line) if line.endswith(b"\n") else None
                except ValueError:
                    row = None
                if not isinstance(row, dict):
                    break
                self.rows.append(row)
                whole += len(line)
            file.truncate(whole)

    def add(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append rows and wait until they are on the disk. Raises OSError naming the file."""
        added = [dict(row) for row in rows]
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in added)
        try:
            with self.path.open("ab") as file:
                file.write(text.encode("utf-8"))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            error.filename = error.filename or str(self.path)
            raise
        self.rows += added


def read_json(path: Path) -> Any:
    """The value in a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write one JSON object, indented, in one atomic step."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_records(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSONL file. Raises UserError naming the line that is not JSON."""
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
        if line:
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise UserError(f"{path} line {number} is not JSON: {error.msg}") from None
    return rows


def write_records(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows as JSONL, one object a line, in one atomic step."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def file_hash(path: Path) -> str:
    """SHA-256 of a file's contents. Raises UserError for a file that is not there."""
    try:
        return sha256(path)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: correct its path") from None
