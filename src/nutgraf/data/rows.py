"""Rows turned into articles: cleaned, or left out with a reason that is counted."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

from nutgraf.config import DataConfig
from nutgraf.core.errors import UserError, did_you_mean, one_line
from nutgraf.data import tables
from nutgraf.data.sentences import has_rouge_tokens
from nutgraf.data.tables import BrokenRow
from nutgraf.data.text import Unusable, clean_text, usable_text

# Rows with their numbers in their source, from 1.
Numbered = Iterable[tuple[int, Mapping[str, Any] | BrokenRow]]


@dataclass(frozen=True, slots=True)
class Article:
    """A news article; `reference` is its reference summary, one sentence a line."""

    id: str
    article: str
    reference: str

    @property
    def fingerprint(self) -> bytes:
        """The same for articles whose texts are, apart from case and white space; 16 bytes."""
        text = " ".join(self.article.casefold().split())
        return hashlib.blake2b(text.encode(), digest_size=16).digest()


@dataclass(frozen=True, slots=True)
class Reject:
    """A row left out: its number in its source (from 1), its article's id where that is known.

    `reason` is one of few, to be counted; `detail` says what is known beside.
    """

    split: str
    row: int
    id: str | None
    reason: str
    detail: str = ""

    def __str__(self) -> str:
        named = f" ({self.id!r})" if self.id else ""
        return f"row {self.row:,}{named}: {self.reason}" + (f", {self.detail}" * bool(self.detail))


class Reader:
    """Turns rows into articles and keeps those that it rejects or removes.

    `taken` has the fingerprints of the articles of other splits.
    """

    def __init__(
        self, data: DataConfig, split: str, source: str, taken: Mapping[str, Set[bytes]]
    ) -> None:
        self.data, self.split, self.source = data, split, source
        self.rows_read = 0
        self.rejected: list[Reject] = []
        self.removed: list[Reject] = []
        self.columns: dict[str, None] = {}
        self._taken = {f"article in {name} too": marks for name, marks in taken.items()}
        self._earlier: set[bytes] = set()

    def articles(self, rows: Numbered) -> Iterator[tuple[int, Article]]:
        """The articles with the numbers of their rows."""
        seen: set[str] = set()
        for number, row in rows:
            self.rows_read += 1
            name = None
            try:
                if isinstance(row, BrokenRow):
                    raise Unusable(f"row {row.reason}", f"{row.place}: {row.detail}")
                self.columns.update(dict.fromkeys(row))
                name = _id(row.get(self.data.id_column)) or f"{self.split}-{self.rows_read:06d}"
                found = Article(
                    name,
                    self._text(row, "article", self.data.article_column),
                    self._text(row, "summary", self.data.summary_column),
                )
                if not has_rouge_tokens(found.reference):
                    raise Unusable("summary without a word", "ROUGE counts a-z and 0-9 only")
                if found.id in seen:
                    # Summaries and scores are joined by id, so it has to be one row's alone.
                    raise Unusable("id of an earlier row")
            except Unusable as error:
                self.rejected.append(
                    Reject(self.split, number, name, error.reason, one_line(error.detail, 300))
                )
            else:
                seen.add(found.id)
                yield number, found

    def removes(self, number: int, article: Article) -> bool:
        """Whether the article is not to be used: it is in another split, or in training twice."""
        if self.data.allow_overlap:
            return False
        mark = article.fingerprint
        elsewhere = (reason for reason, marks in self._taken.items() if mark in marks)
        repeated = "article of an earlier row" if mark in self._earlier else None
        if reason := next(elsewhere, repeated):
            self.removed.append(Reject(self.split, number, article.id, reason))
        elif self.split == "train":
            self._earlier.add(mark)
        return reason is not None

    def check(self, found: int) -> None:
        """Raise UserError where a column was in no row, nothing is left, or too much rejected."""
        named = ["article_column", "summary_column"]
        if self.data.id_column != DataConfig().id_column:
            named.append("id_column")
        for setting in named if self.columns else []:
            column = getattr(self.data, setting)
            if column not in self.columns:
                raise UserError(
                    f"{self.source} has no column {column!r}{did_you_mean(column, self.columns)} "
                    f"(it has {tables.listed(self.columns)}): set data.{setting}"
                )
        if not found:
            raise UserError(
                f"{self.source} has no usable row for {self.split}: {self.rows_read:,} read"
                + self._why("rejected", self.rejected)
                + self._why("removed", self.removed)
                + ": give each split articles of its own, or set data.allow_overlap to true"
                * bool(self.removed)
            )
        what = f"rows of {self.source} for {self.split}"
        check(self.rejected, self.rows_read, self.data.max_rejected, what)

    def _why(self, what: str, found: Sequence[Reject]) -> str:
        if not found:
            return ""
        return f", {what} {in_words(counts(found))} (the first is {found[0]})"

    def _text(self, row: Mapping[str, Any], kind: str, column: str) -> str:
        try:
            return usable_text(row.get(column))
        except Unusable as error:
            raise Unusable(f"{kind} {error.reason}", error.detail) from None


def counts(rejects: Iterable[Reject]) -> dict[str, int]:
    """How many for each reason, in the order of the alphabet."""
    return dict(sorted(Counter(reject.reason for reject in rejects).items()))


def in_words(counted: Mapping[str, int]) -> str:
    """`3 article empty, 1 not JSON`."""
    return ", ".join(f"{n:,} {reason}" for reason, n in counted.items())


def check(rejects: Sequence[Reject], of: int, allowed: float, what: str) -> None:
    """Raise UserError where more than the share `allowed` (0 to 1) of `of` rows are rejected.

    `what` is what they are rows of, for the message.
    """
    if len(rejects) > allowed * of:
        raise UserError(
            f"{len(rejects):,} of {of:,} {what} are rejected, more than {100 * allowed:g}%: "
            f"{in_words(counts(rejects))}; the first is {rejects[0]}; correct them, or raise "
            f"data.max_rejected (now {allowed:g})"
        )


def _id(value: object) -> str:
    """The id in a cell, empty where there is none. Raises Unusable for one that is no name."""
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int | float) or value != value:
        raise Unusable("id not text", f"it is of type {type(value).__name__}")
    return clean_text(str(value))
