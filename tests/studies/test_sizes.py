"""Articles and words of megabytes, and shapes of text that slow a program down: done in seconds.

Limits are in seconds of the processor, many times what a quiet core needs.
"""

from __future__ import annotations

import time

import pyarrow.parquet as pq
import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from nutgraf.config import Config, ModelConfig, PromptConfig
from nutgraf.data import load, prompts
from nutgraf.data.prompts import Renderer
from nutgraf.data.sources import SPLITS
from nutgraf.evaluation import indicators, rouge
from nutgraf.generation import extractive
from nutgraf.modeling.load import load_tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return load_tokenizer(ModelConfig())


STORY = "The mayor of Leeds spoke on Monday. He said 12 bridges would be mended by June.\n"


def test_an_article_of_10_mb_in_a_csv_is_cut_and_counted(tmp_path, tokenizer):
    ten = STORY * (10_000_000 // len(STORY) + 1)
    (tmp_path / "a.csv").write_text(f'id,article,highlights\n1,"{ten}",Bridges.\n')
    started = time.process_time()
    data = Config(data=dict.fromkeys(SPLITS, str(tmp_path / "a.csv"))).data
    (article,) = load.load_articles(data, "train").articles
    prompt = Renderer(tokenizer, PromptConfig()).prompt(article.article)
    each = Renderer(tokenizer, PromptConfig()).prompt(STORY + STORY)
    one = Renderer(tokenizer, PromptConfig()).prompt(STORY)
    a_story = each.article_tokens - one.article_tokens
    assert len(article.article) > 10_000_000 - 1
    assert prompt.article_tokens == PromptConfig().max_article_tokens
    whole = one.article_tokens + a_story * (len(ten) // len(STORY) - 1)
    assert prompt.article_tokens + prompt.trimmed_tokens == whole
    assert time.process_time() - started < 60  # 8 s on a quiet core


@pytest.mark.parametrize("letter", ["W", "桥"])
def test_a_word_of_1_mb_becomes_a_prompt(tokenizer, letter):
    started = time.process_time()
    prompt = Renderer(tokenizer, PromptConfig()).prompt(
        letter * (1_000_000 // len(letter.encode()))
    )
    assert prompt.article_tokens == PromptConfig().max_article_tokens
    assert prompt.trimmed_tokens > 1_000
    assert time.process_time() - started < 30  # 1 s on a quiet core


@pytest.mark.parametrize("template", ["plain", "chat"])
def test_tokens_of_pieces_are_those_of_the_whole(monkeypatch, shared, template):
    llama = AutoTokenizer.from_pretrained(shared / "llama-tokenizer", local_files_only=True)
    config = PromptConfig(max_tokens=100_000, max_article_tokens=90_000, template=template)
    rows = pq.read_table(shared / "cnndm-train-100.parquet").to_pylist()[::20]
    odd = ("Cafe\u0301 \U0001f468\u200d\U0001f469. ", "a </s> b", "市长 12  x\n")
    texts = [r["article"] for r in rows] + [text * 99 for text in odd]
    for tokenizer in (llama, load_tokenizer(ModelConfig())):
        if template == "chat" and tokenizer.chat_template is None:
            continue
        renderer = Renderer(tokenizer, config)
        whole = [renderer.prompt(text).ids for text in texts]
        for size in (7, 300):
            monkeypatch.setattr(prompts, "_PIECE", size)
            assert [renderer.prompt(text).ids for text in texts] == whole
        monkeypatch.undo()


N = 40_000
SHAPES = {
    "one word": "a" * N, "capitals": "A" * N, "mixed": "AbC" * (N // 3), "name": "Ab " * (N // 3),
    "names": "Ab of the " * (N // 10), "figures": "1" * (N * 30) + " million",
    "lists": "1, " * (N // 3),
    "numbers": "hundred " * (N // 8), "dots": ". " * (N // 2), "stops": " ." * (N // 2),
    "quotes": "`" * N, "apostrophes": "'" * N, "spaces": "x" + " " * N + "x",
    "lines": "a\u2028" * (N // 2), "accents": "e" + "\u0301" * N, "emoji": "\U0001f600" * N,
    "tags": "<script>" * (N // 8), "abbreviations": "U.S. " * (N // 5), "underscores": "_" * N,
}  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
def test_no_shape_of_text_takes_the_square_of_its_length(shape):
    text = SHAPES[shape]
    started = time.process_time()
    figures = indicators.indicators(text, "A short one. 12 men.", "A short one. 12 men met Ab.")
    assert figures["words"] == 7
    indicators.indicators("A short one.", "One. Two.", text)
    rouge.score_rouge("Short one " + text, "short")
    for system in ("lead3", "textrank", "oracle"):
        extractive.extract_many(system, [(text, "A short one.")])
    # About 1 s on a quiet core; with the square of the length these took minutes.
    assert time.process_time() - started < 10


def test_the_copy_of_a_long_text_is_found_at_once():
    text = ("the mayor of Leeds spoke again " * 4_000).split()
    started = time.process_time()
    assert indicators.extractive_fragments(text, text) == [(0, 0, len(text))]
    assert time.process_time() - started < 2


def test_the_graph_of_sentences_is_bounded():
    sentences = [f"Word{n} mayor bridge." for n in range(40_000)]
    picked = extractive.textrank(" ".join(sentences)).split("\n")
    assert set(picked) <= set(sentences[:500])
