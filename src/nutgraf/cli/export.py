"""Export a model for other programs: merged into its base, as an adapter, or as GGUF."""

from __future__ import annotations

import importlib.util
import logging
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from transformers import PreTrainedTokenizerBase
from transformers.utils import cached_file

from nutgraf.cli.model_commands import TOLERANCE
from nutgraf.core import hub
from nutgraf.core.errors import Failure, UserError, library_errors
from nutgraf.core.files import move, read_json, sync_all, write_json
from nutgraf.core.paths import expand
from nutgraf.data import article_store
from nutgraf.data.rows import Article
from nutgraf.evaluation.rouge import score_rouge
from nutgraf.generation.decoding import generation_config, recipe
from nutgraf.generation.summarizer import load_summarizer
from nutgraf.modeling import saved_model
from nutgraf.modeling.adapters import merge_adapter
from nutgraf.modeling.base_files import base_revision, base_source, is_gguf
from nutgraf.modeling.load import end_tokens, load_tokenizer
from nutgraf.modeling.saved_model import SavedModel
from nutgraf.pocket import newswire
from nutgraf.report.model_card import model_card, modelfile

logger = logging.getLogger(__name__)

Format = Literal["merged", "adapter", "gguf"]
SAMPLE = 16  # articles that are scored before and after


@dataclass(frozen=True)
class _Quality:
    loss: float
    rouge: float
    summaries: list[str]


def run(
    model: str | Path,
    to: Path,
    format: Format,
    push_to_hub: str | None = None,
    llama_cpp: Path | None = None,
    tolerance: float = TOLERANCE,
    quantize: str = "",
    author: str | None = None,
) -> None:
    """Write a model into a new folder, and print how that changes its scores.

    Args:
        model: A run folder, its `final_best_model`, an exported model, or a Hub id.
        to: The new folder.
        format: `merged` adds the adapter to the base in full precision, even if the base was
            quantized for training, and scores a sample before and after; `adapter` copies the
            adapter; `gguf` writes one file, and scores a sample before and after.
        push_to_hub: A repository that the folder is uploaded to.
        llama_cpp: A copy of llama.cpp, whose converter writes GGUF of the merged model.
        tolerance: The largest change of the loss, in nats a token. If it changes more, nothing is
            left in `to`.
        quantize: The number format of a GGUF file, one of `gguf_write.QUANTIZATIONS`; q8_0 if it
            is empty.
        author: The author that a GGUF file of ours names; the owner in `push_to_hub` if None.

    Raises:
        UserError: The folder is taken, or the model has no such form.
        Failure: The loss changes too much, the conversion fails, or the Hub refuses.
    """
    saved = saved_model.read_saved_model(str(model))
    to = _new_folder(to, saved)
    writes_gguf = format == "gguf" and llama_cpp is None
    if quantize and not writes_gguf:
        raise UserError(f"--quantize {quantize} is for --format gguf without --llama-cpp")
    if author and not writes_gguf:
        raise UserError(f"--author {author} is for --format gguf without --llama-cpp")
    if llama_cpp is not None and format != "gguf":
        raise UserError(f"--llama-cpp {llama_cpp} is for --format gguf, this is {format}")
    if format != "gguf" and saved.adapter is None:
        raise UserError(f"{model} is a whole model, merged already: export its adapter's folder")
    if format != "adapter" and "study" not in saved.about:
        raise UserError(
            f"{saved.folder / saved_model.FILE} has no scores for a model card, it is of an "
            "earlier version: make the model again with `nutgraf compare --force`"
        )
    if writes_gguf:
        if importlib.util.find_spec("gguf") is None:
            raise UserError("--format gguf needs the package gguf: `pip install gguf`")
        from nutgraf.cli import export_gguf

        quantize = quantize or "q8_0"
        fields = export_gguf.base_fields(saved, quantize)
    with library_errors(f"--to {to}: no folder can be made there", "give it another place"):
        to.parent.mkdir(parents=True, exist_ok=True)
        temporary = tempfile.TemporaryDirectory(dir=to.parent, prefix=f".{to.name}-")
    with temporary as scratch:
        folder = Path(scratch) / format
        folder.mkdir()
        if format == "adapter":
            _copy_adapter(saved, folder)
        else:
            tokenizer = load_tokenizer(saved.model, saved.tokenizer)
            # A model of an earlier version has no recipe.
            ends = saved.ends or end_tokens(saved.model)
            own = recipe(tokenizer, saved.prompt, ends, saved.frame)
            about = {**saved.about, "recipe": own}
            if writes_gguf:
                sample = _sample(expand(model), export_gguf.ROWS)
                author = author or (push_to_hub or "").partition("/")[0] or None
                export_gguf.write(
                    saved, tokenizer, about, fields, folder, sample, quantize, tolerance, author
                )
            else:
                merged = saved.folder
                if saved.adapter is not None:
                    merged, sample = Path(scratch) / "merged", _sample(expand(model), SAMPLE)
                    about |= _merge(saved, tokenizer, about, merged, *sample, tolerance)
                if llama_cpp is not None:
                    _convert_to_gguf(merged, about, folder, llama_cpp)
        sync_all(folder)
        move(folder, to)
    print(f"Model: {to}")
    if push_to_hub:
        print(f"Pushed: {hub.upload(to, push_to_hub)}")


def _new_folder(to: Path, saved: SavedModel) -> Path:
    """Return `to` without `~` and links. Raise UserError if it is taken, or a part of the model."""
    path = expand(to).resolve()
    if path.exists() and (not path.is_dir() or any(path.iterdir()) or path == Path.cwd()):
        raise UserError(f"--to {to} is there already: give it a new folder")
    for source in (saved.folder, Path(base_source(saved.model))):
        if source.resolve() in (path, *path.parents):
            raise UserError(f"--to {to} is in {source}, a part of the model: give it a new folder")
    return path


def _copy_adapter(saved: SavedModel, out: Path) -> None:
    for file in sorted(saved.folder.iterdir()):
        if file.suffix in (".json", ".safetensors", ".jinja", ".model", ".md"):
            shutil.copy2(file, out)


def _merge(
    saved: SavedModel,
    tokenizer: PreTrainedTokenizerBase,
    about: Mapping[str, Any],
    out: Path,
    sample: Sequence[Article],
    source: str,
    tolerance: float,
) -> dict[str, Any]:
    """Add the adapter to the weights of its base, and compare a sample before and after.

    Returns what changes of `about`, which is nutgraf.json.
    """
    assert saved.adapter is not None
    articles = f"{len(sample)} {source}"
    logger.info(f"scoring {articles} before")
    before = _score(saved, sample)
    merge_adapter(saved.model, saved.adapter, out)
    tokenizer.save_pretrained(str(out))
    _save_sentencepiece(saved, tokenizer, out)
    ends = saved.ends or end_tokens(saved.model)
    generation_config(tokenizer, saved.generate, ends).save_pretrained(str(out))
    model = saved.model.model_copy(update={"quantization": "none"})
    changed: dict[str, Any] = {"model": model.model_dump(mode="json")}
    write_json(out / saved_model.FILE, {**about, **changed})
    logger.info(f"scoring {articles} after")
    after = _score(saved_model.read_saved_model(str(out)), sample)
    difference = after.loss - before.loss
    same = sum(a == b for a, b in zip(before.summaries, after.summaries, strict=True))
    print(
        f"{articles}, before and after merging:\n"
        f"loss        {before.loss:.4f}  {after.loss:.4f}  {difference:+.4f} nats a token, "
        f"{tolerance:g} allowed\n"
        f"ROUGE-Lsum  {before.rouge:.2f}  {after.rouge:.2f}  {after.rouge - before.rouge:+.2f}\n"
        f"summaries   {same} of {len(sample)} are the same"
    )
    if not abs(difference) <= tolerance:
        raise Failure(
            f"merging changes the loss by {difference:+.4f} nats a token, {tolerance:g} allowed: "
            "nothing was written; use the adapter on its base, or raise --tolerance"
        )
    changed["merged"] = {
        "quantization": saved.model.quantization,
        "sample": articles,
        "loss_before": round(before.loss, 6),
        "loss_after": round(after.loss, 6),
        "rougeLsum_before": round(before.rouge, 2),
        "rougeLsum_after": round(after.rouge, 2),
        "same_summaries": same,
    }
    write_json(out / saved_model.FILE, {**about, **changed})
    card = model_card({**about, **changed}, "merged")
    (out / "README.md").write_text(card, encoding="utf-8")
    return changed


def _save_sentencepiece(saved: SavedModel, tokenizer: PreTrainedTokenizerBase, out: Path) -> None:
    """Write what llama.cpp's converter reads of a SentencePiece tokenizer beside tokenizer.json.

    transformers does not save it, and without it llama.cpp makes other tokens of a text.
    """
    source = base_source(saved.model)
    if is_gguf(source):
        return
    file = cached_file(
        source,
        "tokenizer.model",
        revision=base_revision(saved.model),
        _raise_exceptions_for_missing_entries=False,
    )
    if file is not None:
        shutil.copy2(file, out)
        added = {i: token.__getstate__() for i, token in tokenizer.added_tokens_decoder.items()}
        settings = out / "tokenizer_config.json"
        write_json(settings, {**read_json(settings), "added_tokens_decoder": added})


def _sample(model: Path, n: int) -> tuple[list[Article], str]:
    """Return `n` articles with references: the run folder's validation split, or the newswire's.

    A split is in an order drawn with the study's seed.
    """
    for folder in (model, model.parent):
        if (folder / "data" / "validation.parquet").is_file():
            articles = article_store.read_split(folder / "data" / "validation.parquet")
            return articles[:n], "validation articles"
    stories = newswire.stories("validation", n, seed=1)
    return [Article(s.id, s.article, s.reference) for s in stories], "articles of the newswire"


def _score(saved: SavedModel, sample: Sequence[Article]) -> _Quality:
    with load_summarizer(saved) as summarizer:
        summaries = [row.summary for row in summarizer.summarize([a.article for a in sample])]
        loss = summarizer.mean_loss([(a.article, a.reference) for a in sample])
    tokenizer = saved.about["study"].get("tokenizer", "rouge-score")  # older models do not say
    pairs = zip(sample, summaries, strict=True)
    scores = [score_rouge(a.reference, summary, tokenizer) for a, summary in pairs]
    return _Quality(loss, sum(s["rougeLsum"] for s in scores) / len(scores), summaries)


def _convert_to_gguf(merged: Path, about: Mapping[str, Any], out: Path, llama_cpp: Path) -> None:
    """Write a merged model as one file that llama.cpp reads, with a Modelfile for Ollama."""
    converter = llama_cpp / "convert_hf_to_gguf.py"
    if not converter.is_file():
        raise UserError(f"{llama_cpp} has no {converter.name}: give a copy of llama.cpp")
    command = [sys.executable, str(converter), str(merged), "--outfile", str(out / "model.gguf")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        reason = (result.stderr.strip() or result.stdout.strip() or "no word").splitlines()[-1]
        raise Failure(f"{converter} could not convert the model: {reason}")
    write_json(out / saved_model.FILE, about)
    (out / "Modelfile").write_text(modelfile(about), encoding="utf-8")
    (out / "README.md").write_text(model_card(about, "gguf"), encoding="utf-8")
