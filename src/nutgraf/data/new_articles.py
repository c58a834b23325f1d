"""New articles from wherever they lie: files, folders, tables, pages, standard input."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from nutgraf.core.errors import UserError, did_you_mean
from nutgraf.data import tables, web_page
from nutgraf.data.fetch import fetch_article, is_address
from nutgraf.data.text import UnusableText, usable_text

logger = logging.getLogger(__name__)

PAGES = (".html", ".htm", ".xhtml")
TEXTS = (".txt", ".text", ".md")
KNOWN = (*TEXTS, *PAGES, *tables.SUFFIXES)


@dataclass(frozen=True)
class Columns:
    """Which columns of a table hold articles and their ids; `id` may be missing where not named."""

    article: str = "article"
    id: str | None = None


COLUMNS = Columns()


@dataclass(frozen=True)
class Named:
    """An article: the file or address that it came from, and the row's id where that is a table."""

    source: str
    text: str
    id: str | None = None

    @property
    def name(self) -> str:
        """What to call it in a message."""
        return self.source if self.id is None else f"{self.source} {self.id}"


def read_sources(
    sources: Sequence[str], columns: Columns = COLUMNS, fetch: bool = False
) -> Iterator[Named]:
    """The articles of each source, in order.

    A source is a file of text, HTML or rows (JSONL, CSV, Parquet), a folder with such files, an
    `http(s)` address where `fetch` allows it, or `-`, standard input. Text is UTF-8, whatever the
    machine's own encoding is. Raises UserError naming the source, and the row where there is one,
    that is not there, cannot be read or holds no text.
    """
    for source in sources:
        if is_address(source):
            if not fetch:
                raise UserError(f"{source} is an address: --fetch allows to fetch it")
            yield _named(source, fetch_article(source))
        elif source == "-":
            yield _one("-", sys.stdin.buffer.read())
        elif _is_folder(source):
            for file in _files(Path(source)):
                yield from _file(str(file), columns)
        else:
            yield from _file(source, columns)


def _is_folder(source: str) -> bool:
    try:
        return Path(source).is_dir()
    except (OSError, ValueError):  # a NUL in the name, or too long: the reading will tell
        return False


def _files(folder: Path) -> list[Path]:
    """The files of known kinds right in the folder, by name."""
    found = sorted(f for f in folder.iterdir() if f.is_file() and not f.name.startswith("."))
    known = [file for file in found if file.suffix.lower() in KNOWN]
    if not known:
        raise UserError(f"{folder} holds no file of articles ({', '.join(KNOWN)})")
    if others := len(found) - len(known):
        what = "1 file of another kind is" if others == 1 else f"{others} files of other kinds are"
        logger.warning(f"{folder}: {what} left out")
    return known


def _file(source: str, columns: Columns) -> Iterator[Named]:
    if Path(source).suffix.lower() in tables.SUFFIXES:
        yield from _rows(source, columns)
        return
    try:
        content = Path(source).read_bytes()
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(
            f"{source} is not a file: give files, folders, or - for standard input"
        ) from None
    except (OSError, ValueError) as error:  # no right to read it; a NUL in the name
        raise UserError(f"{source} cannot be read: {error}: give another file") from None
    yield _one(source, content)


def _one(source: str, content: bytes) -> Named:
    """The article in the bytes of a page or of a text."""
    if Path(source).suffix.lower() in PAGES or web_page.is_html(content):
        return _named(source, web_page.extract_article(content, source))
    return _named(source, content)


def _rows(source: str, columns: Columns) -> Iterator[Named]:
    number = 0
    for number, row in enumerate(tables.read_rows(Path(source)), 1):
        where = f"{source} row {number}"
        for column in (columns.article, columns.id):
            if column is not None and column not in row:
                raise UserError(
                    f"{where} has no column {column!r}{did_you_mean(column, row)} "
                    f"(it has {tables.listed(row)}): name it with --article COL or --id COL"
                )
        given = row.get(columns.id or "id")
        name = f"row {number}" if given is None else str(given)
        yield _named(source, row[columns.article], name, f"{where}: column {columns.article!r}")
    if number == 0:
        raise UserError(f"{source} holds no row: there is nothing to summarize")


def _named(source: str, given: object, id: str | None = None, where: str | None = None) -> Named:
    try:
        return Named(source, usable_text(given), id)
    except UnusableText as error:
        raise UserError(f"{where or source} is {error}: there is nothing to summarize") from None
