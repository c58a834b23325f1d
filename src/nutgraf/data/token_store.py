"""Token ids of articles on the disk: written once by `prepare`, read by every later stage."""

from __future__ import annotations

import contextlib
from array import array
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nutgraf.data.prompts import Encoded, Example, Rows

GROUP_ROWS = 1_000  # what is in memory at a time, while a file is written and while it is read
_IDS = pa.list_(pa.int32())
_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("input_ids", _IDS),
        ("prompt_tokens", pa.int32()),
        ("trimmed_tokens", pa.int32()),
        ("article_tokens", pa.int32()),
        ("prompt_ids", _IDS),
    ]
)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[Callable[[str, Encoded], None]]:
    """Write a Parquet file of token ids; yield what adds an article by its id.

    Columns: the fields of `Example` (`input_ids`, `prompt_tokens`, `trimmed_tokens`) and those of
    `Encoded` (`article_tokens`, and `prompt_ids`, which is usually null).
    """
    waiting: list[tuple[str, Encoded]] = []

    def add(name: str, encoded: Encoded) -> None:
        waiting.append((name, encoded))
        if len(waiting) == GROUP_ROWS:
            write()

    def write() -> None:
        examples = [encoded.example for _, encoded in waiting]
        columns = [
            [name for name, _ in waiting],
            [np.asarray(example.ids) for example in examples],
            [example.prompt_tokens for example in examples],
            [example.trimmed_tokens for example in examples],
            [encoded.article_tokens for _, encoded in waiting],
            [None if e.prompt_ids is None else np.asarray(e.prompt_ids) for _, e in waiting],
        ]
        arrays = [pa.array(c, field.type) for c, field in zip(columns, _SCHEMA, strict=True)]
        file.write_table(pa.table(arrays, schema=_SCHEMA))
        waiting.clear()

    path.parent.mkdir(parents=True, exist_ok=True)
    with pq.ParquetWriter(path, _SCHEMA) as file:
        yield add
        if waiting:
            write()


class EncodedFile:
    """A file that `writing` wrote; its rows are read when they are asked for."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._length: int = pq.read_metadata(path).num_rows

    def __len__(self) -> int:
        return self._length

    def first(self, n: int | None = None) -> list[Encoded]:
        """Return the first `n` articles, or all."""
        return list(self.select(range(self._length)[:n]).values())

    def rows(self, wanted: Iterable[int]) -> Rows:
        """Return the training rows, of which only those with the indices `wanted` are in memory."""
        return Rows({i: e.example for i, e in self.select(wanted).items()}, self._length)

    def select(self, wanted: Iterable[int]) -> dict[int, Encoded]:
        """Return the articles with these indices, by index, in the order of the file."""
        indices, selected, start = set(wanted), dict[int, Encoded](), 0
        with pq.ParquetFile(self._path) as file:
            for group in range(file.num_row_groups):
                end = start + file.metadata.row_group(group).num_rows
                if here := sorted(indices.intersection(range(start, end))):
                    table = file.read_row_group(group).combine_chunks()
                    selected |= {i: _encoded(table, i - start) for i in here}
                start = end
        return selected


def _encoded(table: pa.Table, at: int) -> Encoded:
    def ids(name: str) -> array[int] | None:
        cell = table.column(name)[at]
        return array("i", cell.values.to_numpy().tobytes()) if cell.is_valid else None

    def number(name: str) -> int:
        return int(table.column(name)[at].as_py())

    row = ids("input_ids")
    assert row is not None
    example = Example(row, number("prompt_tokens"), number("trimmed_tokens"))
    return Encoded(example, number("article_tokens"), ids("prompt_ids"))
