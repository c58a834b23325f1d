"""New articles from wherever they lie."""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from nutgraf.core.errors import Failure, NutgrafError, UserError
from nutgraf.data import new_articles
from nutgraf.data.new_articles import Columns, NewArticle

PAGE = "<!doctype html><html><body><article><p>{}</p></article></body></html>"
LONG = (
    "The council of the town voted on Monday to close two of its five schools, the mayor said. " * 3
)


def read(*sources: str | Path, **options: object) -> list[NewArticle]:
    return list(new_articles.read_sources([str(source) for source in sources], **options))  # type: ignore[arg-type]


@pytest.fixture
def table(tmp_path: Path) -> dict[str, Path]:
    """The same two rows as JSONL, CSV and Parquet."""
    rows = pd.DataFrame(
        {"id": ["a1", "a2"], "article": ["One.", "Two."], "body": ["Eins.", "Zwei."]}
    )
    paths = {kind: tmp_path / f"rows.{kind}" for kind in ("jsonl", "csv", "parquet")}
    rows.to_json(paths["jsonl"], orient="records", lines=True)
    rows.to_csv(paths["csv"], index=False)
    rows.to_parquet(paths["parquet"])
    return paths


def test_files_are_read_in_their_order(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_bytes(b"\xef\xbb\xbfThe caf\xc3\xa9\r\nclosed.\n")
    (tmp_path / "a").write_text("No ending at all.")
    assert read(tmp_path / "b.txt", tmp_path / "a") == [
        NewArticle(str(tmp_path / "b.txt"), "The café\nclosed."),
        NewArticle(str(tmp_path / "a"), "No ending at all."),
    ]


@pytest.mark.parametrize("name", ["page.html", "page.HTM", "saved", "page.txt"])
def test_a_page_is_read_as_one_whatever_its_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(PAGE.format(LONG))
    assert read(tmp_path / name)[0].text == LONG.strip()


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_rows_of_a_table_are_articles(table: dict[str, Path], kind: str) -> None:
    source = str(table[kind])
    assert read(source) == [NewArticle(source, "One.", "a1"), NewArticle(source, "Two.", "a2")]
    named = read(source, columns=Columns("article", "body"))
    assert [(row.text, row.id) for row in named] == [("One.", "Eins."), ("Two.", "Zwei.")]
    assert read(source, columns=Columns("body"))[1].name == f"{source} a2"


def test_rows_without_ids_are_numbered(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"article": "One."}\n{"article": "Two."}\n')
    assert [row.id for row in read(tmp_path / "rows.jsonl")] == ["row 1", "row 2"]


def test_a_folder_gives_its_files_of_known_kinds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("b.txt", "a.md", ".hidden.txt", "photo.png"):
        (tmp_path / name).write_text(f"Text of {name}.")
    (tmp_path / "deeper.txt").mkdir()
    (tmp_path / "c.jsonl").write_text('{"article": "A row."}\n')
    assert [row.text for row in read(tmp_path)] == ["Text of a.md.", "Text of b.txt.", "A row."]
    assert capsys.readouterr().err == f"{tmp_path}: 1 file of another kind is left out: photo.png\n"


def test_standard_input_is_utf_8_whatever_the_machine_s_encoding(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stdin = SimpleNamespace(buffer=io.BytesIO("Café.".encode()), encoding="ascii")
    monkeypatch.setattr(sys, "stdin", stdin)
    assert read("-") == [NewArticle("-", "Café.")]


def test_an_address_is_fetched_only_where_that_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(
        new_articles, "fetch_article", lambda address: asked.append(address) or "Its article."
    )
    with pytest.raises(UserError, match="is an address: --fetch allows to fetch it"):
        read("https://news.test/a")
    assert asked == []
    assert read("HTTPS://news.test/a", fetch=True) == [
        NewArticle("HTTPS://news.test/a", "Its article.")
    ]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.txt", b"", "a.txt is empty: there is nothing to summarize"),
        ("a.txt", b" \x00\n", "a.txt is empty"),
        (
            "a.txt",
            "Café".encode("latin-1"),
            "a.txt is not UTF-8: unexpected end of data at byte 3: save it as UTF-8",
        ),
        (
            "a.txt",
            gzip.compress(gzip.compress(b"Twice.", mtime=0), mtime=0),
            "a.txt is compressed: decompress it",
        ),
        ("none.txt", None, "none.txt is not a file: give files, folders, or -"),
        ("a\x00b", None, "cannot be read: embedded null byte"),
        ("a.jsonl", b"", "a.jsonl holds no row"),
        ("a.jsonl", b'{"html": "x"}', "row 1 has no column 'article' (it has html): name it with"),
        ("a.jsonl", b'{"articel": "x"}', "did you mean 'articel'?"),
        ("a.jsonl", b'{"article": 3}', "row 1: column 'article' is not text: it is of type int"),
        ("a.jsonl", b'{"article": "x"}\n{"article": " "}', "row 2: column 'article' is empty"),
        ("a.jsonl", b'{"article": "x"}\n{"artic', "a.jsonl line 2 is not JSON: Unterminated"),
    ],
)
def test_what_cannot_be_summarized_is_told(
    tmp_path: Path, name: str, content: bytes | None, expected: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=re.escape(expected)):
        read(f"{tmp_path}/{name}")


def test_an_empty_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"holds no file of articles \(\.txt"):
        read(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Secret.")
    (tmp_path / "a.txt").chmod(0)
    with pytest.raises(UserError, match=r"cannot be read: .*Permission denied"):
        read(tmp_path / "a.txt")


def test_a_wrong_id_column_is_told_before_anything_is_written(table: dict[str, Path]) -> None:
    with pytest.raises(UserError, match=r"no column 'key' \(it has id, article, body\)"):
        read(table["csv"], columns=Columns(id="key"))


def test_json_lines_of_any_text_come_back(tmp_path: Path) -> None:
    texts = ["Ünïcödé – “quotes”", "tab\there", "a\nb"]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps({"article": t}) + "\n" for t in texts))
    assert [row.text for row in read(tmp_path / "x.jsonl")] == texts


def test_what_cannot_be_read_is_named_and_the_others_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "pages"
    folder.mkdir()
    for name in ("a.html", "c.html"):
        (folder / name).write_text(PAGE.format(LONG))
    (folder / "b.html").write_text("<!doctype html><html><body></body></html>")
    (folder / "d.txt").write_bytes(b"")
    (folder / "e.csv.gz").write_bytes(b"\x1f\x8bno gzip")
    (folder / "f.jsonl").write_text('{"text": "One."}\n{"text": ""}\n{"te\n{"text": "Two."}\n')
    (folder / "g.txt").symlink_to("nowhere.txt")
    (folder / "h.html").write_text("Plain.")
    mail = "From: a@n.test\nSubject: News\n\nMailed."  # without MIME-Version
    (folder / "i.eml").write_text(mail)
    (tmp_path / "list").write_text("# two\nhttps://n.test/1\nhttps://n.test/2\nn.test/3\n")

    def fetched(address: str) -> str:
        if address.endswith("2"):
            raise Failure(f"{address} could not be fetched: 404")
        return "Web."

    monkeypatch.setattr(new_articles, "fetch_article", fetched)
    failed: list[NutgrafError] = []
    sources = [folder, tmp_path / "gone.txt", tmp_path / "list"]
    articles = read(*sources, fetch=True, failed=failed)
    assert [article.text for article in articles] == [
        LONG.strip(),
        LONG.strip(),
        "One.",
        "Two.",
        "Plain.",
        "Mailed.",
        "Web.",
    ]
    complaints = "\n".join(map(str, failed))
    for name, reason in (
        ("b.html", "is HTML in which no article was found"),
        ("d.txt", "is empty"),
        ("e.csv.gz", "cannot be read"),
        ("f.jsonl row 2", "column 'text' is empty"),
        ("f.jsonl line 3", "is not JSON"),
        ("g.txt", "is not a file"),
        ("gone.txt", "is not a file"),
        ("n.test/2", "could not be fetched: 404"),
        ("list: 'n.test/3'", "is no http or https address"),
    ):
        assert re.search(f"{re.escape(name)}.* {re.escape(reason)}", complaints)
    assert len(failed) == 9


def test_rows_on_standard_input_are_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    for rows in (
        '{"article": "One."}\n{"article": "Two."}\n',
        '[{"text": "One."}, {"text": "Two."}]',
    ):
        stdin = SimpleNamespace(buffer=io.BytesIO(rows.encode()))
        monkeypatch.setattr(sys, "stdin", stdin)
        assert [row.text for row in read("-")] == ["One.", "Two."]


def test_a_compressed_text_and_one_in_utf_16_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"News."))
    (tmp_path / "b.txt").write_bytes("Caf\xe9.".encode("utf-16"))
    (tmp_path / "c.text").write_bytes(PAGE.format(LONG).encode("utf-16"))
    assert [row.text for row in read(tmp_path)] == ["News.", "Caf\xe9.", LONG.strip()]
