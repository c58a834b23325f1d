"""Read new articles from files, folders, tables, web pages and standard input."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from nutgraf.core.errors import NutgrafError, UserError
from nutgraf.data import tables, web_page
from nutgraf.data.fetch import fetch_article, is_address
from nutgraf.data.json_rows import BrokenRow, Row, rows_of_json
from nutgraf.data.names import USUAL, find_column, listed, no_column
from nutgraf.data.source_files import DAMAGED, bare_suffix, check_kind, open_bytes
from nutgraf.data.text import HEAD, TextError, encoding_by_mark, usable_text

logger = logging.getLogger(__name__)

PAGES = (".html", ".htm", ".xhtml", *web_page.MIME_NAMES)
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
    sources: Sequence[str],
    columns: Columns = COLUMNS,
    fetch: bool = False,
    failed: list[NutgrafError] | None = None,
) -> Iterator[NewArticle]:
    """Yield the articles of each source, in order. Text is UTF-8 on every machine.

    Args:
        sources: Files of text, HTML, addresses or rows (JSON, CSV, Parquet), folders with such
            files, `http(s)` addresses, or `-` for standard input.
        columns: Columns of tables.
        fetch: Whether addresses may be fetched.
        failed: Takes the errors of what cannot be read; the others are read. None raises the first.

    Raises:
        UserError: A source, or a row of it, is missing, cannot be read or holds no text.
        Failure: An address cannot be fetched.
    """
    for source in sources:
        for article in _articles(source, columns, fetch):
            if isinstance(article, NewArticle):
                yield article
            elif failed is None:
                raise article
            else:
                failed.append(article)


def _articles(source: str, columns: Columns, fetch: bool) -> Iterator[NewArticle | NutgrafError]:
    """Yield the articles of a source, and an error for each that cannot be read."""
    try:
        if is_address(source):
            if not fetch:
                raise UserError(f"{source} is an address: --fetch allows to fetch it")
            yield _named(source, fetch_article(source))
        elif source == "-":
            yield from _from_bytes("-", sys.stdin.buffer.read(), columns, fetch)
        elif _is_folder(source):
            for file in _files(Path(source)):
                yield from _articles(str(file), columns, fetch)
        elif tables.is_table(Path(source)):
            yield from _rows(source, tables.read_rows_or_broken(Path(source)), columns)
        else:
            yield from _from_bytes(source, _content(source), columns, fetch)
    except NutgrafError as error:
        yield error
    except OSError as error:  # no right to look into a folder
        yield UserError(f"{source} cannot be read: {error}: give another")


def _is_folder(source: str) -> bool:
    try:
        return Path(source).is_dir()
    except (OSError, ValueError):  # a NUL in the name, or too long: reading it reports that
        return False


def _files(folder: Path) -> list[Path]:
    """Return the files of known kinds directly in a folder, by name."""
    files = sorted(
        f
        for f in folder.iterdir()
        if not f.name.startswith(".") and (f.is_file() or not f.exists())  # a link to nothing
    )
    known = [f for f in files if bare_suffix(f) in (*TEXTS, *PAGES) or tables.is_table(f)]
    if not known:
        raise UserError(
            f"{folder} holds no file of articles ({', '.join((*TEXTS, *PAGES, *tables.SUFFIXES))})"
        )
    if others := [file.name for file in files if file not in known]:
        what = (
            "1 file of another kind is" if len(others) == 1 else f"{len(others)} of other kinds are"
        )
        logger.warning(f"{folder}: {what} left out: {listed(others)}")
    return known


def _content(source: str) -> bytes:
    try:
        with open_bytes(Path(source)) as file:
            return file.read()
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(
            f"{source} is not a file: give files, folders, or - for standard input"
        ) from None
    except (*DAMAGED, ValueError) as error:  # no right to read it; a NUL in the name
        raise UserError(f"{source} cannot be read: {error}: give another file") from None


def _from_bytes(
    source: str, content: bytes, columns: Columns, fetch: bool
) -> Iterator[NewArticle | NutgrafError]:
    check_kind(source, content)
    if encoding := encoding_by_mark(content[:HEAD]):
        with contextlib.suppress(UnicodeDecodeError):  # `usable_text` says where
            content = content.decode(encoding).encode()
    suffix = bare_suffix(Path(source))
    page = suffix in web_page.MIME_NAMES or (suffix in PAGES and b"<" in content)
    if page or web_page.is_html(content):
        yield _named(source, web_page.extract_article(content, source))
        return
    if content.lstrip()[:1] in (b"{", b"["):
        rows = list(rows_of_json(io.BytesIO(content), source, lines=True))
        if rows and isinstance(rows[0], dict):
            yield from _rows(source, rows, columns)
            return
    article = _named(source, content)
    words = re.sub(r"(?m)^\s*#.*", "", article.text).split()
    if sum(map(is_address, words)) > len(words) / 2:
        for word in words:
            if is_address(word):
                yield from _articles(word, columns, fetch)
            else:
                yield UserError(f"{source}: {word!r} is no http or https address: correct it")
    else:
        yield article


def _rows(
    source: str, rows: Iterable[Row | BrokenRow], columns: Columns
) -> Iterator[NewArticle | NutgrafError]:
    number, article = 0, None
    for number, row in enumerate(rows, 1):
        where = f"{source} row {number}"
        if isinstance(row, BrokenRow):
            yield UserError(f"{source} {row}")
            continue
        if article is None:  # the first row decides what columns are called
            usual = USUAL["article_column"] if columns.article == COLUMNS.article else ()
            article = _column(where, columns.article, row, usual)
            name = "id" if columns.id is None else _column(where, columns.id, row)
            if article != columns.article:
                logger.warning(f"{source}: column {article!r} is taken as the article")
        cell = row.get(name)
        try:
            text = row[article] if article in row else row[_column(where, article, row)]
            yield _named(
                source,
                text,
                f"row {number}" if cell is None else str(cell),
                f"{where}: column {article!r}",
            )
        except UserError as error:
            yield error
    if number == 0:
        raise UserError(f"{source} holds no row: there is nothing to summarize")


def _column(where: str, name: str, row: Row, usual: Sequence[str] = ()) -> str:
    column = find_column(name, row, usual)
    if column is None:
        raise no_column(where, name, row, "name it with --article COL or --id COL")
    return column


def _named(
    source: str, value: object, id: str | None = None, where: str | None = None
) -> NewArticle:
    try:
        return NewArticle(source, usable_text(value), id)
    except TextError as error:
        encoded = error.reason == "not UTF-8"
        change = "save it as UTF-8" if encoded else "there is nothing to summarize"
        raise UserError(f"{where or source} is {error}: {change}") from None
