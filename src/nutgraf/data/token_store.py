"""Keep token ids of articles on the disk: `prepare` writes them once, later stages read them."""

from __future__ import annotations

import contextlib
from array import array
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nutgraf.data.examples import Encoded, Example, Rows

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
def open_writer(path: Path) -> Iterator[Callable[[str, Encoded], None]]:
    """Write a Parquet file of token ids; yield a function that adds an article by its id.

    Columns: the fields of `Example` (`input_ids`, `prompt_tokens`, `trimmed_tokens`) and those of
    `Encoded` (`article_tokens`, and `prompt_ids`, which is usually null).
    """
    rows: list[tuple[object, ...]] = []

    def add(article_id: str, encoded: Encoded) -> None:
        row, prompt = encoded.example, encoded.prompt_ids
        prompt_ids = None if prompt is None else np.asarray(prompt)
        counts = (row.prompt_tokens, row.trimmed_tokens, encoded.article_tokens)
        rows.append((article_id, np.asarray(row.ids), *counts, prompt_ids))
        if len(rows) == GROUP_ROWS:
            write()

    def write() -> None:
        columns = zip(*rows, strict=True)
        arrays = [pa.array(c, field.type) for c, field in zip(columns, _SCHEMA, strict=True)]
        file.write_table(pa.table(arrays, schema=_SCHEMA))
        rows.clear()

    path.parent.mkdir(parents=True, exist_ok=True)
    with pq.ParquetWriter(path, _SCHEMA) as file:
        yield add
        if rows:
            write()


class TokenFile:
    """A file that `open_writer` wrote; rows are read when they are needed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._length: int = pq.read_metadata(path).num_rows

    def __len__(self) -> int:
        return self._length

    def first(self, n: int | None = None) -> list[Encoded]:
        """Return the first `n` articles, or all."""
        return list(self.select(range(self._length)[:n]).values())

    def rows(self, indices: Iterable[int]) -> Rows:
        """Return all training rows, of which only those with these indices are in memory."""
        return Rows({i: e.example for i, e in self.select(indices).items()}, self._length)

    def select(self, indices: Iterable[int]) -> dict[int, Encoded]:
        """Return the articles with these indices, by index, in the order of the file."""
        wanted, selected, start = set(indices), dict[int, Encoded](), 0
        with pq.ParquetFile(self._path) as file:
            for group in range(file.num_row_groups):
                end = start + file.metadata.row_group(group).num_rows
                if in_group := sorted(wanted.intersection(range(start, end))):
                    table = file.read_row_group(group).combine_chunks()
                    selected |= {i: _encoded(table, i - start) for i in in_group}
                start = end
        return selected


def _encoded(table: pa.Table, index: int) -> Encoded:
    ids, prompt = (table.column(name)[index] for name in ("input_ids", "prompt_ids"))
    prompt_tokens, trimmed, article = (
        table.column(name)[index].as_py()
        for name in ("prompt_tokens", "trimmed_tokens", "article_tokens")
    )
    example = Example(_array(ids), prompt_tokens, trimmed)
    return Encoded(example, article, _array(prompt) if prompt.is_valid else None)


def _array(cell: pa.ListScalar) -> array[int]:
    return array("i", cell.values.to_numpy().tobytes())
