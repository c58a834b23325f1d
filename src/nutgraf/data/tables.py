"""Read rows of a local JSONL, CSV or Parquet file, one at a time, as plain dictionaries."""

from __future__ import annotations

import csv
import itertools
import json
import re
import stat
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from nutgraf.core.errors import UserError, one_line

SUFFIXES = (".jsonl", ".csv", ".parquet")
_MAX_CELL_BYTES = 2**31 - 1
# How Python decodes a byte that is not UTF-8 with surrogateescape.
_UNDECODED = re.compile("[\udc80-\udcff]")

Row = dict[str, Any]


@dataclass(frozen=True)
class BrokenRow:
    """A row that cannot be read: where it is, a few words of reason, and what else is known."""

    place: str
    reason: str
    detail: str

    def __str__(self) -> str:
        return f"{self.place} is {self.reason}: {self.detail}"


def read_rows(path: Path) -> Iterator[Row]:
    """Yield the rows of a file, whose suffix is its format. Text is UTF-8; CSV cells are text.

    Raises UserError for a file or row that cannot be read.
    """
    for row in read_rows_or_broken(path):
        if isinstance(row, BrokenRow):
            raise UserError(f"{path} {row}")
        yield row


def read_rows_or_broken(path: Path) -> Iterator[Row | BrokenRow]:
    """Yield the rows of a file in order, with a BrokenRow for each that cannot be read.

    Raises UserError if the file cannot be read: it is missing, no file, damaged Parquet, or CSV
    with a quote that is never closed.
    """
    readers = {".jsonl": _jsonl, ".csv": _csv, ".parquet": _parquet}
    if path.suffix not in readers:
        raise UserError(f"{path} is of an unknown kind: give {', '.join(SUFFIXES)}")
    _check_is_file(path)
    try:
        yield from readers[path.suffix](path)
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{path} cannot be read: {one_line(error, 300)}") from None


def _check_is_file(path: Path) -> None:
    try:
        is_file = stat.S_ISREG(path.stat().st_mode)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: give the path of a {path.suffix} file") from None
    except (OSError, ValueError) as error:  # a folder that is closed to us; a NUL in the name
        raise UserError(f"{path} cannot be opened: {one_line(error, 300)}") from None
    if not is_file:
        raise UserError(f"{path} is not a file: give the path of a {path.suffix} file")


def listed(columns: Iterable[str]) -> str:
    """Return the names of columns for a message, the first 20 of many."""
    shown = list(itertools.islice(columns, 21))
    return ", ".join([*shown[:20], "…"] if len(shown) > 20 else shown)


def _jsonl(path: Path) -> Iterator[Row | BrokenRow]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            if line.strip():
                yield _of_json(line.rstrip(b"\r\n"), f"line {number}")


def _of_json(line: bytes, place: str) -> Row | BrokenRow:
    try:
        row = json.loads(line.decode(), object_pairs_hook=_without_repeats)
    except UnicodeDecodeError as error:
        return BrokenRow(place, "not UTF-8", f"{error.reason} (byte {error.start + 1})")
    except json.JSONDecodeError as error:
        return BrokenRow(place, "not JSON", f"{error.msg} (character {error.pos + 1})")
    except ValueError as error:  # a key twice, a number of thousands of digits
        return BrokenRow(place, "not JSON", str(error))
    except RecursionError:
        return BrokenRow(place, "not JSON", "nested too deeply")
    if not isinstance(row, dict):
        kind = type(row).__name__
        return BrokenRow(place, "no object", f"{kind} found, an object with named columns expected")
    return row


def _without_repeats(pairs: list[tuple[str, Any]]) -> Row:
    row = dict(pairs)
    if len(row) < len(pairs):
        twice = next(key for key, n in Counter(key for key, _ in pairs).items() if n > 1)
        raise ValueError(f"{twice!r} stands twice")
    return row


def _csv(path: Path) -> Iterator[Row | BrokenRow]:
    csv.field_size_limit(_MAX_CELL_BYTES)  # the default of 128 KiB is less than a long article
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.reader(file, strict=True)
        header: list[str] = []
        while True:
            place = f"line {reader.line_num + 1}"
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                if "end of data" in str(error):
                    raise UserError(
                        f"{path} is not CSV: a double quote in the row of {place} is never closed"
                    ) from None
                if not header:
                    raise UserError(f"{path} {place} is not CSV: {error}") from None
                yield BrokenRow(place, "not CSV", str(error))
                continue
            if not cells:
                continue
            if not header:
                header = _header(path, cells)
            elif any(map(_UNDECODED.search, cells)):
                yield BrokenRow(place, "not UTF-8", "a byte of it is no part of a character")
            elif len(cells) != len(header):
                yield BrokenRow(
                    place,
                    "ragged",
                    f"{len(cells)} cells, the header has {len(header)}; texts with commas stand in "
                    "double quotes",
                )
            else:
                yield dict(zip(header, cells, strict=True))


def _header(path: Path, cells: list[str]) -> list[str]:
    if any(map(_UNDECODED.search, cells)):
        raise UserError(f"{path} is not UTF-8 text, its header already: save it as UTF-8")
    _check_names(path, [name for name in cells if name])
    return cells


def _parquet(path: Path) -> Iterator[Row | BrokenRow]:
    # A file may be one row group larger than the memory: no column of it is read in one piece.
    with pq.ParquetFile(path, buffer_size=2**20, pre_buffer=False) as file:
        _check_names(path, file.schema_arrow.names)
        first = 1
        for batch in file.iter_batches(1024):
            try:
                yield from batch.to_pylist()
            except (ValueError, OverflowError):  # text that is not UTF-8, a date out of range
                yield from (_of_parquet(batch, at, first + at) for at in range(len(batch)))
            first += len(batch)


def _of_parquet(batch: pa.RecordBatch, at: int, number: int) -> Row | BrokenRow:
    place = f"row {number}"
    try:
        (row,) = batch.slice(at, 1).to_pylist()
    except UnicodeDecodeError as error:
        return BrokenRow(place, "not UTF-8", f"{error.reason} at byte {error.start} of a text")
    except (ValueError, OverflowError) as error:
        return BrokenRow(place, "out of range", one_line(error, 200))
    assert isinstance(row, dict)
    return row


def _check_names(path: Path, names: list[str]) -> None:
    twice = [name for name, n in Counter(names).items() if n > 1]
    if twice:
        raise UserError(f"{path} has the column {twice[0]!r} twice: rename one of them")
