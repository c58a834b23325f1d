"""Load articles with their reference summaries: clean, reject, draw.

Three kinds of source: the embedded newswire, local JSONL, CSV or Parquet files, and data sets of
the Hub through `datasets`. A split is read once from end to end, so that every row is counted. The
articles drawn wait on the disk, since they may need more memory than there is.
"""

from __future__ import annotations

import heapq
import math
import zlib
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from nutgraf.config import DataConfig
from nutgraf.config.evaluation import RougeTokenizer
from nutgraf.data.article_store import Spool, StoredArticles
from nutgraf.data.rows import Article, Reader, Reject
from nutgraf.data.sources import rows_of_split


@dataclass(frozen=True)
class Split:
    """The articles drawn for one split, in random order, and what became of the other rows.

    Those in `spare` come next in the draw: they replace articles whose summaries turn out to be too
    long for a training row, at most the share `data.max_rejected`. `rows` numbers the rows of
    `articles` and then of `spare` in their source, from 1. `rejected` rows cannot be used;
    `removed` ones could, but their article is in another split, or in training twice, or their
    split is none of the three. `usable` are the others, drawn or not. `notes` are sentences about
    names of columns and splits. `letters` is the share of the letters of the mean summary that
    ROUGE counts, 0 to 1.
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
    usable: int = 0
    notes: Sequence[str] = ()
    letters: float = 1.0


def load_articles(
    data: DataConfig,
    split: str,
    others: Mapping[str, Split] | None = None,
    folder: Path | None = None,
    tokenizer: RougeTokenizer = "rouge-score",
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
        tokenizer: That of ROUGE: a summary without a word of it is rejected.

    Raises:
        UserError: A file, column or split is missing, nothing is left, more than the share
            `data.max_rejected` of the rows is rejected, or ROUGE counts too few letters.
        Failure: The Hub cannot be reached.
    """
    requested = getattr(data, f"{split}_examples")
    limit = _with_spare(requested, data.max_rejected)
    if data.is_newswire:
        limit = limit or requested
        stories = enumerate(_newswire(split, limit, data.seed), 1)
        spool = _spooled(((number, number, article) for number, article in stories), limit, folder)
        drawn = _drawn(spool, limit, requested)
        n = len(drawn[0])
        return Split(*drawn, requested, data.seed, "newswire", rows_read=n, usable=n)
    notes: list[str] = []
    rows, source, revision = rows_of_split(data, split, notes)
    fingerprints = {
        name: {a.fingerprint for a in other.articles} for name, other in (others or {}).items()
    }
    reader = Reader(data, split, source, fingerprints, tokenizer)
    random = np.random.default_rng([data.seed, zlib.crc32(split.encode())])
    # Each article gets its sort key before any is removed: the others keep theirs.
    keyed = ((random.random(), number, a) for number, a in reader.articles(rows))
    usable = (entry for entry in keyed if not reader.removes(*entry[1:]))
    spool = _spooled(usable, limit, folder)
    reader.check()
    return Split(
        *_drawn(spool, limit, requested),
        requested,
        data.seed,
        source,
        revision,
        reader.rows_read,
        reader.rejected,
        reader.removed,
        reader.usable,
        (*notes, *reader.notes()),
        reader.letters,
    )


def newswire_sample(data: DataConfig, split: str, n: int) -> list[Article]:
    """Return the first articles of a split of the newswire, at most `n`."""
    requested = getattr(data, f"{split}_examples")
    return [*_newswire(split, n if requested is None else min(n, requested), data.seed)]


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

    assert n is not None  # the configuration asks for a number
    return (Article(s.id, s.article, s.reference) for s in newswire.iter_stories(split, n, seed))
