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
import string
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, cast

import pyarrow as pa

from nutgraf.core.errors import UserError
from nutgraf.core.files import LFS_POINTER
from nutgraf.data.text import HEAD, encoding_by_mark

logger = logging.getLogger(__name__)
_warn_once = functools.cache(logger.warning)  # a file is read more than once

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
    LFS_POINTER: "the pointer of a git-lfs file: run `git lfs pull`",
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
_FOREIGN |= dict.fromkeys(_OPENERS, "compressed: decompress it, or give it as a file")
# How Python decodes a byte that is not UTF-8 with surrogateescape.
UNDECODED = re.compile("[\udc80-\udcff]")
_LETTERS = string.ascii_letters.encode()


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


def encoding_of_table(path: Path, head: bytes) -> str:
    """Return the encoding of a CSV file; warn if it is Windows-1252, as Excel saves it.

    It is that if most characters above ASCII are not UTF-8. Other files with such bytes are UTF-8
    with damaged rows. Raises UserError if ASCII has less than half of the letters: no text of
    Windows-1252, but maybe one of another code page.
    """
    if encoding := encoding_by_mark(head):
        return encoding
    decoder = codecs.getincrementaldecoder("utf-8-sig")("surrogateescape")
    ascii_letters = valid = other = 0
    example = ""
    with open_bytes(path) as file:
        while chunk := file.read(2**20):
            text = decoder.decode(chunk)
            ascii_letters += len(chunk) - len(chunk.translate(None, _LETTERS))
            if text.isascii():
                continue
            undecoded = len(UNDECODED.findall(text))
            valid += len(text) - len(text.encode("ascii", "ignore")) - undecoded
            other += undecoded
            if undecoded and not example:
                at = UNDECODED.search(text).start()  # type: ignore[union-attr]
                example = text[max(0, at - 20) : at + 20]
    if valid >= other:
        return "utf-8-sig"
    if other > ascii_letters:
        raise UserError(f"{path} is neither UTF-8 nor Windows-1252: save it as UTF-8")
    raw = example.encode("utf-8", "surrogateescape")
    shown = " ".join(raw.decode("cp1252", "replace").split())
    _warn_once(f"{path} is not UTF-8: read as Windows-1252, as in “{shown}”; save it as UTF-8")
    return "cp1252"
