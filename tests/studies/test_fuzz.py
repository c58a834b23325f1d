"""Thousands of made-up inputs: a result, or an error of one line; never a traceback.

Hypothesis draws them the same way each time. `FUZZ=20 pytest tests/studies/test_fuzz.py`
tries twenty times as many, drawn anew.
"""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from nutgraf.cli import main, score_file
from nutgraf.config import Config, DataConfig, ModelConfig, PromptConfig
from nutgraf.config.load import build_config, load_config, setting_fields, to_yaml
from nutgraf.core.errors import MAX_LENGTH, NutgrafError, UserError, one_line
from nutgraf.data import article_store, data_card, load
from nutgraf.data.prompts import Renderer
from nutgraf.data.text import TextError, clean_text, usable_text
from nutgraf.evaluation import rouge, scores
from nutgraf.modeling import saved_model
from nutgraf.modeling.load import load_tokenizer
from nutgraf.pipeline import runner

MORE = int(os.environ.get("FUZZ", "1"))


def fuzz(cases: int) -> settings:
    return settings(
        max_examples=cases * MORE,
        derandomize=MORE == 1,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


@contextlib.contextmanager
def one_line_at_most() -> Iterator[None]:
    """The block does its work or raises an error that a person reads, on one visible line."""
    try:
        yield
    except NutgrafError as error:
        text = str(error)
        assert text
        assert text.isprintable()
        assert len(text) <= MAX_LENGTH


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


# Texts that have gone wrong before, and any other.
NASTY = st.sampled_from(
    ["", " ", "\0", "\x1b[2J", "\ufeff", "\ud800", "</s>", "Summary:", "<|user|>", "\u202e",
     "\u200b", "a\r\nb", '"', "'", ",", "\\", "{}", "[", "null", "NaN", "1e999", "9" * 5000, "-0",
     "0x_", "2024-99-99", "&a *a", "!!python/object:os.system", "? ", "<<: ", "\t- a", "%YAML 9",
     "é", "hf_" + "a" * 34, "../../etc", "~", "桥", "e\u0301", "\U0001f600", "none", "yes", "=",
     "\ue000"]
)  # fmt: skip
TEXT = NASTY | st.text(max_size=40) | st.lists(NASTY, max_size=4).map("".join)
SCALAR = TEXT | st.none() | st.booleans() | st.integers() | st.floats()
VALUE = st.recursive(
    SCALAR,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
COLUMNS = st.sampled_from(["id", "article", "highlights", "split", "Article", ""])
ROW = st.dictionaries(COLUMNS, VALUE, max_size=4) | st.fixed_dictionaries(
    {"article": TEXT, "highlights": TEXT | st.just("A word.")}, optional={"id": SCALAR}
)


def as_json(value: object) -> bytes:
    return json.dumps(value).encode()


def broken(raw: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """The bytes as they are, cut, or with some of them changed."""

    @st.composite
    def change(draw: st.DrawFn) -> bytes:
        content = bytearray(draw(raw))
        how = draw(st.sampled_from(["whole", "cut", "changed"]))
        if how == "cut":
            return bytes(content[: draw(st.integers(0, len(content)))])
        if how == "changed" and content:
            for _ in range(draw(st.integers(1, 4))):
                content[draw(st.integers(0, len(content) - 1))] = draw(st.integers(0, 255))
        return bytes(content)

    return change()


def drawn_from(path: Path, **options: Any) -> None:
    """All that `prepare` does with a file before any model is asked."""
    data = DataConfig(train=str(path), validation=str(path), test=str(path), **options)
    with one_line_at_most():
        splits: dict[str, load.Split] = {}
        for name in ("test", "validation", "train"):
            splits[name] = load.load_articles(data, name, others=splits)
        for split in splits.values():
            left_out = len(split.rejected) + len(split.removed)
            assert len(split.articles) == min(split.requested or 10**9, split.rows_read - left_out)
            for article in split.articles:
                assert article.article == usable_text(article.article)
                assert article.reference == usable_text(article.reference)
            json.dumps([str(reject) for reject in split.rejected]).encode()
        data_card.build_card(splits)
        article_store.write_split(splits["train"].articles, path.with_suffix(".out"))
        assert article_store.read_split(path.with_suffix(".out")) == splits["train"].articles
    with one_line_at_most():
        columns = {"reference": ["highlights"], "summary": ["highlights"], "article": ["article"]}
        list(score_file._of_table(path, columns))


ALLOWED = st.fixed_dictionaries(
    {"max_rejected": st.sampled_from([0.05, 0.5, 1.0]), "allow_overlap": st.booleans()},
    optional={"train_examples": st.none() | st.integers(1, 5), "seed": st.integers(0, 2**32 - 1)},
)


@fuzz(300)
@given(
    lines=st.lists(broken(ROW.map(as_json)) | st.binary(max_size=30), max_size=6), options=ALLOWED
)
@example(lines=[b"[" * 100_000], options={})
@example(lines=[b"\xff\xfe{"], options={})
def test_jsonl(folder: Path, lines: list[bytes], options: dict[str, Any]) -> None:
    path = folder / "a.jsonl"
    path.write_bytes(b"\n".join(lines))
    drawn_from(path, **options)


@st.composite
def tables(draw: st.DrawFn) -> bytes:
    out = io.StringIO()
    writer = csv.writer(out, quoting=draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])))
    writer.writerow(draw(st.just(["id", "article", "highlights"]) | st.lists(COLUMNS, max_size=4)))
    writer.writerows(draw(st.lists(st.lists(TEXT, min_size=3, max_size=3), max_size=5)))
    return out.getvalue().encode("utf-8", "surrogatepass")


@fuzz(300)
@given(raw=broken(tables()) | st.binary(max_size=60), options=ALLOWED)
def test_csv(folder: Path, raw: bytes, options: dict[str, Any]) -> None:
    path = folder / "a.csv"
    path.write_bytes(raw)
    drawn_from(path, **options)


@st.composite
def parquets(draw: st.DrawFn) -> bytes:
    n = draw(st.integers(0, 4))
    cells = draw(
        st.sampled_from([st.integers(0, 9), st.none(), st.binary(max_size=9), st.just("a")])
    )
    columns = {
        name: draw(st.lists(cells, min_size=n, max_size=n))
        for name in draw(st.lists(COLUMNS, max_size=3, unique=True))
    }
    columns["highlights"] = [f"Word {i}." for i in range(n)]
    out = io.BytesIO()
    pq.write_table(pa.table(columns), out)
    return out.getvalue()


@fuzz(200)
@given(raw=broken(parquets()), options=ALLOWED)
def test_parquet(folder: Path, raw: bytes, options: dict[str, Any]) -> None:
    path = folder / "a.parquet"
    path.write_bytes(raw)
    drawn_from(path, **options)


# The configuration.

NAMES = [name for name, _, _ in setting_fields()]
SECTIONS = sorted({name.split(".")[0] for name in NAMES})


@st.composite
def configurations(draw: st.DrawFn) -> str:
    """YAML with sections and fields that exist, mostly, and values that do not fit, mostly."""
    lines = []
    for section in draw(st.lists(st.sampled_from(SECTIONS) | TEXT, max_size=3)):
        own = [name.split(".", 1)[1] for name in NAMES if name.startswith(f"{section}.")] or ["x"]
        lines.append(f"{section}:")
        for field in draw(st.lists(st.sampled_from(own) | TEXT, max_size=3)):
            value = draw(TEXT | VALUE.map(json.dumps))
            lines.append(draw(st.sampled_from(["  ", " ", "\t", ""])) + f"{field}: {value}")
    return "\n".join(lines)


@fuzz(300)
@given(text=configurations() | TEXT)
@example(text="{" * 5_000)
@example(text="a: &a [x]\nb: &b [*a, *a, *a]\nc: [*b, *b, *b]")
@example(text="!!map [a]")
@example(text="a: !!timestamp x")
def test_yaml(folder: Path, text: str) -> None:
    path = folder / "a.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with one_line_at_most():
        config = load_config(path)
        path.write_text(to_yaml(config), encoding="utf-8")
        assert load_config(path) == config


ODD: list[Any] = [
    None, True, -1, 0, 10**400, 2**64, 0.5, -0.0, float("nan"), float("inf"), "", " ", "x", "\0",
    "1", "1e999", "nan", [], [1], [None], [["x"]], {}, {"x": 1}, {1: 2}, {"low": 1}, {"choices": 5},
    {"low": "a", "high": []}, {"choices": [{}]}, b"x", "\ud800", "a" * 10_000, {"x": {"model": 1}},
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_every_setting_with_every_kind_of_value(name: str) -> None:
    *sections, last = name.replace("NAME", "rival").split(".")
    for value in ODD:
        raw: Any = {last: value}
        for section in reversed(sections):
            raw = {section: raw}
        with one_line_at_most():
            config = build_config(raw)
            assert load_again(config) == config


def load_again(config: Config) -> Config:
    import yaml

    return build_config(yaml.safe_load(to_yaml(config)))


@fuzz(300)
@given(
    overrides=st.dictionaries(
        st.sampled_from(NAMES).map(lambda name: name.replace("NAME", "x")) | TEXT,
        TEXT | VALUE.map(json.dumps), max_size=3,
    )
)  # fmt: skip
def test_overrides(overrides: dict[str, str]) -> None:
    with one_line_at_most():
        assert isinstance(load_config(None, overrides), Config)


WORDS = TEXT | st.sampled_from(
    ["run", "prepare", "score", "summarize", "serve", "export", "--run", "--force", "--json",
     "--model", "--to", "--format", "merged", "--port", "--sentences", "--reference",
     "--summary", "--data.source", "--lora.r=0", "--x.y", "--", "-", "a.jsonl", "a.csv"]
)  # fmt: skip


@fuzz(200)
@given(words=st.lists(WORDS, max_size=6))
def test_command_lines(words: list[str]) -> None:
    out, err = io.StringIO(), io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        patch.setattr(runner, "run_study", lambda *args, **kwargs: False)
        patch.setattr(main, "_print_table", lambda *args: None)
        patch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"News.")))
        status = main.main(words)
    assert status in (0, 1, 2)
    stderr = err.getvalue()
    if status:
        assert stderr.startswith("nutgraf: ")
        assert stderr.endswith("\n")
        assert stderr[:-1].isprintable()


# Texts.


@fuzz(400)
@given(raw=st.binary(max_size=60) | TEXT | VALUE)
def test_a_text_is_clean_or_has_a_reason(raw: object) -> None:
    try:
        text = usable_text(raw)
    except TextError as error:
        reason = error.reason
    else:
        reason = None
    if reason:
        assert reason in ("missing", "not text", "not UTF-8", "empty")
        return
    assert text == clean_text(text) == text.strip() != ""
    assert text.encode().decode() == text
    assert not any(c < " " and c not in "\n\t" for c in text)


@fuzz(400)
@given(text=TEXT, repeat=st.integers(1, 400))
def test_a_message_stays_one_line(text: str, repeat: int) -> None:
    line = one_line(text * repeat)
    assert line.isprintable()
    assert len(line) <= MAX_LENGTH
    assert one_line(line) == line
    assert "hf_aaaaaaaaaaaaaaaaaaaa" not in line


@pytest.fixture(scope="module")
def renderers() -> dict[tuple[str, int], Renderer]:
    tokenizer = load_tokenizer(ModelConfig())
    return {
        (template, limit): Renderer(
            tokenizer,
            PromptConfig(template=template, max_tokens=limit, max_article_tokens=limit - 9),
        )
        for template, limit in itertools.product(("plain", "chat"), (60, 200))
    }


@fuzz(250)
@given(
    article=st.lists(TEXT, max_size=6).map(" ".join),
    summary=TEXT,
    template=st.sampled_from(["plain", "chat"]),
    limit=st.sampled_from([60, 200]),
)
def test_renderer(renderers, article: str, summary: str, template: str, limit: int) -> None:
    renderer = renderers[template, limit]
    with one_line_at_most():
        prompt = renderer.prompt(article)
        assert len(prompt.ids) <= limit
        row = renderer.example(article, summary)
        assert len(row.input_ids) == len(row.labels) <= limit
        assert renderer.text(row.labels[row.prompt_tokens :]) == usable_text(summary)
        assert row.labels.count(row.labels[-1]) == 1  # the end of sequence, and no other


@fuzz(150)
@given(article=TEXT, reference=TEXT, summary=TEXT, filler=st.sampled_from(["", "The mayor 12. "]))
def test_scores(article: str, reference: str, summary: str, filler: str) -> None:
    texts = {"article": filler + article, "reference": filler + reference, "summary": summary}
    with one_line_at_most():
        row = scores.clean_row("row 1", texts)
        measured, _ = scores._measure(row, "rouge-score", several=False, flags=True)
        assert all(0 <= measured[kind] <= 100 + 1e-9 for kind in rouge.ROUGE_TYPES)


@fuzz(150)
@given(raw=broken(VALUE.map(as_json)))
def test_recipes(folder: Path, raw: bytes) -> None:
    (folder / "nutgraf.json").write_bytes(raw)
    with pytest.raises(UserError, match=r"nutgraf\.json is damaged") as caught:
        saved_model.read_saved_model(str(folder))
    assert str(caught.value).isprintable()
