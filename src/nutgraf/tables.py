"""Rows of a local JSONL, CSV or Parquet file, one at a time, as plain dictionaries."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from nutgraf.problems import UserError

SUFFIXES = (".jsonl", ".csv", ".parquet")
_LARGEST_CELL = 2**31 - 1


def rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of `path`, whose suffix says what it is. Text is UTF-8; CSV cells are all text.

    Raises UserError naming the file, and the line where there is one, that cannot be read.
    """
    readers = {".jsonl": _jsonl, ".csv": _csv, ".parquet": _parquet}
    if path.suffix not in readers:
        raise UserError(f"{path} is of an unknown kind: give {', '.join(SUFFIXES)}")
    try:
        yield from readers[path.suffix](path)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: give the path of a {path.suffix} file") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text: {error.reason} at {error.start}") from None
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{path} cannot be read: {' '.join(str(error).split())}") from None


def _jsonl(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8-sig", newline="\n") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise UserError(f"{path} line {number} is not JSON: {error.msg}") from None
            if not isinstance(row, dict):
                raise UserError(
                    f"{path} line {number} holds a {type(row).__name__}: "
                    "each line must be an object with named columns"
                )
            yield row


def _csv(path: Path) -> Iterator[dict[str, Any]]:
    csv.field_size_limit(_LARGEST_CELL)  # the default of 128 KiB is less than a long article
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        try:
            for row in reader:
                if None in row:
                    raise UserError(
                        f"{path} line {reader.line_num} has more cells than the header has "
                        "columns: put texts that hold commas in double quotes"
                    )
                yield row
        except csv.Error as error:
            raise UserError(f"{path} line {reader.line_num} is not CSV: {error}") from None


def _parquet(path: Path) -> Iterator[dict[str, Any]]:
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(1024):
            yield from batch.to_pylist()
