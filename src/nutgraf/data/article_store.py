"""Articles on the disk, of which only those asked for are in memory.

Files are read piece by piece, not mapped: pages of a mapped file count as the process's own memory
until the system takes them back.
"""

from __future__ import annotations

import json
import operator
import os
import tempfile
from abc import abstractmethod
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nutgraf.data.rows import Article

# A row group is what is in memory at a time, while a file is written and while it is read.
GROUP_ROWS, GROUP_CHARACTERS = 1_000, 2**24
_SCHEMA = pa.schema([(name, pa.string()) for name in ("id", "article", "highlights")])


class Stored(Sequence[Article]):
    """Articles by their index. A slice is a list; equal to any sequence of the same articles."""

    @abstractmethod
    def _at(self, index: int) -> Article:
        """The article at an index from 0."""

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self._at(i) for i in range(len(self))[index]]
        return self._at(range(len(self))[index])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(map(operator.eq, self, other))

    __hash__ = None  # type: ignore[assignment]


class Spool(Stored):
    """Articles in a temporary file without a name, in the order in which they were added.

    The file lies in `place`, without it where the system has its temporary files; it goes with the
    object. In memory are 24 bytes an article.
    """

    def __init__(self, place: Path | None) -> None:
        self._file = tempfile.TemporaryFile(dir=place)  # noqa: SIM115
        self._ends = array("q", [0])
        self._keys = array("d")
        self.rows = array("q")

    def add(self, key: float, row: int, article: Article) -> None:
        """Put an article behind the others, with its number of the draw and that of its row."""
        texts = [article.id, article.article, article.reference]
        written = json.dumps(texts, ensure_ascii=False).encode()
        self._file.write(written)
        self._ends.append(self._ends[-1] + len(written))
        self._keys.append(key)
        self.rows.append(row)

    def by_key(self) -> Sequence[int]:
        """The indices from the least key to the greatest, the earlier of equal ones first."""
        self._file.flush()
        return array("q", np.argsort(np.frombuffer(self._keys), kind="stable").tobytes())

    def __len__(self) -> int:
        return len(self.rows)

    def _at(self, index: int) -> Article:
        start, end = self._ends[index], self._ends[index + 1]
        return Article(*json.loads(os.pread(self._file.fileno(), end - start, start)))


class Chosen(Stored):
    """Those of other stored articles that have certain indices, in their order."""

    def __init__(self, among: Stored, indices: Sequence[int]) -> None:
        self._among, self._indices = among, indices

    def __len__(self) -> int:
        return len(self._indices)

    def _at(self, index: int) -> Article:
        return self._among._at(self._indices[index])


class Table(Stored):
    """The articles of a Parquet file that `write` wrote: one row group of it is in memory."""

    def __init__(self, path: Path) -> None:
        with pq.ParquetFile(path) as file:
            self._metadata = file.metadata
        self._path = path
        groups = map(self._metadata.row_group, range(self._metadata.num_row_groups))
        self._starts = np.cumsum([0, *(group.num_rows for group in groups)])
        self._held: tuple[int, list[Article]] = (-1, [])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def _at(self, index: int) -> Article:
        group = int(np.searchsorted(self._starts, index, side="right")) - 1
        if group != self._held[0]:
            with pq.ParquetFile(self._path, metadata=self._metadata) as file:
                rows = file.read_row_group(group).to_pylist()
            self._held = (group, [Article(r["id"], r["article"], r["highlights"]) for r in rows])
        return self._held[1][index - int(self._starts[group])]


def write(articles: Iterable[Article], path: Path) -> None:
    """Write articles as Parquet with the text columns id, article, highlights."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with pq.ParquetWriter(path, _SCHEMA) as file:
        for group in _groups(articles):
            rows = [{"id": a.id, "article": a.article, "highlights": a.reference} for a in group]
            file.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA))


def _groups(articles: Iterable[Article]) -> Iterator[list[Article]]:
    group: list[Article] = []
    characters = 0
    for article in articles:
        group.append(article)
        characters += len(article.article) + len(article.reference)
        if len(group) == GROUP_ROWS or characters >= GROUP_CHARACTERS:
            yield group
            group, characters = [], 0
    if group:
        yield group
