"""Keep articles on the disk, so that only those in use are in memory.

Files are read piece by piece, not mapped: the pages of a mapped file count as memory of the process
until the system takes them back.
"""

from __future__ import annotations

import functools
import json
import operator
import os
import tempfile
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nutgraf.data.rows import Article

# A row group is what is in memory at a time, while a file is written and while it is read.
GROUP_ROWS, GROUP_CHARACTERS = 1_000, 2**24
_SCHEMA = pa.schema([(name, pa.string()) for name in ("id", "article", "highlights")])


@dataclass(frozen=True, eq=False)
class StoredArticles(Sequence[Article]):
    """Articles on the disk: `read` reads one by its index there. A slice is a list."""

    read: Callable[[int], Article]
    indices: Sequence[int]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return list(map(self.read, self.indices[index]))
        return self.read(self.indices[index])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(map(operator.eq, self, other))


class Spool:
    """Articles in a temporary file without a name, which ends with the object.

    The file lies in `folder`, or in the system's folder for temporary files. An article takes 24
    bytes of memory.
    """

    def __init__(self, folder: Path | None) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        self._ends = array("q", [0])
        self._keys = array("d")
        self.rows = array("q")

    def add(self, key: float, row: int, article: Article) -> None:
        """Append an article with its sort key and its row number."""
        texts = [article.id, article.article, article.reference]
        line = json.dumps(texts, ensure_ascii=False).encode()
        self._file.write(line)
        self._ends.append(self._ends[-1] + len(line))
        self._keys.append(key)
        self.rows.append(row)

    def sorted_by_key(self) -> Sequence[int]:
        """Return the indices of the articles by key; equal keys keep their order."""
        self._file.flush()
        return array("q", np.argsort(np.frombuffer(self._keys), kind="stable").tobytes())

    def read(self, index: int) -> Article:
        """Read an article by its index, after a call of `sorted_by_key`."""
        start, end = self._ends[index], self._ends[index + 1]
        return Article(*json.loads(os.pread(self._file.fileno(), end - start, start)))


def write_split(articles: Iterable[Article], path: Path) -> None:
    """Write articles as Parquet with the text columns id, article, highlights."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with pq.ParquetWriter(path, _SCHEMA) as file:
        for group in _groups(articles):
            columns = zip(*((a.id, a.article, a.reference) for a in group), strict=True)
            file.write_table(pa.table(list(columns), schema=_SCHEMA))


def read_split(path: Path) -> StoredArticles:
    """Return the articles that `write_split` wrote; one row group at a time is in memory."""
    metadata = pq.read_metadata(path)
    groups = map(metadata.row_group, range(metadata.num_row_groups))
    starts = np.cumsum([0, *(group.num_rows for group in groups)])

    @functools.lru_cache(maxsize=1)
    def read_group(number: int) -> list[Article]:
        with pq.ParquetFile(path, metadata=metadata) as file:
            columns = file.read_row_group(number).to_pydict().values()
        return [Article(*texts) for texts in zip(*columns, strict=True)]

    def read(index: int) -> Article:
        number = int(np.searchsorted(starts, index, side="right")) - 1
        return read_group(number)[index - int(starts[number])]

    return StoredArticles(read, range(int(starts[-1])))


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
