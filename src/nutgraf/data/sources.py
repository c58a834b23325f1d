"""Find the rows of a split: in its file, a file or folder of all splits, or on the Hub."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nutgraf.config import DataConfig
from nutgraf.core.errors import Failure, UserError, did_you_mean, library_errors, library_message
from nutgraf.core.files import digest, files_in, sha256
from nutgraf.data import tables
from nutgraf.data.json_rows import BrokenRow, OtherSplit
from nutgraf.data.names import USUAL, find_column, no_column, split_of, split_of_file
from nutgraf.data.rows import NumberedRows

SPLITS = ("train", "validation", "test")


def on_the_hub(data: DataConfig) -> bool:
    """Return whether the articles are neither embedded nor in local files or folders."""
    source = Path(data.source)
    local = data.train or data.is_newswire or source.exists() or source.is_absolute()
    return not local and not tables.is_table(source)


def rows_of_split(
    data: DataConfig, split: str, notes: list[str]
) -> tuple[NumberedRows, str, str | None]:
    """Return the rows of a split, the name of their source, and its revision on the Hub.

    What is to be known about names of splits goes to `notes`, at the latest with the last row.
    """
    path = getattr(data, split)
    if path:
        return enumerate(tables.read_rows_or_broken(Path(path)), 1), path, None
    source = Path(data.source)
    if source.is_dir() and (files := _files_by_split(data, notes)):
        chained = itertools.chain.from_iterable(map(tables.read_rows_or_broken, files[split]))
        return enumerate(chained, 1), data.source, None
    if source.is_absolute() and not source.exists():
        raise UserError(f"data.source {data.source} does not exist: correct its path")
    if source.is_dir() or not (source.is_file() or tables.is_table(source)):
        rows, revision = _hub(data, split, notes)
        return enumerate(rows, 1), data.source, revision
    all_rows = enumerate(tables.read_rows_or_broken(source), 1)
    return _of_split(all_rows, data, split, notes), data.source, None


def _files_by_split(data: DataConfig, notes: list[str]) -> dict[str, list[Path]] | None:
    """Return the files of rows in a folder by the split in their paths, if there are all three.

    A folder that says by itself how it is read is left to `datasets`.
    """
    folder = Path(data.source)
    card = folder / "README.md"
    if data.name or (card.is_file() and b"\nconfigs:" in card.read_bytes()):
        return None
    files: dict[str | None, list[Path]] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_file() and tables.is_table(path) and not re.search(r"(^|/)[._]", name):
            files.setdefault(split_of_file(name), []).append(path)
    others = files.pop(None, [])
    if len(files) < len(SPLITS):
        return None
    if others:
        named = ", ".join(path.name for path in others[:5])
        notes.append(f"{len(others)} files of {folder} name none of the splits: {named}")
    return {str(split): paths for split, paths in files.items()}


def _of_split(rows: NumberedRows, data: DataConfig, split: str, notes: list[str]) -> NumberedRows:
    """Yield the rows of one split.

    Broken rows, rows without a split and those of a split that no study has count with training.
    """
    words: Counter[str] = Counter()
    columns: dict[str, None] = {}
    column = broken = None
    for number, row in rows:
        place, name = f"row {number}", None
        if isinstance(row, BrokenRow):
            broken = broken or row
        else:
            columns.update(dict.fromkeys(row))
            usual = USUAL["split_column"] * (data.split_column == DataConfig().split_column)
            column = column or find_column(data.split_column, row, usual)
            word = row.get(column or data.split_column)
            word = "" if word is None else str(word).strip()
            words[word] += 1
            name = split_of(word)
            if not word:
                row = BrokenRow(place, "without a split", f"{column!r} is empty")
            elif name is None:
                row = OtherSplit(place, "row of another split", repr(word))
        if name == split or (isinstance(row, BrokenRow) and split == "train"):
            yield number, row
    del words[""]
    if broken and not columns:
        raise UserError(f"{data.source} has no row that can be read: {broken}")
    if columns and column not in columns:
        change = "set data.split_column, or give data.train, data.validation and data.test"
        raise no_column(data.source, data.split_column, columns, change)
    of_split = [word for word in words if split_of(word) == split]
    if len(of_split) > 1:
        notes.append(f"rows of {_counted(words, of_split)} are taken together")
    others = [word for word in words if split_of(word) is None]
    if others and split == "train":
        notes.append(f"column {column!r} names other splits, left out: {_counted(words, others)}")
    if not of_split:
        present = ", ".join(repr(word) for word in itertools.islice(words, 5)) or "nothing"
        raise UserError(
            f"{data.source} has no row with {split!r} in column {data.split_column!r}: "
            f"there is {present}"
        )


def _counted(words: Counter[str], some: Sequence[str]) -> str:
    shown = [f"{words[word]:,} {word!r}" for word in some[:5]]
    return ", ".join(shown + ["…"] * (len(some) > 5))


def _hub(
    data: DataConfig, split: str, notes: list[str]
) -> tuple[Iterable[Mapping[str, Any]], str | None]:
    """Load a data set of the Hub, or a local folder in the Hub's form; return its revision too."""
    import datasets

    own_files = "or give files with data.train, data.validation and data.test"
    cache = None
    if Path(data.source).is_dir():
        if set("[*?") & set(data.source):
            raise UserError(
                f"data.source {data.source!r} has [, * or ? in its path, which `datasets` reads as "
                f"a pattern: rename the folder, {own_files}"
            )
        # By itself it keeps rows by path, size and time, which a change can leave as they were.
        content = digest({str(file): sha256(file) for file in files_in(Path(data.source))})
        cache = str(Path(datasets.config.HF_DATASETS_CACHE) / f"nutgraf-{content[:16]}")

    def load(name: str) -> Any:
        return datasets.load_dataset(
            data.source, data.name, split=name, revision=data.revision, cache_dir=cache
        )

    here = Path(data.source).is_absolute()
    fact = f"{data.source} cannot be read" if here else f"the Hub did not give {data.source!r}"
    change = f"{'correct its files' if here else 'try again with a connection'}, {own_files}"
    with library_errors(fact, change, UserError if here else Failure):
        try:
            try:
                rows = load(split)
            except ValueError as error:
                if "Unknown split" not in str(error):
                    raise
                names = datasets.get_dataset_split_names(
                    data.source, data.name, revision=data.revision
                )
                alike = [name for name in names if split_of(name) == split]
                if len(alike) != 1:
                    raise
                rows = load(alike[0])
                notes.append(f"split {alike[0]!r} of {data.source} is taken")
        except (
            datasets.data_files.EmptyDatasetError,
            datasets.exceptions.DatasetNotFoundError,
            datasets.exceptions.DataFilesNotFoundError,
        ):
            meant = did_you_mean(data.source, ["newswire"])
            what = f"no file, no folder with data files and no public data set on the Hub{meant}"
            what = "a folder without data files" if here else what
            raise UserError(
                f"data.source {data.source!r} is {what}; correct it, {own_files}"
            ) from None
        except ValueError as error:
            raise UserError(
                f"{data.source} cannot give its split {split!r}: {library_message(error)} "
                "(data.name, data.revision)"
            ) from None
    return rows, data.revision or _revision(rows.info.download_checksums)


def _revision(downloads: Mapping[str, Any] | None) -> str | None:
    """Return the commit in the addresses of downloads: `hf://datasets/OWNER/NAME@COMMIT/…`."""
    addresses = [address for address in downloads or {} if address.startswith("hf://")]
    commits = {address.partition("@")[2].partition("/")[0] for address in addresses}
    return commits.pop() if len(commits) == 1 else None
