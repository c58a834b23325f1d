"""Turn rows into articles: clean them, or leave them out with a reason that is counted."""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

from nutgraf.config import DataConfig
from nutgraf.config.evaluation import RougeTokenizer
from nutgraf.core.errors import UserError, one_line
from nutgraf.data.json_rows import BrokenRow, OtherSplit
from nutgraf.data.names import USUAL, find_column, no_column
from nutgraf.data.rouge_tokens import check_letters, has_rouge_tokens, letters_counted
from nutgraf.data.text import TextError, clean_text, usable_text

# Rows with their numbers in their source, from 1.
NumberedRows = Iterable[tuple[int, Mapping[str, Any] | BrokenRow]]


@dataclass(frozen=True, slots=True)
class Article:
    """A news article; `reference` is its reference summary, one sentence a line."""

    id: str
    article: str
    reference: str

    @property
    def fingerprint(self) -> bytes:
        """Return 16 bytes that are equal for texts equal apart from case and white space."""
        text = " ".join(self.article.casefold().split())
        return hashlib.blake2b(text.encode(), digest_size=16).digest()


@dataclass(frozen=True, slots=True)
class Reject:
    """A row left out: its number in its source (from 1), and its article's id if that is known.

    `reason` is one of few, to be counted; `detail` adds what is known.
    """

    split: str
    row: int
    id: str | None
    reason: str
    detail: str = ""

    def __str__(self) -> str:
        name = f" ({self.id!r})" if self.id else ""
        return f"row {self.row:,}{name}: {self.reason}" + (f", {self.detail}" * bool(self.detail))


class Reader:
    """Turns rows into articles, and collects the rows that it rejects or removes.

    `others` has the fingerprints of the articles of other splits, by split. `names` has the name
    of each column in the source, by its setting; the first row decides. A reference without a
    token of ROUGE's `tokenizer` is rejected; `letters` is the share of letters that it counts in
    the mean reference.
    """

    def __init__(
        self,
        data: DataConfig,
        split: str,
        source: str,
        others: Mapping[str, Set[bytes]],
        tokenizer: RougeTokenizer = "rouge-score",
    ) -> None:
        self.data, self.split, self.source = data, split, source
        self.rows_read = self.usable = 0
        self.names: dict[str, str] = {}
        self.rejected: list[Reject] = []
        self.removed: list[Reject] = []
        self.columns: dict[str, None] = {}
        self._others = {f"article in {name} too": marks for name, marks in others.items()}
        self._earlier: set[bytes] = set()
        self.letters = 1.0
        self._tokenizer = tokenizer
        self._shares = array("d")

    def articles(self, rows: NumberedRows) -> Iterator[tuple[int, Article]]:
        """Yield (row number, article) for each usable row."""
        ids: set[str] = set()
        for number, row in rows:
            self.rows_read += 1
            name = None
            if isinstance(row, OtherSplit):
                self.removed.append(Reject(self.split, number, None, row.reason, row.detail))
                continue
            try:
                if isinstance(row, BrokenRow):
                    raise TextError(f"row {row.reason}", f"{row.place}: {row.detail}")
                names = self.names or self._find_columns(row)
                self.columns.update(dict.fromkeys(row))
                name = _id(row.get(names["id_column"])) or f"{self.split}-{self.rows_read:06d}"
                text = _text(row, "article", names["article_column"])
                reference = _text(row, "summary", names["summary_column"])
                if self._tokenizer == "rouge-score":
                    self._shares.append(letters_counted(reference))
                if not has_rouge_tokens(reference, self._tokenizer):
                    raise TextError(
                        "summary without a word", f"score.tokenizer is {self._tokenizer}"
                    )
                if name in ids:  # summaries and scores are joined by id
                    raise TextError("id of an earlier row")
            except TextError as error:
                self.rejected.append(
                    Reject(self.split, number, name, error.reason, one_line(error.detail, 300))
                )
            else:
                ids.add(name)
                yield number, Article(name, text, reference)

    def removes(self, number: int, article: Article) -> bool:
        """Return whether the article must not be used: in another split, or in training twice."""
        if self.data.allow_overlap:
            self.usable += 1
            return False
        mark = article.fingerprint
        elsewhere = (reason for reason, marks in self._others.items() if mark in marks)
        repeated = "article of an earlier row" if mark in self._earlier else None
        if reason := next(elsewhere, repeated):
            self.removed.append(Reject(self.split, number, article.id, reason))
        elif self.split == "train":
            self._earlier.add(mark)
        self.usable += reason is None
        return reason is not None

    def notes(self) -> Iterator[str]:
        """Yield a sentence for each column that is not called as its setting says."""
        for setting, name in self.names.items():
            if name != (configured := getattr(self.data, setting)) and name in self.columns:
                yield f"column {name!r} is taken for data.{setting} ({configured!r} is not there)"

    def _find_columns(self, row: Mapping[str, Any]) -> dict[str, str]:
        for setting in ("article_column", "summary_column", "id_column"):
            name = getattr(self.data, setting)
            usual = USUAL.get(setting, ()) if name == getattr(DataConfig(), setting) else ()
            self.names[setting] = find_column(name, row, usual) or name
        return self.names

    def check(self) -> None:
        """Raise UserError if a column is in no row, too little is usable, or ROUGE fits it not."""
        settings = ["article_column", "summary_column"]
        if self.data.id_column != DataConfig().id_column:
            settings.append("id_column")
        for setting in settings if self.columns else []:
            column = getattr(self.data, setting)
            if self.names[setting] not in self.columns:
                raise no_column(self.source, column, self.columns, f"set data.{setting}")
        knob = "score.tokenizer unicode"
        self.letters = check_letters(self._shares, f"{self.source} for {self.split}", knob)
        if not self.usable:
            reasons = "".join(
                f", {what} {join_counts(count_reasons(rows))} (the first is {rows[0]})"
                for what, rows in (("rejected", self.rejected), ("removed", self.removed))
                if rows
            )
            raise UserError(
                f"{self.source} has no usable row for {self.split}: {self.rows_read:,} read"
                f"{reasons}"
                + ": give each split articles of its own, or set data.allow_overlap to true"
                * any(reject.reason.startswith("article ") for reject in self.removed)
            )
        what = f"rows of {self.source} for {self.split}"
        check_rejected(self.rejected, self.rows_read, self.data.max_rejected, what)


def count_reasons(rejects: Iterable[Reject]) -> dict[str, int]:
    """Return how many rows each reason has, in alphabetical order."""
    return dict(sorted(Counter(reject.reason for reject in rejects).items()))


def join_counts(counted: Mapping[str, int]) -> str:
    """Return `3 article empty, 1 not JSON`."""
    return ", ".join(f"{n:,} {reason}" for reason, n in counted.items())


def check_rejected(rejects: Sequence[Reject], total: int, max_share: float, what: str) -> None:
    """Raise UserError if more than a share of all rows are rejected.

    Args:
        rejects: The rejected rows.
        total: How many rows there are, the rejected ones included.
        max_share: The share that may be rejected, 0 to 1.
        what: What the rows are, for the message.
    """
    if len(rejects) > max_share * total:
        raise UserError(
            f"{len(rejects):,} of {total:,} {what} are rejected, more than {100 * max_share:g}%: "
            f"{join_counts(count_reasons(rejects))}; the first is {rejects[0]}; correct them, "
            f"or raise data.max_rejected (now {max_share:g})"
        )


def _text(row: Mapping[str, Any], kind: str, column: str) -> str:
    try:
        return usable_text(row.get(column))
    except TextError as error:
        raise TextError(f"{kind} {error.reason}", error.detail) from None


def _id(value: object) -> str:
    """Return the id in a cell, empty if there is none. Raise TextError if it is no name."""
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int | float) or value != value:
        raise TextError("id not text", f"it is of type {type(value).__name__}")
    return clean_text(str(value))
