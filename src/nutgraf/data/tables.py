"""Read rows of a local file of JSON, CSV or Parquet, as plain dictionaries."""

from __future__ import annotations

import csv
import io
import itertools
import re
import stat
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from nutgraf.core.errors import UserError, one_line
from nutgraf.data.json_rows import BrokenRow, Row, read_json
from nutgraf.data.source_files import (
    DAMAGED,
    UNDECODED,
    bare_suffix,
    encoding_of_table,
    open_bytes,
    read_head,
)

SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
_KINDS = {
    **dict.fromkeys((".jsonl", ".ndjson", ".jl"), "lines"),
    ".json": "json",
    **dict.fromkeys((".csv", ".tsv", ".tab"), "csv"),
    **dict.fromkeys((".parquet", ".pq"), "parquet"),
}
_MAX_CELL_BYTES = 2**31 - 1
_AROUND_NAMES = " \t\u00a0\u200b\ufeff"


def is_table(path: Path) -> bool:
    """Return whether a file's name is that of rows: `a.jsonl`, `a.CSV`, `a.tsv.gz`."""
    return bare_suffix(path) in _KINDS


def read_rows(path: Path) -> Iterator[Row]:
    """Yield the rows of a file as plain dictionaries; cells of CSV are text.

    Raises UserError for a file or row that cannot be read.
    """
    for row in read_rows_or_broken(path):
        if isinstance(row, BrokenRow):
            raise UserError(f"{path} {row}")
        yield row


def read_rows_or_broken(path: Path) -> Iterator[Row | BrokenRow]:
    """Yield the rows of a file in order, with a BrokenRow for each that cannot be read.

    The suffix is the format, in any case and behind it maybe that of a compression. What the file
    begins with shows Parquet, UTF-16, Windows-1252 (CSV only) and what separates cells of CSV.

    Raises UserError if the file cannot be read: it is missing, no file, of another kind, damaged,
    or CSV with a quote that is never closed.
    """
    check_is_file(path)
    try:
        head = read_head(path)
        kind = "parquet" if head.startswith(b"PAR1") else _KINDS.get(bare_suffix(path))
        if kind == "csv" and head.removeprefix(b"\xef\xbb\xbf").lstrip()[:2] in (b'{"', b"[{"):
            kind = "lines"
        if head.lstrip().lower().startswith((b"<!doctype html", b"<html")):
            raise UserError(f"{path} is a web page, not a table: download the file itself")
        if kind is None:
            raise UserError(f"{path} is of an unknown kind: give {', '.join(SUFFIXES)}")
        if kind == "parquet":
            yield from _parquet(path)
        elif kind == "csv":
            yield from _csv(path, head)
        else:
            yield from read_json(path, head, lines=kind == "lines")
    except DAMAGED as error:
        raise UserError(f"{path} cannot be read: {one_line(error, 300)}") from None


def check_is_file(path: Path) -> None:
    """Raise UserError if there is no file at a path, or something else."""
    try:
        is_file = stat.S_ISREG(path.stat().st_mode)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: give the path of a file") from None
    except (OSError, ValueError) as error:  # a folder that is closed to us; a NUL in the name
        raise UserError(f"{path} cannot be opened: {one_line(error, 300)}") from None
    if not is_file:
        raise UserError(f"{path} is not a file: give the path of a file")


def _csv(path: Path, head: bytes) -> Iterator[Row | BrokenRow]:
    csv.field_size_limit(_MAX_CELL_BYTES)  # the default of 128 KiB is less than a long article
    encoding = encoding_of_table(path, head)
    errors = "surrogateescape" if encoding == "utf-8-sig" else "strict"
    with io.TextIOWrapper(open_bytes(path), encoding, errors, newline="") as file:
        skipped, lines = 0, iter(file)
        first = next(lines, "")
        sep = re.fullmatch(r'"?sep=(.)"?', first.strip("\r\n"))  # a line for Excel
        while first and (not first.strip() or skipped < bool(sep)):
            skipped, first = skipped + 1, next(lines, "")
        while first.count('"') % 2 and (more := next(lines, "")):  # a name of several lines
            skipped, first = skipped + 1, first + more
        delimiter = sep[1] if sep else _delimiter(first)
        reader = csv.reader(itertools.chain([first], lines), delimiter=delimiter, strict=True)
        header: list[str] = []
        while True:
            place = f"line {reader.line_num + 1 + skipped}"
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
                yield BrokenRow(place, "not CSV", f'{error}; in a quoted text, " is written ""')
                continue
            if not any(map(str.strip, cells)):  # Excel writes `;;;` for an empty row
                continue
            if not header:
                header = _header(path, cells)
                continue
            while len(cells) > len(header) and not cells[-1]:  # Excel fills up rows
                cells.pop()
            if any(map(UNDECODED.search, cells)):
                yield BrokenRow(place, "not UTF-8", "a byte of it is no part of a character")
            elif len(cells) != len(header):
                yield BrokenRow(
                    place,
                    "ragged",
                    f"{len(cells)} cells, the header has {len(header)}; texts with "
                    f"{'commas' if delimiter == ',' else repr(delimiter)} stand in double quotes",
                )
            else:
                yield dict(zip(header, cells, strict=True))


def _delimiter(header: str) -> str:
    """Return what separates the cells of a header, outside double quotes.

    It is a tab or else a semicolon if there is one, for beside them commas are parts of names.
    """
    names = re.sub(r'"[^"]*"', "", header)
    return next((sign for sign in "\t;" if sign in names), max(",|", key=names.count))


def _header(path: Path, cells: list[str]) -> list[str]:
    if any(map(UNDECODED.search, cells)):
        raise UserError(f"{path} is not UTF-8 text, its header already: save it as UTF-8")
    cells = [name.strip(_AROUND_NAMES) for name in cells]
    _check_names(path, [name for name in cells if name])
    return cells


def _parquet(path: Path) -> Iterator[Row | BrokenRow]:
    # A file may be one row group larger than the memory: no column of it is read in one piece.
    compressed = bare_suffix(path) != path.suffix.lower()
    source = pa.BufferReader(open_bytes(path).read()) if compressed else path
    with pq.ParquetFile(source, buffer_size=2**20, pre_buffer=False) as file:
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
