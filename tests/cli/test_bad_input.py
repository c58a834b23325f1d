"""What cannot be used: one line and a status, whatever the command; or a row left out, and why."""

from __future__ import annotations

import gzip
import json
import os
import sys
from collections.abc import Callable
from io import BytesIO, TextIOWrapper
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from transformers import PreTrainedTokenizerBase

from nutgraf.cli import main
from nutgraf.config import Config, ModelConfig, PromptConfig
from nutgraf.core.errors import Failure, UserError, one_line
from nutgraf.core.files import read_json, read_records
from nutgraf.data import article_store, load, new_articles
from nutgraf.data.prompts import Renderer
from nutgraf.data.sources import SPLITS
from nutgraf.data.text import clean_text
from nutgraf.modeling.load import load_tokenizer
from nutgraf.pipeline.stages import prepare

ErrorLine = Callable[..., str]


def row(i: int, **changes: Any) -> dict[str, Any]:
    return {
        "id": f"r{i}",
        "article": f"Story {i}, told at length.",
        "highlights": f"Story {i}.",
        **changes,
    }


def jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return load_tokenizer(ModelConfig())


@pytest.fixture(autouse=True)
def one_tokenizer(monkeypatch: pytest.MonkeyPatch, tokenizer: PreTrainedTokenizerBase) -> None:
    monkeypatch.setattr(prepare, "load_tokenizer", lambda config: tokenizer)


@pytest.fixture
def prepared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Path]:
    """Runs `nutgraf prepare` on files for train, validation and test; returns data/."""

    def run(train: Path, *words: str, validation: Path | None = None, test: Path | None = None):
        files = {
            "train": train,
            "validation": validation or jsonl(tmp_path / "ok-v.jsonl", [row(n) for n in (90, 91)]),
            "test": test or jsonl(tmp_path / "ok-t.jsonl", [row(n) for n in (95, 96)]),
        }
        data_options = [
            word for split, path in files.items() for word in (f"--data.{split}", str(path))
        ]
        status = main.main(["prepare", "--run", str(tmp_path / "run"), *data_options, *words])
        output = capsys.readouterr()
        assert status == 0, output.err
        return tmp_path / "run" / "data"

    return run


@pytest.fixture
def error_line(capsys: pytest.CaptureFixture[str]) -> ErrorLine:
    """The one line that a command which must fail leaves; nothing is printed as a result."""

    def run(*words: str, status: int = 2) -> str:
        assert main.main(words) == status
        out, err = capsys.readouterr()
        *before, line = err.splitlines()
        assert out == ""
        assert line.startswith("nutgraf: ")
        assert not any(text.startswith("nutgraf: ") for text in before)
        assert line.isprintable()
        assert len(line) < 1_100
        assert "Traceback" not in err
        return line

    return run


# Every command, every bad file.


def unreadable(path: Path) -> None:
    path.symlink_to("/proc/self/mem")  # a file that nobody can read from its beginning


def truncated(path: Path) -> None:
    pq.write_table(pa.Table.from_pylist([row(n) for n in range(50)]), path)
    path.write_bytes(path.read_bytes()[:-40])


def as_text(content: str | bytes) -> Callable[[Path], object]:
    raw = content.encode() if isinstance(content, str) else content
    return lambda path: path.write_bytes(raw)


def as_parquet(**columns: list[Any] | pa.Array) -> Callable[[Path], object]:
    return lambda path: pq.write_table(pa.table(columns), path)


HEAD = "id,article,highlights\n"
BAD_TABLES: list[tuple[str, Callable[[Path], object], str]] = [
    ("gone.jsonl", lambda path: None, "does not exist"),
    ("folder.jsonl", Path.mkdir, "is not a file"),
    ("folder.parquet", Path.mkdir, "is not a file"),
    ("pipe.csv", os.mkfifo, "is not a file"),
    ("closed.jsonl", unreadable, "cannot be read"),
    ("closed.parquet", unreadable, "cannot be read"),
    ("circle.csv", lambda path: path.symlink_to(path), "cannot be opened"),
    (f"{'long' * 99}.csv", lambda path: None, "File name too long"),
    ("a\x1b[31mred.jsonl", lambda path: None, "a\\x1b[31mred.jsonl"),
    ("a\u202egpj.jsonl", lambda path: None, "a\\u202egpj.jsonl does not exist"),
    ("empty.jsonl", as_text(""), "no "),
    ("empty.csv", as_text(""), "no "),
    ("header.csv", as_text(HEAD), "no "),
    ("nothing.parquet", as_parquet(article=[], highlights=[]), "no "),
    ("cut.jsonl", as_text('{"article": "x", "highl'), "not JSON"),
    ("deep.jsonl", as_text("[" * 100_000), "nested too deeply"),
    ("huge.jsonl", as_text(f'{{"article": {"9" * 5_000}}}'), "not JSON"),
    ("twice.jsonl", as_text('{"article": "x", "article": "y"}'), "'article' stands twice"),
    ("list.jsonl", as_text("[1, 2]\n"), "list found, an object"),
    ("number.jsonl", as_text("NaN\n"), "float found, an object"),
    ("latin.jsonl", as_text(json.dumps(row(1)).replace("told", "é").encode("latin-1")), "UTF-8"),
    ("utf16.jsonl", as_text(json.dumps(row(1)).encode("utf-16")[:-1]), "cannot be read"),
    ("mixed.csv", as_text(f"{HEAD}1,où,".encode() + b"caf\xe9\n"), "not UTF-8"),
    ("cut.csv.gz", as_text(gzip.compress(HEAD.encode() * 99, mtime=0)[:-9]), "cannot be read"),
    ("book.xlsx", as_text(b"PK\x03\x04..."), "is a workbook"),
    ("lfs.jsonl", as_text(b"version https://git-lfs.github.com/spec/v1\n"), "run `git lfs pull`"),
    ("keys.json", as_text('{"a": [{"x": 1}], "b": [{"x": 1}]}'), "has rows below 'a', 'b'"),
    ("page.csv", as_text("<!DOCTYPE html><title>404</title>"), "is a web page, not a table"),
    ("cut.json", as_text('[\n{"article": "x"},\n'), "not JSON: Expecting value (line 3"),
    ("ragged.csv", as_text(f"{HEAD}1,a, b, c\n"), "4 cells, the header has 3"),
    ("short.csv", as_text(f"{HEAD}1,a\n"), "2 cells, the header has 3"),
    ("open.csv", as_text(f'{HEAD}1,"a,b\n2,c,d\n'), "line 2 is never closed"),
    ("quote.csv", as_text(f'{HEAD}1,"a"b,c\n'), "not CSV"),
    ("twice.csv", as_text("article,article,highlights\na,b,c\n"), "column 'article' twice"),
    ("other.csv", as_text("html;highlights\nx;y\n"), "has no column '"),
    ("tab.csv", as_text("art\x0bikel,highlights\nx,y\n"), "art\\x0bikel"),
    ("wide.csv", as_text(",".join(f"c{n}" for n in range(9_999)) + "\n"), "no "),
    ("text.parquet", as_text("article,highlights\n"), "cannot be read"),
    ("cut.parquet", truncated, "cannot be read"),
    ("numbers.parquet", as_parquet(article=[1, 2], highlights=["a", "b"]), "of type int"),
    ("lists.parquet", as_parquet(article=[["x"]], highlights=["a"]), "of type list"),
    ("null.parquet", as_parquet(article=[None], highlights=["a"]), "missing"),
    ("blank.jsonl", as_text(json.dumps(row(1, article=" \u200b\ufeff\x00\n"))), "empty"),
    ("cjk.jsonl", as_text(json.dumps(row(1, highlights="桥被关闭了。"))), "the letters a-z"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "make", "expected"), BAD_TABLES, ids=lambda v: str(v)[:20])
@pytest.mark.parametrize("command", ["prepare", "score"])
def test_a_file_that_cannot_be_used_is_told_in_one_line(
    error_line: ErrorLine, tmp_path: Path, command: str, name: str, make: Callable[[Path], object],
    expected: str,
) -> None:  # fmt: skip
    path = tmp_path / name
    make(path)
    if command == "score":
        line = error_line(
            "score", str(path), "--reference", "highlights", "--summary", "highlights",
            "--article", "article",
        )  # fmt: skip
    else:
        good = str(jsonl(tmp_path / "good.jsonl", [row(1)]))
        line = error_line(
            "prepare", "--run", str(tmp_path / "run"), "--data.train", str(path),
            "--data.validation", good, "--data.test", str(jsonl(tmp_path / "t.jsonl", [row(2)])),
        )  # fmt: skip
        assert not (tmp_path / "run" / "data").exists()
    assert expected in line
    assert one_line(path.name, 200)[:100] in line


@pytest.mark.parametrize("command", ["prepare", "score", "summarize"])
def test_a_nul_in_a_name_is_told_in_one_line(
    error_line: ErrorLine, tmp_path: Path, model: Path, command: str
) -> None:
    words = {
        "prepare": ["--run", str(tmp_path), "--data.source", "a\0.jsonl"],
        "score": ["a\0.jsonl", "--reference", "highlights", "--summary", "highlights"],
        "summarize": ["--model", str(model), "a\0.txt"],
    }[command]
    assert "a\\x00" in error_line(command, *words)


BAD_ARTICLES: list[tuple[Callable[[Path], object], str]] = [
    (lambda path: None, "is not a file"),
    (Path.mkdir, "holds no file of articles"),
    (unreadable, "cannot be read"),
    (lambda path: path.symlink_to(path), "cannot be read"),
    (as_text(""), "is empty"),
    (as_text("\ufeff \u200b\n\x00\x1b"), "is empty"),
    (as_text("News.".encode("utf-16")[:-1]), "not UTF-8: truncated data at byte 10"),
    (as_text(b"caf\xe9 news"), "not UTF-8: invalid continuation byte at byte 3"),
    (as_text(b"PK\x03\x04\xff\xfe"), "is a workbook, a document or an archive"),
    (as_text(b"%PDF-1.7\n%\xe2"), "is PDF: save its text as .txt"),
    (as_text(b"version https://git-lfs.github.com/spec/v1\noid sha256:0"), "run `git lfs pull`"),
    (as_text(gzip.compress(b"News." * 99, mtime=0)[:-4]), "cannot be read"),
]


@pytest.mark.parametrize(("make", "expected"), BAD_ARTICLES, ids=[e for _, e in BAD_ARTICLES])
def test_an_article_that_cannot_be_used_is_told_in_one_line(
    error_line: ErrorLine,
    tmp_path: Path,
    model: Path,
    make: Callable[[Path], object],
    expected: str,
) -> None:
    path = tmp_path / "story\x1b[2J.txt"
    make(path)
    line = error_line("summarize", "--model", str(model), str(path))
    assert expected in line
    assert "story\\x1b[2J.txt" in line


@pytest.mark.parametrize(
    ("raw", "expected"),
    [(b"", "- is empty"), (b"caf\xe9", "- is not UTF-8: unexpected end of data at byte 3")],
)
def test_standard_input_that_cannot_be_used(
    error_line: ErrorLine, monkeypatch: pytest.MonkeyPatch, model: Path, raw: bytes, expected: str
) -> None:
    monkeypatch.setattr(sys, "stdin", TextIOWrapper(BytesIO(raw), encoding="ascii"))
    assert expected in error_line("summarize", "--model", str(model), "-")


def test_standard_input_is_utf8_whatever_the_locale(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = "\ufeffЗдравствуйте, café".encode()
    monkeypatch.setattr(sys, "stdin", TextIOWrapper(BytesIO(raw), encoding="ascii"))
    assert [read.text for read in new_articles.read_sources(["-"])] == ["Здравствуйте, café"]


@pytest.mark.parametrize("content", [b"{", b"[]", b"{}", b"\xff", b"[" * 100_000, b'{"base": 1}'])
def test_a_damaged_recipe_of_a_model(error_line: ErrorLine, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "nutgraf.json").write_bytes(content)
    line = error_line("summarize", "--model", str(tmp_path), "a.txt")
    assert f"{tmp_path}/nutgraf.json is damaged" in line


@pytest.mark.parametrize("content", [b"", b"hello" * 99, None])
def test_a_damaged_adapter(
    error_line: ErrorLine, model: Path, tmp_path: Path, content: bytes | None
) -> None:
    from safetensors.torch import save_file
    from torch import zeros

    weights = model / "adapter_model.safetensors"
    (model / "adapter_config.json").write_text(
        '{"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 4, "target_modules": ["q_proj"]}'
    )
    if content is None:
        save_file({"something.else": zeros(1)}, weights)
    else:
        weights.write_bytes(content)
    (tmp_path / "a.txt").write_text("News.")
    line = error_line("summarize", "--model", str(model), str(tmp_path / "a.txt"))
    assert f"{model} is damaged or of another base" in line


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
def test_a_damaged_base(tmp_path: Path, tiny_base: Path, name: str) -> None:
    from nutgraf.modeling.load import load_base

    for file in tiny_base.iterdir():
        (tmp_path / file.name).write_bytes(b"{}" if file.name == name else file.read_bytes())
    config = ModelConfig(base=str(tmp_path))
    with pytest.raises(UserError, match=r"model\.base .* could not be loaded \("):
        (load_tokenizer if name == "tokenizer.json" else load_base)(config)


# Rows left out.


def test_rows_left_out_are_listed_with_number_id_and_reason(tmp_path, prepared):
    good = [json.dumps(row(n)).encode() for n in range(40)]
    bad: list[tuple[bytes, str | None, str]] = [
        (json.dumps(row(50, article=None)).encode(), "r50", "article missing"),
        (json.dumps(row(51, article="\u00a0\u200b")).encode(), "r51", "article empty"),
        (json.dumps({"id": "r52", "article": "x"}).encode(), "r52", "summary missing"),
        (json.dumps(row(53, highlights=["x"])).encode(), "r53", "summary not text"),
        (json.dumps(row(54, highlights="桥。")).encode(), "r54", "summary without a word"),
        (json.dumps(row(0)).encode(), "r0", "id of an earlier row"),
        (json.dumps(row(55, id={"a": 1})).encode(), None, "id not text"),
        (json.dumps(row(56, highlights="word " * 900)).encode(), "r56", "summary too long"),
        (b'{"id": "r57", "article": "caf\xe9"}', None, "row not UTF-8"),
        (b'{"id": "r58", "article": "x', None, "row not JSON"),
        (b'"only a text"', None, "row no object"),
        (json.dumps(row(3, id="r60")).encode(), "r60", "article of an earlier row"),
        (json.dumps(row(90, id="r61")).encode(), "r61", "article in validation too"),
        (json.dumps(row(95, id="r62")).encode(), "r62", "article in test too"),
    ]
    path = tmp_path / "mixed.jsonl"
    path.write_bytes(b"\n".join([*good, *(line for line, *_ in bad)]))
    data = prepared(path, "--data.max-rejected", "0.3")
    left_out = read_records(data / "rejects.jsonl")
    expected = [("train", 41 + n, name, reason) for n, (_, name, reason) in enumerate(bad)]
    listed = [(r["split"], r["row"], r["id"], r["reason"]) for r in left_out]
    assert sorted(listed, key=lambda r: r[1]) == expected
    details = {r["reason"]: r["detail"] for r in left_out}
    assert details["row not UTF-8"] == "line 49: invalid continuation byte (byte 30)"
    assert details["row not JSON"].startswith("line 50: Unterminated string")
    assert "lower" in details["summary too long"] or "raise prompt" in details["summary too long"]
    train = read_json(data / "card.json")["splits"]["train"]
    assert (train["rows_read"], train["sampled"]) == (54, 40)
    assert (sum(train["rejected"].values()), sum(train["removed"].values())) == (11, 3)


def test_ragged_rows_are_left_out_of_a_csv(tmp_path, prepared):
    rows = [f'{n},"Story {n}, told",Story {n}.' for n in range(40)]
    rows[7] = "7,one,two,three"
    rows[9] = "9,one"
    rows[11] = '11,"a"b,c'
    path = tmp_path / "a.csv"
    rows[13] = "13,où,a"
    path.write_bytes("\r\n".join([HEAD.strip(), *rows]).encode() + b"\r\n99,caf\xe9,x\r\n")
    data = prepared(path, "--data.max-rejected", "0.2")
    left_out = [(r["row"], r["reason"]) for r in read_records(data / "rejects.jsonl")]
    assert left_out == [
        (8, "row ragged"), (10, "row ragged"), (12, "row not CSV"), (41, "row not UTF-8"),
    ]  # fmt: skip
    assert len(article_store.read_split(data / "train.parquet")) == 37


def test_parquet_rows_that_are_not_utf8_or_out_of_range_are_left_out(tmp_path, prepared):
    texts = [f"Story {n}, told.".encode() for n in range(40)]
    texts[5] = b"caf\xe9"
    raw = pa.array(texts, pa.binary())
    broken = pa.Array.from_buffers(pa.string(), len(raw), raw.buffers())
    when = pa.array([0] * 39 + [2**30], pa.date32())
    summaries = [f"Story {n}." for n in range(40)]
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"article": broken, "highlights": summaries, "when": when}), path)
    data = prepared(path)
    left_out = [(r["row"], r["reason"]) for r in read_records(data / "rejects.jsonl")]
    assert left_out == [(6, "row not UTF-8"), (40, "row out of range")]


def test_more_than_a_twentieth_stops_and_the_setting_allows_more(tmp_path, prepared, error_line):
    path = jsonl(
        tmp_path / "a.jsonl", [row(n, **({"article": ""} if n < 3 else {})) for n in range(40)]
    )
    data = prepared(path, "--data.max-rejected", "0.075")
    assert len(article_store.read_split(data / "train.parquet")) == 37
    words = [w for split in SPLITS for w in (f"--data.{split}", str(path))]
    line = error_line("prepare", "--run", str(tmp_path / "other"), *words)
    assert "3 of 40 rows of" in line
    assert "more than 5%: 3 article empty; the first is row 1 ('r0')" in line
    assert "raise data.max_rejected (now 0.05)" in line


def test_one_file_with_a_split_column_counts_what_says_no_split_once(tmp_path):
    rows = [row(n) | {"split": split} for n, split in enumerate([*SPLITS, "", None, "spare"] * 9)]
    path = jsonl(tmp_path / "a.jsonl", [r | {"id": None} for r in rows])
    data = Config().data.model_copy(update={"source": str(path), "max_rejected": 0.9})
    splits = {split: load.load_articles(data, split) for split in SPLITS}
    assert [len(splits[split].articles) for split in SPLITS] == [9, 9, 9]
    assert [len(splits[split].rejected) for split in SPLITS] == [18, 0, 0]
    assert splits["train"].rejected[0].row == 4
    assert [len(splits[split].removed) for split in SPLITS] == [9, 0, 0]
    assert splits["train"].removed[0].reason == "row of another split"
    assert splits["train"].notes == ("column 'split' names other splits, left out: 9 'spare'",)


# Overlap.


def test_articles_of_the_test_are_removed_and_the_next_ones_take_their_places(tmp_path, prepared):
    path = jsonl(tmp_path / "all.jsonl", [row(n) for n in range(60)])
    words = ["--data.train-examples", "30", "--data.validation-examples", "10",
             "--data.test-examples", "10", "--train.eval-examples", "4"]  # fmt: skip
    data = prepared(path, *words, validation=path, test=path)
    drawn = {split: article_store.read_split(data / f"{split}.parquet") for split in SPLITS}
    assert [len(drawn[split]) for split in SPLITS] == [30, 10, 10]
    assert len({a.article for split in SPLITS for a in drawn[split]}) == 50
    card = read_json(data / "card.json")
    assert card["splits"]["train"]["removed"] == {
        "article in test too": 10, "article in validation too": 10,
    }  # fmt: skip
    assert card["splits"]["validation"]["removed"] == {"article in test too": 10}
    assert (
        "train: of 60 rows removed: 10 article in test too, 10 article in validation too"
        in (card["warnings"])
    )
    assert not any("OVERLAP" in line for line in card["warnings"])


def test_a_removed_article_leaves_the_draw_of_the_others_as_it_is(tmp_path):
    path = str(jsonl(tmp_path / "all.jsonl", [row(n) for n in range(60)]))
    settings = dict.fromkeys(SPLITS, path) | {"train_examples": None, "test_examples": 10}
    data = Config(data=settings).data
    test = load.load_articles(data, "test")
    alone = load.load_articles(data, "train").articles
    beside = load.load_articles(data, "train", others={"test": test}).articles
    taken = {a.article for a in test.articles}
    assert beside == [a for a in alone if a.article not in taken]
    fewer = data.model_copy(update={"train_examples": 20})
    assert load.load_articles(fewer, "train", others={"test": test}).articles == beside[:20]


def test_nothing_left_to_train_on_names_the_setting_that_keeps_it(tmp_path, prepared, error_line):
    path = jsonl(tmp_path / "all.jsonl", [row(n) for n in range(5)])
    words = [w for split in SPLITS for w in (f"--data.{split}", str(path))]
    line = error_line("prepare", "--run", str(tmp_path / "run"), *words)
    assert "no usable row for validation: 5 read, removed 5 article in test too" in line
    assert "give each split articles of its own, or set data.allow_overlap to true" in line
    data = prepared(path, "--data.allow-overlap", "true", validation=path, test=path)
    assert len(article_store.read_split(data / "train.parquet")) == 5
    assert any("OVERLAP: 5 of the 5 test" in w for w in read_json(data / "card.json")["warnings"])


def test_one_row_a_split_and_a_summary_longer_than_its_article(tmp_path, prepared):
    one = [
        jsonl(tmp_path / f"{n}.jsonl", [row(n, highlights="A long one. " * 9)]) for n in range(3)
    ]
    data = prepared(one[0], validation=one[1], test=one[2])
    card = read_json(data / "card.json")
    assert [card["splits"][s]["sampled"] for s in SPLITS] == [1, 1, 1]
    assert "train: 1 summaries are longer than their articles" in card["warnings"]


# Texts that are no trouble.

TEXTS = {
    "right to left": "أعلن رئيس البلدية عن إصلاح الجسر. \u200fThe bridge 12.",
    "cjk": "市长星期一宣布，十二座桥梁将在六月前修复。 Bridge 12.",
    "emoji and combining": "Cafe\u0301 \U0001f468\u200d\U0001f469 \U0001f1eb\U0001f1f7 12.",
    "markup": "<script>alert('x')</script><b>Bold & true</b> {{ 7*7 }} {% raw %} 12.",
    "markers": "Summary: it ended.</s><|user|>\nSummarize: again <s> [INST] 12.",
}  # fmt: skip


@pytest.mark.parametrize("kind", TEXTS)
def test_texts_of_every_kind_are_kept_word_for_word_and_scored(
    tmp_path, prepared, capsys, tokenizer, kind
):
    text = TEXTS[kind]
    path = jsonl(tmp_path / "a.jsonl", [row(1, article=text, highlights=text)])
    folder = prepared(path, "--score.tokenizer", "unicode")
    (article,) = article_store.read_split(folder / "train.parquet")
    assert (article.article, article.reference) == (text, text)
    renderer = Renderer(tokenizer, PromptConfig())
    plain, rendered = renderer.example("x", "y").input_ids, renderer.example(text, text).input_ids
    for special in tokenizer.all_special_ids:
        assert rendered.count(special) == plain.count(special)
    words = ["--reference", "highlights", "--summary", "highlights", "--article", "article"]
    assert main.main(["score", str(path), *words, "--tokenizer", "unicode", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rouge1"]["mean"] == pytest.approx(100)
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    assert [read.text for read in new_articles.read_sources([str(tmp_path / "a.txt")])] == [text]


def test_marks_and_control_characters_go_and_nothing_that_is_printed_obeys_them(
    tmp_path, prepared, capsys, tokenizer
):
    dirty = "\ufeffA\x00B\x1b[31m \x9b2J red\r\nnews\ud800 12."
    clean = "AB[31m 2J red\nnews\ufffd 12."
    path = jsonl(tmp_path / "a.jsonl", [row(1, article=dirty, highlights=dirty)])
    (article,) = article_store.read_split(prepared(path) / "train.parquet")
    assert (article.article, article.reference) == (clean, clean)
    renderer = Renderer(tokenizer, PromptConfig())
    assert renderer.prompt(dirty).ids == renderer.prompt(clean).ids
    written = tokenizer("A\x1b[31m B\x9b.", add_special_tokens=False)["input_ids"]
    assert renderer.text(written) == clean_text("A\x1b[31m B\x9b.") == "A[31m B."
    assert main.main(["score", str(path), "--reference", "highlights", "--summary", "article"]) == 0
    assert "\x1b" not in capsys.readouterr().out


# Secrets.

TOKEN = "hf_" + "Ab3dEf9hIj" * 3 + "kLmN"


@pytest.mark.parametrize(
    "words",
    [
        ["--data.source", f"https://me:{TOKEN}@huggingface.co/datasets/a/b"],
        ["--data.source", "https://me:secret@example.org/a/b"],
        ["--model.base", TOKEN],
        ["--rivals.x.model", f"a/{TOKEN}"],
        ["--lora.target-modules", f"[{TOKEN}]"],
    ],
)
def test_a_setting_with_a_token_or_a_password_is_refused_and_not_repeated(
    error_line, tmp_path, words
):
    line = error_line("prepare", "--run", str(tmp_path / "run"), *words)
    name = words[0].removeprefix("--").replace("-", "_")
    assert f"{name} holds a token or a password" in line
    assert "HF_TOKEN" in line
    assert TOKEN not in line
    assert "secret@" not in line
    assert not (tmp_path / "run").exists()


def test_no_error_and_no_file_tells_a_token(error_line, monkeypatch, tmp_path, prepared):
    def hub(*args: object, **kwargs: object) -> None:
        raise OSError(
            f"401 for https://x:{TOKEN}@huggingface.co, Authorization: Bearer {TOKEN}; plain-s3cret"
        )

    monkeypatch.setenv("HF_TOKEN", "plain-s3cret")
    monkeypatch.setattr("datasets.load_dataset", hub)
    line = error_line("prepare", "--run", str(tmp_path / "run"), "--data.source", "a/b", status=1)
    assert "401 for https://…@huggingface.co" in line
    assert "Hub did not give 'a/b'" in line
    path = jsonl(
        tmp_path / "a.jsonl", [row(1, id=None, highlights=7), *(row(n) for n in range(2, 40))]
    )
    prepared(path)
    for file in (p for p in tmp_path.rglob("*") if p.is_file()):
        assert TOKEN.encode() not in file.read_bytes()
        assert b"s3cret" not in file.read_bytes()
    for text in (line, str(UserError(f"see {TOKEN}")), str(Failure(f"as {TOKEN}\nhere"))):
        assert TOKEN not in text
        assert "s3cret" not in text


# The line itself.


def test_an_error_is_one_visible_line_however_it_is_made():
    error = UserError("a\x1b[31m\nb\x0b\u202ec\ud800 d\u00a0e\x00\u2028f")
    assert str(error) == "a\\x1b[31m b \\u202ec\\ud800 d e\\x00 f"
    assert str(UserError(str(error))) == str(error)
    long = str(UserError("head " + "x" * 100_000 + " tail"))
    assert len(long) == 1_000
    assert long.startswith("head xxx")
    assert long.endswith("xxx tail")
    assert " … " in long
    assert one_line("café 桥 \U0001f600") == "café 桥 \U0001f600"


def test_output_is_utf8_whatever_the_locale(monkeypatch, tmp_path):
    out = BytesIO()
    monkeypatch.setattr(sys, "stdout", TextIOWrapper(out, encoding="ascii"))
    monkeypatch.setattr(
        "nutgraf.cli.summarize.run", lambda *a, **k: print('{"file": "caf\udce9 é"}', flush=True)
    )
    assert main.main(["summarize", "--model", "m", "a.txt"]) == 0
    assert json.loads(out.getvalue().decode()) == {"file": "caf\udce9 é"}
