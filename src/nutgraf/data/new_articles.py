"""Read new articles from files, folders, tables, web pages and standard input."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from nutgraf.core.errors import UserError, did_you_mean
from nutgraf.data import tables, web_page
from nutgraf.data.fetch import fetch_article, is_address
from nutgraf.data.text import TextError, usable_text

logger = logging.getLogger(__name__)

PAGES = (".html", ".htm", ".xhtml")
TEXTS = (".txt", ".text", ".md")


@dataclass(frozen=True)
class Columns:
    """Name the columns of articles and ids in a table; `id` is optional by default."""

    article: str = "article"
    id: str | None = None


COLUMNS = Columns()


@dataclass(frozen=True)
class NewArticle:
    """An article, the file or address that it came from, and in a table the row's id."""

    source: str
    text: str
    id: str | None = None

    @property
    def name(self) -> str:
        """Return what to call it in a message."""
        return self.source if self.id is None else f"{self.source} {self.id}"


def read_sources(
    sources: Sequence[str], columns: Columns = COLUMNS, fetch: bool = False
) -> Iterator[NewArticle]:
    """Yield the articles of each source, in order. Text is UTF-8 on every machine.

    Args:
        sources: Files of text, HTML or rows (JSONL, CSV, Parquet), folders with such files,
            `http(s)` addresses, or `-` for standard input.
        columns: Columns of tables.
        fetch: Whether addresses may be fetched.

    Raises:
        UserError: A source, or a row of it, is missing, cannot be read or holds no text.
    """
    for source in sources:
        if is_address(source):
            if not fetch:
                raise UserError(f"{source} is an address: --fetch allows to fetch it")
            yield _named(source, fetch_article(source))
        elif source == "-":
            yield _from_bytes("-", sys.stdin.buffer.read())
        elif _is_folder(source):
            for file in _files(Path(source)):
                yield from _file(str(file), columns)
        else:
            yield from _file(source, columns)


def _is_folder(source: str) -> bool:
    try:
        return Path(source).is_dir()
    except (OSError, ValueError):  # a NUL in the name, or too long: reading it reports that
        return False


def _files(folder: Path) -> list[Path]:
    """Return the files of known kinds directly in a folder, by name."""
    files = sorted(f for f in folder.iterdir() if f.is_file() and not f.name.startswith("."))
    known = [f for f in files if f.suffix.lower() in (*TEXTS, *PAGES) or tables.is_table(f)]
    if not known:
        raise UserError(
            f"{folder} holds no file of articles ({', '.join((*TEXTS, *PAGES, *tables.SUFFIXES))})"
        )
    if others := len(files) - len(known):
        what = "1 file of another kind is" if others == 1 else f"{others} files of other kinds are"
        logger.warning(f"{folder}: {what} left out")
    return known


def _file(source: str, columns: Columns) -> Iterator[NewArticle]:
    if tables.is_table(Path(source)):
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
    yield _from_bytes(source, content)


def _from_bytes(source: str, content: bytes) -> NewArticle:
    if Path(source).suffix.lower() in PAGES or web_page.is_html(content):
        return _named(source, web_page.extract_article(content, source))
    return _named(source, content)


def _rows(source: str, columns: Columns) -> Iterator[NewArticle]:
    number = 0
    for number, row in enumerate(tables.read_rows(Path(source)), 1):
        where = f"{source} row {number}"
        for column in (columns.article, columns.id):
            if column is not None and column not in row:
                raise UserError(
                    f"{where} has no column {column!r}{did_you_mean(column, row)} "
                    f"(it has {tables.listed(row)}): name it with --article COL or --id COL"
                )
        cell = row.get(columns.id or "id")
        name = f"row {number}" if cell is None else str(cell)
        yield _named(source, row[columns.article], name, f"{where}: column {columns.article!r}")
    if number == 0:
        raise UserError(f"{source} holds no row: there is nothing to summarize")


def _named(
    source: str, value: object, id: str | None = None, where: str | None = None
) -> NewArticle:
    try:
        return NewArticle(source, usable_text(value), id)
    except TextError as error:
        raise UserError(f"{where or source} is {error}: there is nothing to summarize") from None
