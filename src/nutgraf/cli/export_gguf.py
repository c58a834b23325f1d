"""Write a model as one GGUF file, and prove that it is the same model before it is kept."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from nutgraf.config.systems import EngineName
from nutgraf.core.errors import Failure, UserError
from nutgraf.core.files import write_json
from nutgraf.data.prompts import Renderer
from nutgraf.data.rows import Article
from nutgraf.generation.summarizer import load_summarizer
from nutgraf.modeling import saved_model
from nutgraf.modeling.adapters import merge_adapter
from nutgraf.modeling.base_files import base_revision, base_source, find_file, is_gguf
from nutgraf.modeling.gguf_file import read_fields
from nutgraf.modeling.gguf_tokenizer import tokenizer_fields
from nutgraf.modeling.gguf_write import check_writable, set_numbers, write_gguf
from nutgraf.modeling.load import load_architecture, load_base, load_tokenizer
from nutgraf.modeling.saved_model import SavedModel
from nutgraf.report.gguf_fields import describe_model, licence
from nutgraf.report.model_card import model_card, modelfile

logger = logging.getLogger(__name__)

ROWS = 32  # articles that the loss is compared on
SUMMARIES = 4  # of them, those that llama.cpp and transformers summarize
_LOSS = "nutgraf.proof.loss"
_DIFFERENCE = "nutgraf.proof.difference"
_SAME = "nutgraf.proof.same_summaries"
# Texts beside the articles that the tokenizer out of the file has to read as the study's does.
_TEXTS = (
    "1,234.50 in 2024: 7th of 10",
    "naïve façade, Ångström, œuvre",
    "👩‍👩‍👧 and 🇫🇷 at 你好",
    "two  spaces,   three\n\nand\tlines\r\n 6.1",
    "<s> </s> <|im_end|> [INST] a\u200bb",
)


def base_fields(saved: SavedModel, quantization: str) -> dict[str, Any]:
    """Return the fields of a file that are those of the base: its tokenizer and its licence.

    Raises UserError, with the reason, for a model that cannot be written.
    """
    source = base_source(saved.model)
    if saved.adapter is None and is_gguf(source):
        raise UserError(f"{source} is a GGUF file already: export the run folder that it is of")
    check_writable(saved.model, quantization)
    if is_gguf(source):
        own = read_fields(Path(source), "general.license")
        return {**own, **read_fields(Path(source), "tokenizer.")}
    tokenizer = load_tokenizer(saved.model, saved.tokenizer)
    fields = tokenizer_fields(tokenizer, load_architecture(saved.model).vocab_size)
    card = find_file(source, base_revision(saved.model), "README.md")
    name = licence(card.read_text(encoding="utf-8")) if card else None
    return {**({"general.license": name} if name else {}), **fields}


def write(
    saved: SavedModel,
    tokenizer: PreTrainedTokenizerBase,
    about: Mapping[str, Any],
    fields: Mapping[str, Any],
    out: Path,
    sample: tuple[Sequence[Article], str],
    quantization: str,
    tolerance: float,
    author: str | None,
) -> None:
    """Write the file, its Modelfile for Ollama and its card into the folder `out`.

    The file is read back, and has to make the same prompts, with nearly the same loss. If llama.cpp
    is installed, its summaries are compared with those of transformers. They may differ, since it
    rounds more than weights.

    Args:
        saved: The study's model, or a merged one.
        tokenizer: That of the model.
        about: What is to be in its nutgraf.json.
        fields: Those of `base_fields`.
        out: An empty folder; beside it the merged model is made.
        sample: Articles with references, and what they are.
        quantization: One of `gguf_write.QUANTIZATIONS`.
        tolerance: The largest change of the loss, in nats a token.
        author: The model's author, for the file.

    Raises:
        Failure: The loss changes by more, or the tokenizer out of the file reads other tokens.
    """
    rows, articles = sample[0], f"{len(sample[0])} {sample[1]}"
    compared = rows[:SUMMARIES] if importlib.util.find_spec("xllamacpp") else []
    logger.info(f"scoring {articles} before")
    before = _loss(saved, rows)
    load_base.cache_clear()  # the merge has it in memory again, in fp32
    whole = saved.model.model_copy(update={"quantization": "none"})
    # The template of the file is of this prompt: rendered again, it would be in itself.
    frame = list(Renderer(tokenizer, saved.prompt, saved.frame).frame)
    about = {**about, "model": whole.model_dump(mode="json"), "frame": frame}
    if saved.adapter is not None:
        merged = out.with_name("merged")
        merge_adapter(saved.model, saved.adapter, merged)
        whole = whole.model_copy(update={"base": str(merged), "revision": None})
    file = out / saved_model.GGUF_FILE
    logger.info(f"writing {file.name} in {quantization}")
    _, *others = about["recipe"]["ends"].values()
    eot = {"tokenizer.ggml.eot_token_id": others[0]} if others else {}
    write_gguf(
        whole,
        file,
        quantization,
        {
            **eot,
            **fields,
            **describe_model(about, author),
            saved_model.FILE: json.dumps(about, ensure_ascii=False),
            "nutgraf.proof.articles": articles,
            "nutgraf.proof.loss_of_study": before,
            **dict.fromkeys((_LOSS, _DIFFERENCE), 0.0),
            **({"nutgraf.proof.summaries": len(compared), _SAME: 0.0} if compared else {}),
        },
    )
    written = saved_model.read_saved_model(str(file))
    texts = _check_tokens(saved, tokenizer, written, rows)
    logger.info(f"scoring {articles} after")
    after = _loss(written, rows)
    difference = after - before
    print(
        f"{articles}, before and after writing them in {quantization}:\n"
        f"loss        {before:.4f}  {after:.4f}  {difference:+.4f} nats a token, "
        f"{tolerance:g} allowed\n"
        f"tokens      the same of {texts} texts\n"
        f"size        {file.stat().st_size / 1e6:.0f} MB"
    )
    if not abs(difference) <= tolerance:
        raise Failure(
            f"{quantization} changes the loss from {before:.4f} to {after:.4f} nats a token, "
            f"{tolerance:g} allowed: nothing was written; give a finer --quantize, or raise "
            "--tolerance"
        )
    numbers, summaries = {_LOSS: after, _DIFFERENCE: difference}, {}
    if compared:
        same = _same_summaries(written, [row.article for row in compared])
        print(f"summaries   {same} of {len(compared)} the same by llama.cpp as by transformers")
        numbers[_SAME] = same
        summaries = {"summaries_by_llama_cpp": len(compared), "same_summaries": same}
    set_numbers(file, numbers)
    about["gguf_file"] = {
        "format": quantization,
        "quantization": saved.model.quantization,
        "articles": articles,
        "loss_before": round(before, 6),
        "loss_after": round(after, 6),
        "texts_with_the_same_tokens": texts,
        **summaries,
    }
    write_json(out / saved_model.FILE, about)
    (out / "Modelfile").write_text(modelfile(about), encoding="utf-8")
    (out / "README.md").write_text(model_card(about, "gguf"), encoding="utf-8")


def _loss(saved: SavedModel, rows: Sequence[Article]) -> float:
    with load_summarizer(saved) as summarizer:
        return summarizer.mean_loss([(row.article, row.reference) for row in rows])


def _same_summaries(written: SavedModel, articles: Sequence[str]) -> int:
    """Return how many summaries by llama.cpp are those by transformers in fp32.

    Both compute on the CPU, greedily; llama.cpp one article after the other, since what it rounds
    depends on what is written together.
    """
    logger.info(f"writing {len(articles)} summaries by transformers and by llama.cpp")
    load_base.cache_clear()  # it has the file's weights in another number format
    saved = dataclasses.replace(
        written,
        model=written.model.model_copy(update={"device": "cpu", "dtype": "fp32"}),
        generate=written.generate.model_copy(update={"num_beams": 1, "candidates": 1}),
    )
    texts: list[list[str]] = []
    engines: tuple[EngineName, ...] = ("transformers", "llama.cpp")
    for engine in engines:
        with load_summarizer(saved, engine, articles=1) as summarizer:
            texts.append([str(row) for row in summarizer.summarize(articles)])
    return sum(a == b for a, b in zip(*texts, strict=True))


def _check_tokens(
    saved: SavedModel,
    tokenizer: PreTrainedTokenizerBase,
    written: SavedModel,
    rows: Sequence[Article],
) -> int:
    """Return the number of texts that are the same tokens, and the same text again, in the file.

    Raises Failure if one is not.
    """
    own = Renderer(tokenizer, saved.prompt, saved.frame)
    its = Renderer(load_tokenizer(written.model), saved.prompt, own.frame)
    texts = [*_TEXTS, *(text for row in rows for text in (row.article, row.reference))]
    for text in texts:
        ids = own.prompt(text).ids
        if its.prompt(text).ids != ids or its.text(ids) != own.text(ids):
            raise Failure(
                f"the tokenizer out of the file reads other tokens in {text[:40]!r}: nothing was "
                "written; give --format merged"
            )
    return len(texts)
