"""Articles with their reference summaries: load, clean, reject, draw.

Three kinds of source: the embedded newswire, local JSONL, CSV or Parquet files, and data sets of
the Hub through `datasets`. A split is read once from end to end, so that every row is counted. The
articles drawn wait on the disk, since they may need more memory than there is.
"""

from __future__ import annotations

import heapq
import itertools
import math
import zlib
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nutgraf.config import DataConfig
from nutgraf.core.errors import Failure, UserError, did_you_mean, one_line
from nutgraf.data import tables
from nutgraf.data.article_store import Spool, StoredArticles
from nutgraf.data.json_rows import BrokenRow
from nutgraf.data.rows import Article, NumberedRows, Reader, Reject

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Split:
    """The articles drawn for one split, in random order, and what became of the other rows.

    Those in `spare` come next in the draw: they replace articles whose summaries turn out to be too
    long for a training row, at most the share `data.max_rejected`. `rows` numbers the rows of
    `articles` and then of `spare` in their source, from 1. `rejected` rows cannot be used;
    `removed` ones could, but their article is in another split, or in training twice.
    """

    articles: Sequence[Article]
    spare: Sequence[Article]
    rows: Sequence[int]
    requested: int | None
    seed: int
    source: str
    revision: str | None = None
    rows_read: int = 0
    rejected: list[Reject] = field(default_factory=list)
    removed: list[Reject] = field(default_factory=list)


def load_articles(
    data: DataConfig,
    split: str,
    others: Mapping[str, Split] | None = None,
    folder: Path | None = None,
) -> Split:
    """Draw the articles of a split.

    All rows are read, and `data.<split>_examples` of the usable ones are drawn at random with
    `data.seed` (all of them if there are fewer). A larger draw from the same rows begins with the
    smaller one. The splits of the newswire share nothing.

    Args:
        data: The section of the configuration.
        split: "train", "validation" or "test".
        others: Splits whose articles are removed, and for training those of an earlier row too,
            unless `data.allow_overlap`.
        folder: Where the temporary file with the articles lies; the system's folder by default.

    Raises:
        UserError: A file, column or split is missing, nothing is left, or more than the share
            `data.max_rejected` of the rows is rejected.
        Failure: The Hub cannot be reached.
    """
    requested = getattr(data, f"{split}_examples")
    limit = _with_spare(requested, data.max_rejected)
    if _is_newswire(data):
        stories = enumerate(_newswire(split, limit, data.seed), 1)
        spool = _spooled(((number, number, article) for number, article in stories), limit, folder)
        drawn = _drawn(spool, limit, requested)
        return Split(*drawn, requested, data.seed, "newswire", rows_read=len(drawn[0]))
    rows, source, revision = _rows(data, split)
    fingerprints = {
        name: {a.fingerprint for a in other.articles} for name, other in (others or {}).items()
    }
    reader = Reader(data, split, source, fingerprints)
    random = np.random.default_rng([data.seed, zlib.crc32(split.encode())])
    # Each article gets its sort key before any is removed: the others keep theirs.
    keyed = ((random.random(), number, a) for number, a in reader.articles(rows))
    usable = (entry for entry in keyed if not reader.removes(*entry[1:]))
    spool = _spooled(usable, limit, folder)
    reader.check(usable=len(spool.rows))
    return Split(
        *_drawn(spool, limit, requested),
        requested,
        data.seed,
        source,
        revision,
        reader.rows_read,
        reader.rejected,
        reader.removed,
    )


def sample(data: DataConfig, split: str, n: int) -> tuple[list[Article], int | None]:
    """Return the first `n` usable articles of a split, and how many of it a study takes.

    A split on the Hub is not read: no articles, and None if its number is not configured.
    Raises UserError like `load_articles`.
    """
    requested = getattr(data, f"{split}_examples")
    if _is_newswire(data):
        count = n if requested is None else min(n, requested)
        return [*_newswire(split, count, data.seed)], requested
    if on_the_hub(data):
        return [], requested
    rows, source, _ = _rows(data, split)
    reader = Reader(data, split, source, {})
    articles = (article for _, article in reader.articles(rows))
    first = list(itertools.islice(articles, n))
    reader.check(usable=len(first))
    return first, len(first) + sum(1 for _ in articles) if requested is None else requested


def on_the_hub(data: DataConfig) -> bool:
    """Return whether the articles are neither embedded nor in local files or folders."""
    source = Path(data.source)
    local = data.train or _is_newswire(data) or source.exists()
    return not local and not tables.is_table(source)


def _is_newswire(data: DataConfig) -> bool:
    return data.source == "newswire" and not data.train


def _with_spare(requested: int | None, max_rejected: float) -> int | None:
    """Return how many to draw, so that `requested` are left whatever is rejected later on."""
    if requested is None or max_rejected == 1:
        return None
    return requested + math.ceil(requested * max_rejected / (1 - max_rejected))


def _spooled(
    keyed: Iterable[tuple[float, int, Article]], n: int | None, folder: Path | None
) -> Spool:
    """Write the articles with the `n` least keys so far, or all, to the disk."""
    spool = Spool(folder)
    least: list[float] = []  # the `n` least keys, negated: the greatest of them comes first
    for key, row, article in keyed:
        if n is not None:
            if len(least) < n:
                heapq.heappush(least, -key)
            elif heapq.heappushpop(least, -key) == -key:
                continue
        spool.add(key, row, article)
    return spool


def _drawn(
    spool: Spool, limit: int | None, requested: int | None
) -> tuple[StoredArticles, StoredArticles, Sequence[int]]:
    """Return the first `requested` articles by key, those up to `limit`, and the rows of both."""
    order = spool.sorted_by_key()[:limit]
    first = len(order) if requested is None else requested
    rows = array("q", (spool.rows[index] for index in order))
    spare = StoredArticles(spool.read, order[first:])
    return StoredArticles(spool.read, order[:first]), spare, rows


def _newswire(split: str, n: int | None, seed: int) -> Iterator[Article]:
    from nutgraf.pocket import newswire

    if n is None:
        raise UserError(f"the newswire never ends: set data.{split}_examples to a number")
    return (Article(s.id, s.article, s.reference) for s in newswire.iter_stories(split, n, seed))


def _rows(data: DataConfig, split: str) -> tuple[NumberedRows, str, str | None]:
    """Return the rows of a split, the name of their source, and its revision on the Hub."""
    path = getattr(data, split)
    if path:
        return enumerate(tables.read_rows_or_broken(Path(path)), 1), path, None
    source = Path(data.source)
    if source.is_dir() or not (source.is_file() or tables.is_table(source)):
        rows, revision = _hub(data, split)
        return enumerate(rows, 1), data.source, revision
    all_rows = enumerate(tables.read_rows_or_broken(source), 1)
    return _of_split(all_rows, data, split), data.source, None


def _of_split(rows: NumberedRows, data: DataConfig, split: str) -> NumberedRows:
    """Yield the rows of one split. Broken rows, and rows without a split, count with training."""
    counts: Counter[str] = Counter()
    columns: dict[str, None] = {}
    for number, row in rows:
        name = None
        if not isinstance(row, BrokenRow):
            columns.update(dict.fromkeys(row))
            name = row.get(data.split_column)
            if name is None or name == "":
                row = BrokenRow(
                    f"row {number}", "without a split", f"{data.split_column!r} is empty"
                )
        counts[str(name)] += name is not None
        if name == split or (isinstance(row, BrokenRow) and split == "train"):
            yield number, row
    if columns and data.split_column not in columns:
        raise UserError(
            f"{data.source} has no column {data.split_column!r}"
            f"{did_you_mean(data.split_column, columns)} (it has {tables.listed(columns)}): set "
            "data.split_column, or give data.train, data.validation and data.test"
        )
    if not counts[split]:
        present = ", ".join(repr(name) for name in itertools.islice(+counts, 5)) or "nothing"
        raise UserError(
            f"{data.source} has no row with {split!r} in column {data.split_column!r}: "
            f"there is {present}"
        )


def _hub(data: DataConfig, split: str) -> tuple[Iterable[Mapping[str, Any]], str | None]:
    """Load a data set of the Hub, or a local folder in the Hub's form; return its revision too."""
    import datasets

    own_files = "or give files with data.train, data.validation and data.test"
    try:
        rows = datasets.load_dataset(data.source, data.name, split=split, revision=data.revision)
    except (datasets.exceptions.DatasetNotFoundError, datasets.exceptions.DataFilesNotFoundError):
        meant = did_you_mean(data.source, ["newswire"])
        raise UserError(
            f"data.source {data.source!r} is no file, no folder with data files and no public "
            f"data set on the Hub{meant}; correct it, {own_files}"
        ) from None
    except ValueError as error:
        raise UserError(
            f"{data.source} cannot give its split {split!r}: {_named(error)} "
            "(data.name, data.revision)"
        ) from None
    except (OSError, datasets.exceptions.DatasetGenerationError) as error:
        raise Failure(
            f"the Hub did not give {data.source!r}: {_named(error)}; "
            f"try again with a connection, {own_files}"
        ) from error
    return rows, data.revision or _revision(rows.info.download_checksums)


def _revision(downloads: Mapping[str, Any] | None) -> str | None:
    """Return the commit in the addresses of downloads: `hf://datasets/OWNER/NAME@COMMIT/…`."""
    addresses = [address for address in downloads or {} if address.startswith("hf://")]
    commits = {address.partition("@")[2].partition("/")[0] for address in addresses}
    return commits.pop() if len(commits) == 1 else None


def _named(error: Exception) -> str:
    return one_line(f"{type(error).__name__}: {error}", 300)
