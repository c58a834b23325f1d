"""Articles with their reference summaries: load, clean, reject, draw, write.

Three kinds of source: the embedded newswire, local JSONL, CSV or Parquet files, and data sets
from the Hub through `datasets`. Whatever the source, a split is read once from end to end, so
that every row is counted, and only the drawn articles are kept in memory.
"""

from __future__ import annotations

import heapq
import itertools
import math
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nutgraf import tables
from nutgraf.problems import Failure, UserError
from nutgraf.section import did_you_mean
from nutgraf.settings import DataConfig

if TYPE_CHECKING:
    from datasets import Dataset

SPLITS = ("train", "validation", "test")
TOO_LONG_SHARE = 0.05  # of the drawn summaries; more is taken for a mistake in the settings

# Line ends of other systems become "\n"; other control characters and byte order marks go. A
# lone surrogate, which JSON can hold and UTF-8 cannot, becomes the replacement character.
_CHARACTERS: dict[int, str | None] = dict.fromkeys([*range(0x20), *range(0x7F, 0xA0), 0xFEFF])
_CHARACTERS |= dict.fromkeys([0x0A, 0x0B, 0x0C, 0x0D, 0x85, 0x2028, 0x2029], "\n") | {0x09: "\t"}
_CHARACTERS |= dict.fromkeys(range(0xD800, 0xE000), "\ufffd")


@dataclass(frozen=True)
class Article:
    """A news article; `highlights` is its reference summary, one sentence a line."""

    id: str
    article: str
    highlights: str


@dataclass(frozen=True)
class Split:
    """The articles drawn for one split, in random order, and what became of the other rows."""

    articles: list[Article]
    source: str
    revision: str | None
    asked: int | None
    seed: int
    rows_read: int
    rejected: dict[str, int]


def clean(text: str) -> str:
    """`text` with "\\n" as its only line end, without control characters and outer white space.

    Wording, case, tabs and inner spaces stay as they are.
    """
    return text.replace("\r\n", "\n").translate(_CHARACTERS).strip()


def load(
    data: DataConfig, split: str, too_long: Callable[[Article], str | None] = lambda article: None
) -> Split:
    """Draw the articles of `split`: "train", "validation" or "test".

    All rows are read, rows without an article or a summary are counted by reason, and
    `data.<split>_examples` of the others are drawn at random with `data.seed` (all of them where
    there are fewer). A larger draw from the same rows begins with the smaller one. `too_long`
    gives the reason why a summary leaves no room in a training row, if it does not: such an
    article is counted, and the next takes its place.

    Raises UserError for a file, column or split that is not there and where over 5% of the drawn
    summaries are too long, Failure where the Hub cannot be reached.
    """
    asked = getattr(data, f"{split}_examples")
    spare = None if asked is None else asked + math.ceil(asked / (1 / TOO_LONG_SHARE - 1))
    if data.source == "newswire" and not data.train:
        drawn = _newswire(split, spare, data.seed)
        fitting, refused = _fitting(drawn, asked, too_long, split)
        read = len(fitting) + sum(refused.values())
        return Split(fitting, "newswire", None, asked, data.seed, read, refused)
    rows, source, revision = _rows(data, split)
    reader = _Reader(data, split, source)
    random = np.random.default_rng([data.seed, zlib.crc32(split.encode())])
    keyed = ((random.random(), place, a) for place, a in enumerate(reader.articles(rows)))
    first = sorted(keyed) if spare is None else heapq.nsmallest(spare, keyed)
    reader.check(found=len(first))
    fitting, refused = _fitting([article for _, _, article in first], asked, too_long, split)
    rejected = dict(sorted((reader.rejected + refused).items()))
    return Split(fitting, source, revision, asked, data.seed, reader.rows_read, rejected)


def sample(data: DataConfig, split: str, n: int) -> tuple[list[Article], int | None]:
    """The first `n` usable articles of a split and how many of it a study takes, read in no time.

    A split on the Hub is not touched: no articles, and None where its number is not given.
    Raises UserError like `load`.
    """
    asked = getattr(data, f"{split}_examples")
    if data.source == "newswire" and not data.train:
        return _newswire(split, n if asked is None else min(n, asked), data.seed), asked
    if on_the_hub(data):
        return [], asked
    rows, source, _ = _rows(data, split)
    reader = _Reader(data, split, source)
    found = reader.articles(rows)
    first = list(itertools.islice(found, n))
    reader.check(found=len(first))
    return first, len(first) + sum(1 for _ in found) if asked is None else asked


def on_the_hub(data: DataConfig) -> bool:
    """Whether the articles are neither embedded nor in local files or folders."""
    source = Path(data.source)
    local = data.train or data.source == "newswire" or source.exists()
    return not local and source.suffix not in tables.SUFFIXES


def write(articles: Iterable[Article], path: Path) -> None:
    """Write articles as Parquet with the text columns id, article, highlights."""
    rows = [{"id": a.id, "article": a.article, "highlights": a.highlights} for a in articles]
    schema = pa.schema([(name, pa.string()) for name in ("id", "article", "highlights")])
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)


def read(path: Path) -> list[Article]:
    """The articles that `write` wrote, in their order."""
    return [Article(**row) for row in pq.read_table(path).to_pylist()]


def as_dataset(rows: Sequence[Mapping[str, Any]]) -> Dataset:
    """Rows already encoded (`input_ids`, `labels`) in the form that the trainer takes."""
    import datasets

    return datasets.Dataset.from_list([dict(row) for row in rows])


def _fitting(
    drawn: Sequence[Article],
    asked: int | None,
    too_long: Callable[[Article], str | None],
    split: str,
) -> tuple[list[Article], Counter[str]]:
    """The first `asked` articles that fit, and the count of those passed over."""
    fitting: list[Article] = []
    refused: list[tuple[str, str]] = []
    for article in drawn:
        if len(fitting) == asked:
            break
        if reason := too_long(article):
            refused.append((article.id, reason))
        else:
            fitting.append(article)
    tried = len(fitting) + len(refused)
    if len(refused) > TOO_LONG_SHARE * tried:
        name, reason = refused[0]
        raise UserError(
            f"{len(refused):,} of {tried:,} {split} summaries are too long, more than "
            f"{TOO_LONG_SHARE:.0%}; of article {name!r}, the {reason}"
        )
    return fitting, Counter({"summary too long": len(refused)} if refused else {})


class _Reader:
    """Turns rows into articles and keeps count of those that it rejects, by reason."""

    def __init__(self, data: DataConfig, split: str, source: str) -> None:
        self.data, self.split, self.source = data, split, source
        self.rows_read = 0
        self.rejected: Counter[str] = Counter()
        self.columns: dict[str, None] = {}

    def articles(self, rows: Iterable[Mapping[str, Any]]) -> Iterator[Article]:
        seen: set[str] = set()
        for number, row in enumerate(rows, 1):
            self.rows_read = number
            self.columns.update(dict.fromkeys(row))
            found = self._article(row, number)
            if isinstance(found, Article) and found.id in seen:
                # Summaries and scores are joined by id, so it has to be one row's alone.
                found = "id of an earlier row"
            if isinstance(found, str):
                self.rejected[found] += 1
            else:
                seen.add(found.id)
                yield found

    def check(self, found: int) -> None:
        """Raise UserError where a column was in no row, or nothing could be used."""
        named = ["article_column", "summary_column"]
        if self.data.id_column != DataConfig().id_column:
            named.append("id_column")
        for setting in named if self.rows_read else []:
            column = getattr(self.data, setting)
            if column not in self.columns:
                raise UserError(
                    f"{self.source} has no column {column!r}{did_you_mean(column, self.columns)} "
                    f"(it has {', '.join(self.columns)}): set data.{setting}"
                )
        if not found:
            why = ", ".join(f"{n} {reason}" for reason, n in sorted(self.rejected.items()))
            raise UserError(
                f"{self.source} has no usable row for {self.split}: {self.rows_read} read"
                + (f", rejected: {why}" if why else "")
            )

    def _article(self, row: Mapping[str, Any], number: int) -> Article | str:
        """The row's article, or the reason why it cannot be used."""
        texts = []
        for kind, column in (
            ("article", self.data.article_column),
            ("summary", self.data.summary_column),
        ):
            value = row.get(column)
            if value is None:
                return f"{kind} missing"
            if not isinstance(value, str):
                return f"{kind} not text"
            texts.append(clean(value))
            if not texts[-1]:
                return f"{kind} empty"
        given = row.get(self.data.id_column)
        name = clean(str(given)) if given is not None else ""
        return Article(name or f"{self.split}-{number:06d}", *texts)


def _newswire(split: str, n: int | None, seed: int) -> list[Article]:
    from nutgraf.pocket import newswire

    if n is None:
        raise UserError(f"the newswire never ends: set data.{split}_examples to a number")
    return [Article(s.id, s.article, s.highlights) for s in newswire.stories(split, n, seed)]


def _rows(data: DataConfig, split: str) -> tuple[Iterable[Mapping[str, Any]], str, str | None]:
    """The rows of a split, the name of where they come from, and its revision on the Hub."""
    given = getattr(data, split)
    if given:
        return tables.rows(Path(given)), given, None
    source = Path(data.source)
    if source.is_dir() or not (source.is_file() or source.suffix in tables.SUFFIXES):
        return _hub(data, split)
    return _of_split(tables.rows(source), data, split), data.source, None


def _of_split(
    rows: Iterator[dict[str, Any]], data: DataConfig, split: str
) -> Iterator[dict[str, Any]]:
    found: Counter[str] = Counter()
    for row in rows:
        if data.split_column not in row:
            raise UserError(
                f"{data.source} has no column {data.split_column!r}"
                f"{did_you_mean(data.split_column, row)} (it has {', '.join(row)}): set "
                "data.split_column, or give data.train, data.validation and data.test"
            )
        found[str(row[data.split_column])] += 1
        if row[data.split_column] == split:
            yield row
    if not found[split]:
        there = ", ".join(repr(name) for name in itertools.islice(found, 5)) or "nothing"
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
            f"{data.source} cannot give its split {split!r}: {_one_line(error)} "
            "(data.name, data.revision)"
        ) from None
    except (OSError, datasets.exceptions.DatasetGenerationError) as error:
        raise Failure(
            f"the Hub did not give {data.source!r}: {_one_line(error)}; "
            f"try again with a connection, {own_files}"
        ) from error
    return found, data.source, data.revision or _revision(found.info.download_checksums)


def _revision(downloads: Mapping[str, Any] | None) -> str | None:
    """The commit in the addresses of what was downloaded: `hf://datasets/OWNER/NAME@COMMIT/…`."""
    addresses = [address for address in downloads or {} if address.startswith("hf://")]
    commits = {address.partition("@")[2].partition("/")[0] for address in addresses}
    return commits.pop() if len(commits) == 1 else None


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
