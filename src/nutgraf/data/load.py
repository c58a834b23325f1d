"""Articles with their reference summaries: load, clean, reject, draw.

Three kinds of source: the embedded newswire, local JSONL, CSV or Parquet files, and data sets
from the Hub through `datasets`. Whatever the source, a split is read once from end to end, so
that every row is counted, and the drawn articles wait on the disk: there may be more of them than
the memory holds.
"""

from __future__ import annotations

import heapq
import itertools
import math
import zlib
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nutgraf.config import DataConfig
from nutgraf.core.errors import Failure, UserError, did_you_mean, one_line
from nutgraf.data import article_store, tables
from nutgraf.data.article_store import Chosen, Spool, Stored
from nutgraf.data.rows import Article, Numbered, Reader, Reject
from nutgraf.data.tables import BrokenRow

if TYPE_CHECKING:
    from datasets import Dataset


SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Split:
    """The articles drawn for one split, in random order, and what became of the other rows.

    Those in `spare` come next in the draw: they replace articles whose summaries turn out to be too
    long for a training row, at most the share `data.max_rejected`. `rows` numbers the rows of
    `articles` and then of `spare` in their source, from 1. `rejected` rows cannot be used;
    `removed` ones could, but their article stands in another split, or in training twice.
    """

    articles: Sequence[Article]
    spare: Sequence[Article]
    rows: Sequence[int]
    source: str
    revision: str | None
    asked: int | None
    seed: int
    rows_read: int
    rejected: list[Reject]
    removed: list[Reject]


def load_articles(
    data: DataConfig,
    split: str,
    others: Mapping[str, Split] | None = None,
    place: Path | None = None,
) -> Split:
    """Draw the articles of `split`: "train", "validation" or "test".

    All rows are read, and `data.<split>_examples` of those that can be used are drawn at random
    with `data.seed` (all of them where there are fewer). A larger draw from the same rows begins
    with the smaller one. Articles of the splits in `others` are removed, and for training those of
    an earlier row, unless `data.allow_overlap`. The newswire's splits share nothing. The articles
    lie in a temporary file in the folder `place`, without it where the system has its own.

    Raises UserError for a file, column or split that is not there, where nothing is left, and where
    more than the share `data.max_rejected` of the rows read is rejected; Failure where the Hub
    cannot be reached.
    """
    asked = getattr(data, f"{split}_examples")
    spare = _with_spare(asked, data.max_rejected)
    if data.source == "newswire" and not data.train:
        told = enumerate(_newswire(split, spare, data.seed), 1)
        spool = _spooled(((number, number, article) for number, article in told), spare, place)
        drawn = _drawn(spool, spare, asked)
        return Split(*drawn, "newswire", None, asked, data.seed, len(drawn[0]), [], [])
    rows, source, revision = _rows(data, split)
    taken = {
        name: {a.fingerprint for a in other.articles} for name, other in (others or {}).items()
    }
    reader = Reader(data, split, source, taken)
    random = np.random.default_rng([data.seed, zlib.crc32(split.encode())])
    # Each article has its number of the draw before any is removed: the others keep theirs.
    keyed = ((random.random(), number, a) for number, a in reader.articles(rows))
    kept = (entry for entry in keyed if not reader.removes(*entry[1:]))
    spool = _spooled(kept, spare, place)
    reader.check(found=len(spool))
    return Split(
        *_drawn(spool, spare, asked),
        source,
        revision,
        asked,
        data.seed,
        reader.rows_read,
        reader.rejected,
        reader.removed,
    )


def sample(data: DataConfig, split: str, n: int) -> tuple[list[Article], int | None]:
    """The first `n` usable articles of a split and how many of it a study takes, read in no time.

    A split on the Hub is not touched: no articles, and None where its number is not given.
    Raises UserError like `load`.
    """
    asked = getattr(data, f"{split}_examples")
    if data.source == "newswire" and not data.train:
        return [*_newswire(split, n if asked is None else min(n, asked), data.seed)], asked
    if on_the_hub(data):
        return [], asked
    rows, source, _ = _rows(data, split)
    reader = Reader(data, split, source, {})
    found = (article for _, article in reader.articles(rows))
    first = list(itertools.islice(found, n))
    reader.check(found=len(first))
    return first, len(first) + sum(1 for _ in found) if asked is None else asked


def on_the_hub(data: DataConfig) -> bool:
    """Whether the articles are neither embedded nor in local files or folders."""
    source = Path(data.source)
    local = data.train or data.source == "newswire" or source.exists()
    return not local and source.suffix not in tables.SUFFIXES


def write_split(articles: Iterable[Article], path: Path) -> None:
    """Write articles as Parquet with the text columns id, article, highlights."""
    article_store.write(articles, path)


def read_split(path: Path) -> Stored:
    """The articles that `write` wrote, in their order; they stay on the disk until asked for."""
    return article_store.Table(path)


def as_dataset(rows: Sequence[Mapping[str, Any]]) -> Dataset:
    """Rows already encoded (`input_ids`, `labels`) in the form that the trainer takes."""
    import datasets

    return datasets.Dataset.from_list([dict(row) for row in rows])


def _with_spare(asked: int | None, max_rejected: float) -> int | None:
    """How many to draw, so that `asked` are left of them whatever is rejected later on."""
    if asked is None or max_rejected == 1:
        return None
    return asked + math.ceil(asked * max_rejected / (1 - max_rejected))


def _spooled(
    keyed: Iterable[tuple[float, int, Article]], n: int | None, place: Path | None
) -> Spool:
    """The articles with the `n` least keys, or all, and such as were among these for a while."""
    spool = Spool(place)
    least: list[float] = []  # the keys of the `n`, negated: the greatest of them stands first
    for key, number, article in keyed:
        if n is not None:
            if len(least) < n:
                heapq.heappush(least, -key)
            elif key < -least[0]:
                heapq.heapreplace(least, -key)
            else:
                continue
        spool.add(key, number, article)
    return spool


def _drawn(
    spool: Spool, spare: int | None, asked: int | None
) -> tuple[Stored, Stored, Sequence[int]]:
    """The first `asked` articles by their keys, those up to `spare`, and the rows of both."""
    order = spool.by_key()[:spare]
    first = len(order) if asked is None else asked
    rows = array("q", (spool.rows[index] for index in order))
    return Chosen(spool, order[:first]), Chosen(spool, order[first:]), rows


def _newswire(split: str, n: int | None, seed: int) -> Iterator[Article]:
    from nutgraf.pocket import newswire

    if n is None:
        raise UserError(f"the newswire never ends: set data.{split}_examples to a number")
    return (Article(s.id, s.article, s.reference) for s in newswire.told(split, n, seed))


def _rows(data: DataConfig, split: str) -> tuple[Numbered, str, str | None]:
    """The rows of a split, the name of where they come from, and its revision on the Hub."""
    given = getattr(data, split)
    if given:
        return enumerate(tables.read_rows_or_broken(Path(given)), 1), given, None
    source = Path(data.source)
    if source.is_dir() or not (source.is_file() or source.suffix in tables.SUFFIXES):
        found, name, revision = _hub(data, split)
        return enumerate(found, 1), name, revision
    rows = enumerate(tables.read_rows_or_broken(source), 1)
    return _of_split(rows, data, split), data.source, None


def _of_split(rows: Numbered, data: DataConfig, split: str) -> Numbered:
    """The rows of one split. What cannot be read, or says no split, is counted with training."""
    found: Counter[str] = Counter()
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
        found[str(name)] += name is not None
        if name == split or (isinstance(row, BrokenRow) and split == "train"):
            yield number, row
    if columns and data.split_column not in columns:
        raise UserError(
            f"{data.source} has no column {data.split_column!r}"
            f"{did_you_mean(data.split_column, columns)} (it has {tables.listed(columns)}): set "
            "data.split_column, or give data.train, data.validation and data.test"
        )
    if not found[split]:
        there = ", ".join(repr(name) for name in itertools.islice(+found, 5)) or "nothing"
        raise UserError(
            f"{data.source} has no row with {split!r} in column {data.split_column!r}: "
            f"there is {there}"
        )


def _hub(data: DataConfig, split: str) -> tuple[Iterable[Mapping[str, Any]], str, str | None]:
    """A data set of the Hub, or a local folder in the Hub's form."""
    import datasets

    own_files = "or give files with data.train, data.validation and data.test"
    try:
        found = datasets.load_dataset(data.source, data.name, split=split, revision=data.revision)
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
    return found, data.source, data.revision or _revision(found.info.download_checksums)


def _revision(downloads: Mapping[str, Any] | None) -> str | None:
    """The commit in the addresses of what was downloaded: `hf://datasets/OWNER/NAME@COMMIT/…`."""
    addresses = [address for address in downloads or {} if address.startswith("hf://")]
    commits = {address.partition("@")[2].partition("/")[0] for address in addresses}
    return commits.pop() if len(commits) == 1 else None


def _named(error: Exception) -> str:
    return one_line(f"{type(error).__name__}: {error}", 300)
