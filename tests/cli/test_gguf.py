"""GGUF files read by llama-cpp-python, which has to be installed: ours, and llama.cpp's own.

A copy of llama.cpp, whose converter writes the latter, is named in NUTGRAF_LLAMA_CPP. The base is a
small random Llama with a tokenizer of TinyLlama's kind.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from helpers.snippets import blocks, run_snippet

from nutgraf.cli.export import run
from nutgraf.generation.summarizer import load_summarizer
from nutgraf.modeling import saved_model
from nutgraf.pocket import newswire

LLAMA_CPP = os.environ.get("NUTGRAF_LLAMA_CPP", "")


@pytest.fixture
def whole(tmp_path: Path, final_best_model: Path) -> Path:
    """A whole model of the form of TinyLlama: SentencePiece with bytes, beginning of sequence."""
    import sentencepiece
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, LlamaTokenizer

    folder = tmp_path / "whole"
    folder.mkdir()
    texts = tmp_path / "texts"
    texts.write_text("\n".join(s.article for s in newswire.stories("train", 100, seed=1)))
    sentencepiece.SentencePieceTrainer.train(
        input=str(texts), model_prefix=str(folder / "tokenizer"), model_type="bpe",
        vocab_size=1000, byte_fallback=True, normalization_rule_name="identity",
        remove_extra_whitespaces=False, unk_id=0, bos_id=1, eos_id=2, pad_id=-1, minloglevel=2,
    )  # fmt: skip
    LlamaTokenizer.from_pretrained(str(folder), add_bos_token=True).save_pretrained(str(folder))
    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=1000, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=1024,
        initializer_range=0.5, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    LlamaForCausalLM(shape).save_pretrained(str(folder))
    about = json.loads((final_best_model / saved_model.FILE).read_text())
    about["base"]["base"] = str(folder)
    (folder / saved_model.FILE).write_text(json.dumps(about))
    return folder


@pytest.mark.parametrize("converter", ["", LLAMA_CPP], ids=["ours", "theirs"])
def test_llama_cpp_writes_what_nutgraf_writes(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, converter: str, request: Any
) -> None:
    pytest.importorskip("llama_cpp", reason="llama-cpp-python reads the file")
    if converter:
        run(whole, tmp_path / "gguf", "gguf", llama_cpp=Path(converter))
    elif "theirs" in request.node.name:
        pytest.skip("NUTGRAF_LLAMA_CPP names no copy of llama.cpp")
    else:
        run(whole, tmp_path / "gguf", "gguf", quantize="f32")
    article = " ".join(story.article for story in newswire.stories("test", 8, seed=11))
    with load_summarizer(saved_model.read_saved_model(str(whole))) as summarizer:
        (written,) = summarizer.summarize([article])
    text = (tmp_path / "gguf" / "README.md").read_text()
    code, _ = blocks(text, "python")
    assert len(written.summary) > 10
    # A random model writes bytes that are no character: left out there, U+FFFD here.
    expected = written.summary.replace("\ufffd", "")
    assert run_snippet(code, tmp_path / "gguf", article, monkeypatch) == expected
