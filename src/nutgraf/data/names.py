"""Match the names that people give to columns and splits with those that are asked for."""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Iterable, Sequence

from nutgraf.core.errors import UserError, did_you_mean

# Usual names of the columns that settings name.
USUAL: dict[str, tuple[str, ...]] = {
    "article_column": ("article text", "text", "document", "body", "content", "dialogue"),
    "summary_column": ("summary", "abstract", "reference", "reference summary", "tldr"),
    "split_column": ("fold", "subset", "partition"),
}

_SPLIT_WORDS = {
    "train": ("train", "training", "trn"),
    "validation": ("validation", "validate", "valid", "val", "vld", "development", "devel", "dev",
                   "evaluation", "eval"),
    "test": ("test", "testing", "tst", "heldout", "holdout"),
}  # fmt: skip
_SPLIT_OF = {word: split for split, words in _SPLIT_WORDS.items() for word in words}


def find_column(name: str, columns: Iterable[str], others: Sequence[str] = ()) -> str | None:
    """Return the column called `name`, or None.

    It is the one of that very name, else the only one that differs in case, outer white space,
    spaces, `_` or `-`, else the only one called like one of `others`, usual names for the same.
    """
    columns = list(columns)
    if name in columns:
        return name
    for names in ((name,), others):
        wanted = set(map(_plain, names))
        close = [column for column in columns if _plain(column) in wanted]
        if len(close) == 1:
            return close[0]
    return None


def no_column(where: object, name: str, columns: Iterable[str], change: str) -> UserError:
    """Return the error for a column that is not there; `change` is what to do."""
    columns = [*filter(None, columns)]
    return UserError(
        f"{where} has no column {name!r}{did_you_mean(name, columns)} (it has "
        f"{listed(columns) or 'none'}): {change}"
    )


def listed(names: Iterable[str]) -> str:
    """Return names for a message, the first 20 of many."""
    shown = list(itertools.islice(names, 21))
    return ", ".join([*shown[:20], "…"] if len(shown) > 20 else shown)


def split_of(value: object) -> str | None:
    """Return the split that a cell names: `Train`, `dev`, `held-out` and `test set` are names."""
    word = re.sub(r"(set|split|data)$", "", _plain(str(value)))
    return _SPLIT_OF.get(word)


def split_of_file(name: str) -> str | None:
    """Return the split in the name of a file, such as `cnn-dev.v2.jsonl`; None for none or two."""
    words = re.split(r"[\W_\d]+", re.sub(r"(?i)(held|hold)[-_ ]out", r"\1out", name).casefold())
    splits = {_SPLIT_OF[word] for word in words if word in _SPLIT_OF}
    return splits.pop() if len(splits) == 1 else None


def _plain(name: str) -> str:
    """Return a name without case, white space, invisible characters, `_` and `-`."""
    plain = unicodedata.normalize("NFKC", str(name)).casefold()
    return re.sub(r"[\W_]+", "", plain) or name
