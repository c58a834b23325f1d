"""Summaries of new articles: streamed and in batches, of any length, as text and as JSON."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nutgraf.cli import summarize
from nutgraf.config import GenerateConfig, LoraSettings, ModelConfig, PromptConfig
from nutgraf.core.errors import Failure, UserError
from nutgraf.data.new_articles import NewArticle
from nutgraf.data.prompts import Frame, Renderer
from nutgraf.evaluation.evidence import evidence
from nutgraf.evaluation.support import Checked
from nutgraf.generation import engine
from nutgraf.generation import summarizer as room
from nutgraf.generation.decoding import ends_of
from nutgraf.generation.engine import Transformers
from nutgraf.generation.summarizer import Summarizer, SummaryResult
from nutgraf.modeling import saved_model
from nutgraf.modeling.adapters import fresh_adapter
from nutgraf.modeling.base_identity import base_identity
from nutgraf.modeling.load import choose_device, load_base, load_tokenizer
from nutgraf.modeling.saved_model import SavedModel
from nutgraf.pocket import newswire

EXACT = ModelConfig(dtype="fp32", device="cpu")
NEWS = [story.article for story in newswire.stories("test", 5, seed=3)]


def recipe(model: ModelConfig = EXACT, batch_size: int = 2, **prompt: int) -> SavedModel:
    decoding = GenerateConfig(max_new_tokens=40, batch_size=batch_size)
    return SavedModel(Path(), None, model, PromptConfig(**prompt), decoding, {})


@pytest.fixture(scope="module")
def pocket() -> Iterator[Summarizer]:
    """The pocket model as it is, which copies sentences of the article."""
    with room.load_summarizer(recipe()) as summarizer:
        yield summarizer


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A whole model in a folder, with its recipe: what `nutgraf export` makes."""
    folder = tmp_path / "model"
    load_base(EXACT).save_pretrained(folder)
    load_tokenizer(EXACT).save_pretrained(str(folder))
    written = recipe()
    raw = {"base": base_identity(EXACT)} | {
        name: getattr(written, name).model_dump(mode="json")
        for name in ("model", "prompt", "generate")
    }
    del raw["prompt"]["request"]  # an earlier version had the usual one only
    (folder / saved_model.FILE).write_text(json.dumps(raw))
    return folder


def streamed(
    summarizer: Summarizer, article: str, **options: int
) -> tuple[list[str], SummaryResult]:
    *pieces, written = summarizer.stream(article, **options)
    assert isinstance(written, SummaryResult)
    assert all(isinstance(piece, str) for piece in pieces)
    return [str(piece) for piece in pieces], written


def test_a_stream_shows_what_a_batch_writes(pocket: Summarizer) -> None:
    written = list(pocket.summarize(NEWS))
    for article, of_batch in zip(NEWS, written, strict=True):
        pieces, alone = streamed(pocket, article)
        assert "".join(pieces) == alone.summary == of_batch.summary
        assert len(pieces) > 5
        for name in ("prompt_tokens", "trimmed_tokens", "new_tokens", "finish_reason"):
            assert getattr(alone, name) == getattr(of_batch, name)
    assert {row.finish_reason for row in written} == {"stop"}


def test_a_saved_model_has_its_own_tokenizer_and_prompt_whatever_became_of_the_base(
    tiny_base: Path, tmp_path: Path
) -> None:
    base = shutil.copytree(tiny_base, tmp_path / "base")
    model = ModelConfig(base=str(base), dtype="fp32", device="cpu")
    tokenizer, frame = load_tokenizer(model), Frame("[Monday] Summarize:", " end:")
    tokenizer.save_pretrained(str(tmp_path / "saved"))
    prompt = Renderer(tokenizer, PromptConfig(), frame).prompt(NEWS[0])
    changed = json.loads((base / "tokenizer.json").read_text())
    changed["model"]["merges"] = []  # now a token is a byte
    (base / "tokenizer.json").write_text(json.dumps(changed))
    own = (tmp_path / "saved", frame, (2, 5))
    decoding = GenerateConfig(max_new_tokens=2)
    saved = SavedModel(tmp_path, None, model, PromptConfig(template="chat"), decoding, {}, *own)
    with room.load_summarizer(saved) as summarizer:
        (result,) = summarizer.summarize(NEWS[:1])
        assert ends_of(summarizer._engine._model) == [2, 5]
    assert (result.prompt_tokens, result.trimmed_tokens) == (len(prompt.ids), prompt.trimmed_tokens)


def test_no_piece_ends_inside_a_character(tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = ModelConfig(base=str(tiny_base), dtype="fp32", device="cpu")
    tokenizer = load_tokenizer(model)
    text = "Zürich – 東京 🎉 Ende\ufffd"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    monkeypatch.setattr(engine, "stream_tokens", lambda *_: iter(ids))
    transformers = Transformers(load_base(model), tokenizer, choose_device(model))
    summarizer = Summarizer(transformers, tokenizer, recipe(model))
    pieces, written = streamed(summarizer, "News.")
    assert written.summary == "".join(pieces) == text
    assert [piece for piece in pieces if "\ufffd" in piece] == ["\ufffd"]  # the text's own
    assert len(pieces) > 10


def test_a_stream_of_at_most_so_many_sentences_ends_behind_them(
    pocket: Summarizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "Mr. Lee won by 2.5 points. He left!\nThen it rained."
    ids = load_tokenizer(EXACT)(text, add_special_tokens=False)["input_ids"]
    read: list[int] = []
    monkeypatch.setattr(engine, "stream_tokens", lambda *_: (read.append(i) or i for i in ids))
    for sentences, expected in ((1, "Mr. Lee won by 2.5 points."), (2, text.split("\n")[0])):
        read.clear()
        pieces, written = streamed(pocket, "News.", sentences=sentences)
        assert "".join(pieces) == written.summary == expected
        assert written.finish_reason == "sentences"
        assert len(read) < len(ids)
    for sentences in (3, 4):
        pieces, written = streamed(pocket, "News.", sentences=sentences)
        assert "".join(pieces) == written.summary == text
        assert written.finish_reason == "stop"


@pytest.mark.parametrize("limit", [{"whole_sentences": True}, {"max_sentences": 1}])
def test_a_batch_a_stream_and_the_server_cut_after_the_same_sentence(limit: dict[str, Any]) -> None:
    news = NEWS[1:3]  # the model ends the second by itself
    decoding = {"max_new_tokens": 40, "min_new_tokens": 30, "no_repeat_ngram": 3}
    settings = GenerateConfig(**(decoding | limit))
    with room.load_summarizer(dataclasses.replace(recipe(), generate=settings)) as summarizer:
        whole = list(summarizer.summarize(news))
        assert [row.finish_reason for row in whole] == ["sentences", "stop"]
        assert whole[0].summary == "The second author, Murco Pultzer, wrote the programs."
        pieces, alone = streamed(summarizer, news[0])
        served: dict[int, SummaryResult] = {}
        shown = ""

        def on_event(i: int, event: str | SummaryResult) -> bool:
            nonlocal shown
            if isinstance(event, SummaryResult):
                served[i] = event
            elif i == 0:
                shown += event
            return True

        summarizer.write(news, [True, False], on_event)
        for row in (alone, served[0]):
            assert (row.summary, row.finish_reason) == (whole[0].summary, "sentences")
        assert "".join(pieces) == shown == alone.summary
        assert served[1].summary == whole[1].summary
        summarizer.write(news[:1], [False], on_event, candidates=2)
        first, second = served[0].candidates
        assert first.text == whole[0].summary
        assert second.text.endswith(".")


def test_a_long_article_is_cut_in_even_parts_at_sentences() -> None:
    with room.load_summarizer(recipe(max_article_tokens=200)) as summarizer:
        article = "\n".join(NEWS)
        parts = summarizer.parts(article)
        assert " ".join(parts).split() == article.split()
        renderer = Renderer(load_tokenizer(EXACT), PromptConfig(max_article_tokens=200))
        rows = [renderer.prompt(part) for part in parts]
        assert not any(row.trimmed_tokens for row in rows)
        sizes = [row.article_tokens for row in rows]
        assert min(sizes) > 0.7 * max(sizes)
        assert summarizer.parts(NEWS[0][:200]) == [NEWS[0][:200]]
        endless = summarizer.parts("word " * 900)
        assert not any(renderer.prompt(part).trimmed_tokens for part in endless)


def test_a_long_article_is_read_to_its_end_in_parts() -> None:
    with room.load_summarizer(recipe(max_article_tokens=200)) as summarizer:
        article = "\n".join(NEWS[:3])
        (lead,) = summarizer.summarize([article])
        assert lead.trimmed_tokens > 200
        assert lead.parts == ()
        whole = summarizer.summarize_in_parts(article)
        assert whole.trimmed_tokens == 0
        assert len(whole.parts) == len(summarizer.parts(article))
        last = evidence(NEWS[2], whole.parts[-1])["sentences"]
        assert any(row["sources"] for row in last)  # the end of the article came to words
        short = NEWS[0][:300]
        (alone,) = summarizer.summarize([short])
        assert summarizer.summarize_in_parts(short).summary == alone.summary


# The command.


def test_json_tells_all_that_is_known(
    saved: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows, adapted = tmp_path / "rows.jsonl", tmp_path / "adapted"
    rows.write_text("".join(json.dumps({"id": i, "article": a}) + "\n" for i, a in enumerate(NEWS)))
    with fresh_adapter(load_base(EXACT), LoraSettings(r=1), 0) as model:  # which changes nothing
        model.save_pretrained(str(adapted))
    shutil.copy(saved / saved_model.FILE, adapted)
    summarize.run(str(adapted), [str(rows)], as_json=True, check_facts=True)
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["file"], row["id"]) for row in printed] == [(str(rows), str(i)) for i in range(5)]
    for row, article in zip(printed, NEWS, strict=True):
        assert row["article"] == article
        assert row["indicators"] == evidence(article, row["summary"])
        places = [(one["start"], one["end"]) for one in row["facts"]]
        assert places == [(one["start"], one["end"]) for one in row["indicators"]["sentences"]]
        assert all(0 < one["probability"] < 1 for one in row["facts"])
        assert row["finish_reason"] == "stop"
        assert row["trimmed_tokens"] == 0
        assert row["seconds"] > 0
        (first, *_) = row["indicators"]["sentences"]
        copy = first["copied"][0]
        there = article[copy["source"]["start"] : copy["source"]["end"]]
        assert row["summary"][copy["start"] : copy["end"]].lower() == there.lower()

    class Ends:
        checked = 0

        def check(self, article: str, summaries: list[str]) -> list[list[Checked]]:
            self.checked += 1
            if self.checked == 3:
                raise Failure("no memory")
            return [[]]

    # If the base cannot go on, what was written is printed without its word.
    monkeypatch.setattr(summarize, "load_reader", lambda model: Ends())
    with pytest.raises(Failure, match="no memory"):
        summarize.run(str(adapted), [str(rows)], as_json=True, check_facts=True)
    again = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["summary"] for row in again] == [row["summary"] for row in printed]
    assert ["facts" in row for row in again] == [True, True, False, False, False]


def test_to_a_terminal_it_prints_as_it_writes(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal:
        def __init__(self) -> None:
            self.written: list[str] = []

        def write(self, text: str) -> None:
            self.written.append(text)

        def flush(self) -> None: ...

        def isatty(self) -> bool:
            return True

    names = []
    for i, article in enumerate(NEWS[:2]):
        (tmp_path / f"{i}.txt").write_text(article)
        names.append(str(tmp_path / f"{i}.txt"))
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    summarize.run(saved, names, as_json=False)
    assert len(terminal.written) > 20
    monkeypatch.undo()
    with room.load_summarizer(saved_model.read_saved_model(str(saved))) as summarizer:
        texts = [row.summary for row in summarizer.summarize(NEWS[:2])]
    expected = "".join(f"== {n}\n{t}\n" for n, t in zip(names, texts, strict=True))
    assert "".join(terminal.written) == expected


def test_what_to_look_at_is_told_on_standard_error(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long = tmp_path / "long.txt"
    long.write_text("\n".join(NEWS))
    raw = json.loads((saved / saved_model.FILE).read_text())
    raw["generate"]["max_new_tokens"] = 8
    (saved / saved_model.FILE).write_text(json.dumps(raw))
    summarize.run(str(saved), [str(long)], as_json=False)
    output = capsys.readouterr()
    assert "tokens were not read: --long map-reduce reads all" in output.err
    assert "the summary was cut at the limit of tokens" in output.err
    summarize.run(str(saved), [str(long)], as_json=False, long="map-reduce", sentences=1)
    assert "were not read" not in capsys.readouterr().err


def test_what_cannot_be_read_is_left_out_and_ends_the_command(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pages = tmp_path / "pages"
    pages.mkdir()
    (pages / "a.txt").write_text(NEWS[0])
    (pages / "b.html").write_text("<!doctype html><html><body></body></html>")
    gone = str(tmp_path / "gone.txt")
    with pytest.raises(
        Failure, match=r"2 of 3 articles were left out: the first: .*b\.html is HTML"
    ):
        summarize.run(str(saved), [str(pages), gone], as_json=False)
    output = capsys.readouterr()
    assert output.out.strip()
    assert output.err.splitlines()[0].startswith(f"left out: {pages / 'b.html'} is HTML in which")
    assert output.err.splitlines()[1].startswith(f"left out: {gone} is not a file")
    with pytest.raises(UserError, match=r"none of 2 articles can be read: the first: .*gone\.txt"):
        summarize.run(str(saved), [gone, str(pages / "b.html")], as_json=False)


def test_a_missing_name_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    summarize._warn(
        NewArticle("a.txt", "Ann Lee spoke."),
        SummaryResult("Bo Dahl spoke to 40.", 5, 0, 9, "length", 0.1),
    )
    assert capsys.readouterr().err.splitlines() == [
        "a.txt: not in the article: Bo Dahl, 40",
        "a.txt: the summary was cut at the limit of tokens",
    ]


# Which model.


def test_a_model_may_lie_in_a_run_folder_or_be_moved(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    moved = saved.rename(tmp_path / "run" / "final_best_model")
    model = saved_model.read_saved_model(str(tmp_path / "run"))
    assert (model.folder, model.adapter, model.model.base) == (moved, None, str(moved))


def test_a_hub_id_is_downloaded(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple] = []
    monkeypatch.setattr(
        saved_model.hub, "download", lambda *arguments: asked.append(arguments) or saved
    )
    assert saved_model.read_saved_model("someone/news").folder == saved
    assert saved_model.read_saved_model("someone/news@v2").folder == saved
    assert asked == [("someone/news", None), ("someone/news", "v2")]


def test_what_is_no_model_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="holds no model: give a finished run folder"):
        saved_model.read_saved_model(str(tmp_path))
    with pytest.raises(UserError, match="holds no model"):
        saved_model.read_saved_model("../nowhere/at/all")
    monkeypatch.setattr(saved_model.hub, "download", lambda *arguments: tmp_path)
    with pytest.raises(UserError, match=r"on the Hub has no nutgraf\.json"):
        saved_model.read_saved_model("someone/other")


def test_the_hub_out_of_reach_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        Failure, match="someone/nothing is no folder here, and could not be taken"
    ) as failure:
        saved_model.read_saved_model("someone/nothing")
    assert "\n" not in str(failure.value)
