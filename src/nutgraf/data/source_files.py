"""Open files of rows and texts: compressed ones too, in the encodings that programs write."""

from __future__ import annotations

import bz2
import codecs
import functools
import gzip
import io
import logging
import lzma
import re
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, cast

import pyarrow as pa

from nutgraf.core.errors import UserError
from nutgraf.data.text import HEAD, encoding_by_mark

logger = logging.getLogger(__name__)

COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
DAMAGED = (OSError, EOFError, zlib.error, lzma.LZMAError, UnicodeError, pa.ArrowException)

_OPENERS: dict[bytes, Callable[[Path], object]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ": lzma.open,
    b"\x28\xb5\x2f\xfd": lambda path: io.BufferedReader(
        cast(io.RawIOBase, pa.input_stream(str(path), compression="zstd"))
    ),
}
_AS_TEXT = "save its text as .txt, or its table as .csv"
_FOREIGN = {
    b"version https://git-lfs.github.com/": "the pointer of a git-lfs file: run `git lfs pull`",
    b"%PDF": f"PDF: {_AS_TEXT}",
    b"PK\x03\x04": f"a workbook, a document or an archive: {_AS_TEXT}",
    b"\xd0\xcf\x11\xe0": f"a file of an old Office program: {_AS_TEXT}",
    b"{\\rtf": f"rich text: {_AS_TEXT}",
    b"bplist00": "a web archive of Safari: save the page as HTML",
    b"SQLite format 3": "a SQLite database: save the table as .csv",
    b"ARROW1": "an Arrow file: save the table as .parquet",
    b"\x89PNG": f"a picture: {_AS_TEXT}",
    b"\xff\xd8\xff": f"a picture: {_AS_TEXT}",
}
_ABOVE_ASCII = re.compile(rb"[\x80-\xff]+")
_UTF8 = re.compile(rb"[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}")


def open_bytes(path: Path) -> BinaryIO:
    """Open a file to read its bytes, decompressed if it is compressed."""
    file = path.open("rb")
    start = file.read(6)
    for magic, opener in _OPENERS.items():
        if start.startswith(magic):
            file.close()
            return cast(BinaryIO, opener(path))
    file.seek(0)
    return file


def bare_suffix(path: Path) -> str:
    """Return the suffix of a name in small letters, without that of a compression."""
    name = path.name.lower()
    for suffix in COMPRESSED:
        name = name.removesuffix(suffix)
    return Path(name).suffix


def read_head(path: Path) -> bytes:
    """Return the first bytes. Raises UserError if they are of a kind that is not read."""
    with open_bytes(path) as file:
        head = file.read(HEAD)
    check_kind(str(path), head)
    return head


def check_kind(name: str, head: bytes) -> None:
    """Raise UserError if the first bytes are neither of text nor of Parquet."""
    for magic, kind in _FOREIGN.items():
        if head.startswith(magic):
            raise UserError(f"{name} is {kind}")


@functools.lru_cache(maxsize=64)
def _warn_once(message: str) -> None:
    logger.warning(message)


def encoding_of_table(path: Path, head: bytes) -> str:
    """Return the encoding of a CSV file; warn if it is Windows-1252, as Excel saves it.

    It is that if most bytes above ASCII are not UTF-8. Other files with such bytes are UTF-8 with
    damaged rows.
    """
    if encoding := encoding_by_mark(head):
        return encoding
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    with open_bytes(path) as file:
        try:
            while chunk := file.read(2**20):
                decoder.decode(chunk)
            return "utf-8-sig"
        except UnicodeDecodeError:
            file.seek(0)
        valid = other = 0
        example = b""
        while chunk := file.read(2**20):
            for run in _ABOVE_ASCII.finditer(chunk):
                good = sum(map(len, _UTF8.findall(run[0])))
                valid, other = valid + good, other + len(run[0]) - good
                if good < len(run[0]) and not example:
                    example = chunk[max(0, run.start() - 20) : run.end() + 20]
    return "utf-8-sig" if valid >= other else _windows(path, example)


def _windows(path: Path, example: bytes) -> str:
    shown = " ".join(example.decode("cp1252", "replace").split())
    _warn_once(f"{path} is not UTF-8: read as Windows-1252, as in “{shown}”; save it as UTF-8")
    return "cp1252"
