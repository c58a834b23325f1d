"""Write files whole or not at all, hash them, and append rows that survive a kill."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from nutgraf.core.errors import UserError

logger = logging.getLogger(__name__)

# What a file begins with that Git LFS has not downloaded.
LFS_POINTER = b"version https://git-lfs.github.com/"


def write_text(path: Path, text: str) -> None:
    """Write a whole file or nothing: under a temporary name, fsync, rename.

    If it is killed, the next writer of the file overwrites the temporary one. Raises OSError naming
    the file.
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


@contextlib.contextmanager
def written_by_others(path: Path) -> Iterator[None]:
    """Turn a library's own error about a disk, in the block that writes to `path`, into an OSError.

    safetensors and tokenizers report "os error 28", torch that its container is misplaced, numpy
    how much it wrote.
    """
    try:
        yield
    except Exception as error:
        known = re.search("os error|inline_container|requested and .* written", str(error))
        if getattr(error, "errno", None) or not known:
            raise
        number = errno.ENOSPC if shutil.disk_usage(path).free < 2**24 else errno.EIO
        raise OSError(number, os.strerror(number), str(path)) from error


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_all(path: Path) -> None:
    """Wait until a file, or a folder with all that is in it, is on the disk."""
    for item in (*path.rglob("*"), path, path.parent):
        sync(item)


def files_in(path: Path) -> list[Path]:
    """Return the file itself, or every file in the folder, at any depth."""
    return sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]


def move(source: Path, target: Path) -> None:
    """Move a file or folder over `target`; it is on the disk when this returns."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_dir():
        shutil.rmtree(target)
    source.replace(target)
    sync(target.parent)
    sync(source.parent)


# By device, inode, size and times of change, so that a command reads a finished file once. The
# second time is the system's own: programs that copy a file may set back the first.
_hashes: dict[tuple[int, ...], str] = {}
_SETTLED = 2_000_000_000  # ns after a change, when the next has a different time on any disk


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's contents, in hexadecimal.

    It is read again only if its inode, size or time of change differs.
    """
    with path.open("rb") as file:
        stat = os.fstat(file.fileno())
        key = (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
        if key in _hashes:
            return _hashes[key]
        hashed = hashlib.file_digest(file, "sha256").hexdigest()
    if time.time_ns() - max(stat.st_mtime_ns, stat.st_ctime_ns) > _SETTLED:
        _hashes[key] = hashed
    return hashed


def digest(values: Mapping[str, Any]) -> str:
    """Return one hash of values of JSON by name, such as the hashes of several files."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


class Journal:
    """Rows in a JSONL file that are on the disk as soon as they are added.

    A row that a kill left half written is dropped when the journal is opened again. A damaged line
    before the last is dropped with the lines behind it, and a warning says so: a power cut can
    leave the blocks of one addition in any order.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, Any]] = []
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab+") as file:
            file.seek(0)
            *lines, _torn = file.read().split(b"\n")
            size = 0
            for line in lines:
                try:
                    row = json.loads(line)
                except ValueError:
                    break
                if not isinstance(row, dict):
                    break
                self.rows.append(row)
                size += len(line) + 1
            file.truncate(size)
        if dropped := len(lines) - len(self.rows):
            logger.warning(
                f"{path} line {len(self.rows) + 1} is damaged: it and what is behind it, {dropped} "
                "lines in all, are dropped and written again"
            )

    def add(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append rows and wait until they are on the disk. Raises OSError naming the file."""
        added = [dict(row) for row in rows]
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in added)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            error.filename = error.filename or str(self.path)
            raise
        self.rows += added


def read_json(path: Path) -> Any:
    """Return the value in a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON in one atomic step."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_records(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a JSONL file. Raises UserError naming the line that is not JSON."""
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
    """Return the SHA-256 of a file. Raises UserError if it does not exist."""
    try:
        return sha256(path)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: correct its path") from None
