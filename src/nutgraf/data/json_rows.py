"""Read rows of JSON: a value a line, one after another, an array, or rows below a key."""

from __future__ import annotations

import io
import itertools
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from nutgraf.core.errors import UserError
from nutgraf.data.names import split_of
from nutgraf.data.source_files import open_bytes
from nutgraf.data.text import encoding_by_mark

Row = dict[str, Any]

_SPACE = re.compile(r"\s*")
_MARK = b"\xef\xbb\xbf"
# Keys below which programs put rows.
_ROWS = {*"data rows records items examples instances articles documents docs".split()}
_LONG = 200  # characters of a text that no description of a data set has


@dataclass(frozen=True)
class BrokenRow:
    """A row that cannot be read: where it is, a few words of reason, and what else is known."""

    place: str
    reason: str
    detail: str

    def __str__(self) -> str:
        return f"{self.place} is {self.reason}: {self.detail}"


@dataclass(frozen=True)
class OtherSplit(BrokenRow):
    """A row whose split, `detail`, is none of a study's."""


def read_json(path: Path, head: bytes, lines: bool) -> Iterator[Row | BrokenRow]:
    """Yield the rows of a file; `lines` is whether its name promises a row a line.

    Rows a line are read one at a time, another form at once. Raises UserError for a file of another
    form that is not JSON, or that has rows below several keys.
    """
    with open_bytes(path) as file:
        encoding = encoding_by_mark(head)
        if encoding:
            text = file.read().decode(encoding)
            file = io.BytesIO(text.encode("utf-8", "surrogatepass"))
        yield from rows_of_json(file, str(path), lines)


def rows_of_json(file: BinaryIO, name: str, lines: bool) -> Iterator[Row | BrokenRow]:
    """Yield the rows of an open file in UTF-8 from its beginning, like `read_json`."""
    numbered = _filled_lines(file)
    begin = list(itertools.islice(numbered, 2))
    if not begin:
        return
    first = begin[0][1].strip()
    value = _parsed(first)
    if isinstance(value, _Unreadable):
        if not lines or first[:1] == b"[" or first == b"{":
            file.seek(0)
            values = _values(file.read().removeprefix(_MARK))
            if not isinstance(values, _Unreadable):
                yield from _objects(values[0] if len(values) == 1 else values, name)
                return
            file.seek(0)
            if not lines and not any(isinstance(_parsed(x), dict) for _, x in _filled_lines(file)):
                raise UserError(f"{name} is {values.reason}: {values.detail}")
            file.seek(0)
            begin, numbered = [], _filled_lines(file)
    elif len(begin) == 1 and (not lines or _holds_rows(value)):
        yield from _objects(value, name)
        return
    for number, line in itertools.chain(begin, numbered):
        yield _checked(_parsed(line), f"line {number}")


@dataclass(frozen=True)
class _Unreadable:
    reason: str
    detail: str


def _filled_lines(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    for number, line in enumerate(file, 1):
        line = line.removeprefix(_MARK)  # one more where files were joined
        if line.strip():
            yield number, line.rstrip(b"\r\n")


def _parsed(line: bytes) -> Any:
    """Return the one value of a text, or why there is none."""
    return _decoded(line, lambda text: json.loads(text, object_pairs_hook=_without_repeats))


def _values(raw: bytes) -> Any:
    """Return the list of the values that stand one after another, or why there is none."""
    decoder = json.JSONDecoder(object_pairs_hook=_without_repeats)

    def decode(text: str) -> list[Any]:
        values, end = [], len(text) - len(text.lstrip())
        while end < len(text):
            value, end = decoder.raw_decode(text, end)
            values.append(value)
            end = _SPACE.match(text, end).end()  # type: ignore[union-attr]
        return values

    return _decoded(raw, decode)


def _decoded(raw: bytes, decode: Callable[[str], Any]) -> Any:
    try:
        return decode(raw.decode())
    except UnicodeDecodeError as error:
        return _Unreadable("not UTF-8", f"{error.reason} (byte {error.start + 1})")
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if error.lineno > 1 else ""
        return _Unreadable("not JSON", f"{error.msg} ({line}character {error.colno})")
    except ValueError as error:  # a key twice, a number of thousands of digits
        return _Unreadable("not JSON", str(error))
    except RecursionError:
        return _Unreadable("not JSON", "nested too deeply")


def _without_repeats(pairs: list[tuple[str, Any]]) -> Row:
    row = dict(pairs)
    if len(row) < len(pairs):
        twice = next(key for key, n in Counter(key for key, _ in pairs).items() if n > 1)
        raise ValueError(f"{twice!r} stands twice")
    return row


def _checked(value: object, place: str) -> Row | BrokenRow:
    if isinstance(value, _Unreadable):
        return BrokenRow(place, value.reason, value.detail)
    if not isinstance(value, dict):
        kind = type(value).__name__
        return BrokenRow(place, "no object", f"{kind} found, an object with named columns expected")
    return value


def _objects(value: object, name: str) -> Iterator[Row | BrokenRow]:
    rows: Iterable[object] = value if isinstance(value, list) else [value]
    if isinstance(value, dict) and value:
        rows = _rows_within(value, name)
    for number, row in enumerate(rows, 1):
        yield _checked(row, f"item {number}")


def _rows_within(value: Row, name: str) -> Iterable[object]:
    """Return the rows of one object: below a key, as columns or by id; else it is a row itself."""
    if any(isinstance(cell, str) and len(cell) > _LONG for cell in value.values()):
        return [value]
    below = {key: cell for key, cell in value.items() if _all(cell, dict)}
    usual = {key: cell for key, cell in below.items() if key.lower() in _ROWS}
    if len(usual) == 1 or len(below) == 1:
        (rows,) = usual.values() if len(usual) == 1 else below.values()
        inner = [row.get("row") for row in rows]  # as the viewer of the Hub gives them
        return inner if _all(inner, dict) else rows
    if below:
        if not all(map(split_of, below)):
            raise UserError(
                f"{name} has rows below {', '.join(map(repr, below))}: save those that you mean in "
                "a file of their own"
            )
        return [{"split": key, **row} for key, rows in below.items() for row in rows]
    if _all(value.get("columns"), str) and _all(value.get("data"), list):  # pandas, by "split"
        return [dict(zip(value["columns"], row, strict=False)) for row in value["data"]]
    cells = list(value.values())
    match cells:
        case [dict(only)] if any(_all(cell, dict) for cell in only.values()):
            return _rows_within(only, name)
    if all(isinstance(cell, list) for cell in cells) and len({len(cell) for cell in cells}) == 1:
        return [dict(zip(value, row, strict=True)) for row in zip(*cells, strict=True)]
    if all(isinstance(cell, dict) for cell in cells):
        keys = dict.fromkeys(key for cell in cells for key in cell)
        if all(map(str.isdigit, keys)) and not all(map(str.isdigit, value)):
            return [{column: cell.get(key) for column, cell in value.items()} for key in keys]
        return [{"id": key, **row} for key, row in value.items()]
    return [value]


def _holds_rows(value: object) -> bool:
    if isinstance(value, dict):
        return any(_all(cell, dict) for key, cell in value.items() if key.lower() in _ROWS)
    return isinstance(value, list) and any(isinstance(item, dict) for item in value)


def _all(cell: object, kind: type) -> bool:
    return isinstance(cell, list) and bool(cell) and all(isinstance(item, kind) for item in cell)
