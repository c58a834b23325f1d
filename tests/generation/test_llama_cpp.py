"""llama.cpp writes what transformers writes, and says what it cannot do."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from helpers import gguf_files

from nutgraf.config import GenerateConfig, ModelConfig, PromptConfig
from nutgraf.core.errors import Failure, UserError
from nutgraf.data.prompts import Renderer
from nutgraf.generation.engine import Transformers
from nutgraf.generation.llama_cpp import LlamaCpp, uses_llama_cpp
from nutgraf.generation.summarizer import Summarizer, SummaryResult
from nutgraf.modeling.load import choose_device, load_base, load_tokenizer
from nutgraf.modeling.saved_model import SavedModel

ARTICLES = [
    "The council met on Monday. It had 2024 roads to repair.",
    "Rain fell.",
    "A mill in Norwick burned down on Monday night, and nobody was hurt, the police said. " * 4,
]
SETTINGS = GenerateConfig(max_new_tokens=24, min_new_tokens=20, no_repeat_ngram=1)


def saved_as(file: Path, settings: GenerateConfig = SETTINGS) -> SavedModel:
    model = ModelConfig(base=str(file), dtype="fp32", device="cpu")
    prompt = PromptConfig(max_tokens=200, max_article_tokens=150)
    return SavedModel(file.parent, None, model, prompt, settings, {"base": {}})


@pytest.fixture(scope="module")
def saved(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> SavedModel:
    return saved_as(gguf_files.write(tiny_base, tmp_path_factory.mktemp("gguf") / "tiny.gguf"))


@pytest.fixture(scope="module")
def engines(saved: SavedModel) -> dict[str, Any]:
    """Return one of each kind on the same file, whose weights are not rounded."""
    pytest.importorskip("xllamacpp", reason="llama.cpp is not installed: pip install xllamacpp")
    tokenizer = load_tokenizer(saved.model)
    model, device = load_base(saved.model), choose_device(saved.model)
    return {
        "transformers": Transformers(model, tokenizer, device),
        "llama.cpp": LlamaCpp(saved, tokenizer, rows=2),
    }


@pytest.fixture(scope="module")
def prompts(saved: SavedModel) -> list[list[int]]:
    renderer = Renderer(load_tokenizer(saved.model), saved.prompt)
    return [list(renderer.prompt(article).ids) for article in ARTICLES]


@pytest.mark.parametrize("changes", [{}, {"no_repeat_ngram": 0, "min_new_tokens": 0}])
def test_it_writes_the_tokens_that_transformers_writes(engines, prompts, changes):
    settings = SETTINGS.model_copy(update=changes)
    theirs, ours = (engines[name].generate(prompts, settings) for name in engines)
    assert [row.written for row in ours] == [row.written for row in theirs]
    again = engines["llama.cpp"].generate(prompts[::-1], settings)
    assert [row.written for row in again[::-1]] == [row.written for row in ours]


def test_candidates_come_from_the_seed_of_their_prompt_the_greedy_one_first(engines, prompts):
    several = SETTINGS.model_copy(update={"candidates": 3, "temperature": 1.0})
    rows = engines["llama.cpp"].generate(prompts, several)
    greedy = engines["transformers"].generate(prompts, SETTINGS)
    assert [row.written[0] for row in rows] == [row.written[0] for row in greedy]
    assert len({tuple(new.ids) for row in rows for new in row.written}) == 9
    again = engines["llama.cpp"].generate(prompts[::-1], several)
    assert [row.written for row in again[::-1]] == [row.written for row in rows]


def test_it_streams_what_it_writes_and_stops_where_nobody_wants_more(engines, prompts):
    whole = [row.written[0].ids for row in engines["llama.cpp"].generate(prompts, SETTINGS)]
    streams = [list(engines["llama.cpp"].stream(prompt, SETTINGS)) for prompt in prompts]
    assert streams == whole
    seen: dict[int, list[int | None]] = {0: [], 1: [], 2: []}

    def on_token(row: int, token: int | None) -> bool:
        seen[row].append(token)
        return row != 1 or len(seen[1]) < 5

    engines["llama.cpp"].generate(prompts, SETTINGS, on_token)
    assert [tokens[: len(ids)] for tokens, ids in zip(seen.values(), whole, strict=True)] == [
        whole[0], whole[1][:5], whole[2],
    ]  # fmt: skip


def test_a_summarizer_hands_on_pieces_and_results_of_articles_written_together(engines, saved):
    tokenizer = load_tokenizer(saved.model)
    results = {}
    for name, engine in engines.items():
        summarizer = Summarizer(engine, tokenizer, saved)
        pieces, whole = ["", "", ""], dict[int, SummaryResult]()

        def on_event(i: int, event: str | SummaryResult, pieces=pieces, whole=whole) -> bool:
            if isinstance(event, SummaryResult):
                whole[i] = dataclasses.replace(event, seconds=0)
            else:
                pieces[i] += event
            return True

        summarizer.write(ARTICLES, [True] * 3, on_event)
        assert pieces == [whole[i].summary for i in range(3)]
        results[name] = [whole[i] for i in range(3)]
        assert [str(row) for row in summarizer.summarize(ARTICLES)] == pieces
    assert results["llama.cpp"] == results["transformers"]
    assert results["llama.cpp"][2].trimmed_tokens > 0


def test_a_prompt_beyond_its_context_is_a_failure(engines):
    with pytest.raises(Failure, match=r"llama.cpp refuses a prompt of 300 tokens: .*context"):
        engines["llama.cpp"].generate([[5] * 300], SETTINGS)
    assert engines["llama.cpp"].generate([[5] * 30], SETTINGS)[0].written


def test_a_file_that_it_cannot_read_is_a_failure(saved, monkeypatch):
    pytest.importorskip("xllamacpp", reason="llama.cpp is not installed: pip install xllamacpp")

    def refuse(_: object) -> None:
        raise RuntimeError("Failed to init server")

    monkeypatch.setattr("xllamacpp.Server", refuse)
    with pytest.raises(Failure, match=r"llama.cpp cannot read .*tiny.gguf .*--engine transformers"):
        LlamaCpp(saved, load_tokenizer(saved.model))


def test_it_gets_the_ids_of_a_real_model_s_prompt_unchanged(smollm2):
    pytest.importorskip("xllamacpp", reason="llama.cpp is not installed: pip install xllamacpp")
    settings = GenerateConfig(max_new_tokens=40, no_repeat_ngram=3)
    saved = saved_as(smollm2, settings)
    tokenizer = load_tokenizer(saved.model)
    engine = LlamaCpp(saved, tokenizer, rows=1)
    prompt = PromptConfig(template="chat", request="Summarize in one sentence:")
    ids = list(Renderer(tokenizer, prompt).prompt("6.1 earthquake: “Größe” 😀 in 2024.").ids)
    asked = {"prompt": ids, "max_tokens": 1, "verbose": True}
    read: Any = engine._server.handle_completions(asked)
    assert read["__verbose"]["prompt"] == tokenizer.decode(ids)
    assert read["usage"]["prompt_tokens"] == len(ids)
    (row,) = engine.generate([ids], settings)
    assert row.written[0].finish_reason == "stop"
    assert "earthquake" in tokenizer.decode(row.written[0].ids)


def test_it_is_taken_for_a_gguf_file_on_a_cpu_without_bf16_if_it_is_installed(
    saved, monkeypatch, caplog
):
    there = {"xllamacpp"}
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name in there or None)
    assert uses_llama_cpp(saved)
    assert not uses_llama_cpp(saved, "transformers")
    half = saved.model.model_copy(update={"dtype": "bf16"})
    assert not uses_llama_cpp(dataclasses.replace(saved, model=half))
    assert uses_llama_cpp(dataclasses.replace(saved, model=half), "llama.cpp")
    folder = dataclasses.replace(saved, model=ModelConfig(base="pocket"))
    assert not uses_llama_cpp(folder)
    with pytest.raises(UserError, match=r"--engine is llama.cpp: .* is no GGUF file"):
        uses_llama_cpp(folder, "llama.cpp")
    assert caplog.messages == []
    beams = dataclasses.replace(saved, generate=GenerateConfig(num_beams=4))
    assert not uses_llama_cpp(beams)
    (line,) = caplog.messages
    assert "num_beams is 4, for which it has no counterpart; transformers writes" in line
    with pytest.raises(UserError, match="num_beams is 4, for which it has no counterpart"):
        uses_llama_cpp(beams, "llama.cpp")
    there.clear()
    assert not uses_llama_cpp(saved)
    with pytest.raises(UserError, match=r"it is not installed: `pip install 'nutgraf\[llama\]'`"):
        uses_llama_cpp(saved, "llama.cpp")
