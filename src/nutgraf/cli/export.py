"""The model for other programs: merged into its base, as an adapter, or as GGUF; and to the Hub."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from nutgraf.config import ModelConfig
from nutgraf.core import hub
from nutgraf.core.errors import Failure, UserError
from nutgraf.data import article_store
from nutgraf.data.rows import Article
from nutgraf.evaluation import rouge as metrics
from nutgraf.generation.decoding import generation_config
from nutgraf.generation.summarizer import opened
from nutgraf.modeling import saved_model
from nutgraf.modeling.adapters import merge_adapter
from nutgraf.modeling.load import load_tokenizer
from nutgraf.modeling.saved_model import SavedModel
from nutgraf.pocket import newswire
from nutgraf.report import model_card

logger = logging.getLogger(__name__)

Format = Literal["merged", "adapter", "gguf"]
FORMATS: tuple[Format, ...] = ("merged", "adapter", "gguf")
SAMPLE = 16  # articles that are scored before and after
TOLERANCE = 0.05  # nats a token


@dataclass(frozen=True)
class _Scored:
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
) -> None:
    """Write the model into the new folder `to`, and print what changed in it.

    `merged` adds the adapter into the base in full precision, whatever the base was held in for
    training, and scores a sample before and after: nothing is left in `to` where the loss differs
    by more than `tolerance` nats a token. `gguf` converts what `merged` makes with the converter in
    `llama_cpp`, a copy of llama.cpp. With `push_to_hub` the folder then goes into that repository.

    Raises UserError for a folder that is taken and a model that has no such form, Failure for a
    loss that differs too much, a conversion that fails, and the Hub's refusal.
    """
    found = saved_model.read_saved_model(str(model))
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise UserError(f"{to} is there already: give --to a new folder")
    if format == "gguf" and llama_cpp is None:
        raise UserError(
            "--format gguf needs llama.cpp's converter: git clone "
            "https://github.com/ggml-org/llama.cpp, and give the folder with --llama-cpp DIR"
        )
    if format != "gguf" and found.adapter is None:
        raise UserError(f"{model} is a whole model, merged already: export its adapter's folder")
    if format != "adapter" and "study" not in found.about:
        raise UserError(
            f"{found.folder / saved_model.FILE} has no scores for a model card, it is of an "
            "earlier version: make the model again with `nutgraf compare --force`"
        )
    to.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=to.parent, prefix=f".{to.name}-") as scratch:
        made = Path(scratch) / format
        if format == "adapter":
            _adapter(found, made)
        elif format == "merged":
            _merged(found, made, *_sample(Path(model)), tolerance)
        elif llama_cpp is not None:
            whole = found.folder
            if found.adapter is not None:
                whole = Path(scratch) / "merged"
                _merged(found, whole, *_sample(Path(model)), tolerance)
            _gguf(found, whole, made, llama_cpp)
        if to.exists():
            to.rmdir()
        shutil.move(made, to)
    print(f"Model: {to}")
    if push_to_hub:
        print(f"Pushed: {hub.upload(to, push_to_hub)}")


def _adapter(found: SavedModel, out: Path) -> None:
    """The adapter's own folder, as far as it belongs to the model."""
    out.mkdir()
    for file in sorted(found.folder.iterdir()):
        if file.suffix in (".json", ".safetensors", ".jinja", ".model", ".md"):
            shutil.copy2(file, out)


def _merged(
    found: SavedModel, out: Path, sample: Sequence[Article], of: str, tolerance: float
) -> None:
    """The base with the adapter in its weights, and what that changed."""
    assert found.adapter is not None
    logger.info(f"scoring {len(sample)} {of} before")
    before = _score(found, sample)
    merge_adapter(found.model, found.adapter, out)
    tokenizer = load_tokenizer(found.model)
    tokenizer.save_pretrained(str(out))
    generation_config(tokenizer, found.generate).save_pretrained(str(out))
    about = {**found.about, "model": _held_whole(found.model)}
    _write_about(out, about)
    logger.info(f"scoring {len(sample)} {of} after")
    after = _score(saved_model.read_saved_model(str(out)), sample)
    difference = after.loss - before.loss
    same = sum(a == b for a, b in zip(before.summaries, after.summaries, strict=True))
    about["merged"] = {
        "quantization": found.model.quantization,
        "sample": f"{len(sample)} {of}",
        "loss_before": round(before.loss, 6),
        "loss_after": round(after.loss, 6),
        "rougeLsum_before": round(before.rouge, 2),
        "rougeLsum_after": round(after.rouge, 2),
        "same_summaries": same,
    }
    print(f"{len(sample)} {of}, before and after merging:")
    print(
        f"loss        {before.loss:.4f}  {after.loss:.4f}  {difference:+.4f} nats a token, "
        f"{tolerance:g} allowed"
    )
    print(f"ROUGE-Lsum  {before.rouge:.2f}  {after.rouge:.2f}  {after.rouge - before.rouge:+.2f}")
    print(f"summaries   {same} of {len(sample)} are the same")
    if not abs(difference) <= tolerance:
        raise Failure(
            f"merging changes the loss by {difference:+.4f} nats a token, {tolerance:g} allowed: "
            "nothing was written; use the adapter on its base, or raise --tolerance"
        )
    _write_about(out, about)
    (out / "README.md").write_text(model_card.model_card(about, "merged"), encoding="utf-8")


def _write_about(out: Path, about: dict[str, Any]) -> None:
    (out / saved_model.FILE).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


def _held_whole(model: ModelConfig) -> dict[str, Any]:
    """The settings of the base when it is not held in 4 bits."""
    return model.model_copy(update={"quantization": "none"}).model_dump(mode="json")


def _sample(model: Path) -> tuple[list[Article], str]:
    """Articles with references, of the run folder's validation split or else of the newswire."""
    for folder in (model, model.parent):
        if (folder / "data" / "validation.parquet").is_file():
            read = article_store.read_split(folder / "data" / "validation.parquet")
            return read[:SAMPLE], "validation articles"
    stories = newswire.stories("validation", SAMPLE, seed=1)
    return [Article(s.id, s.article, s.reference) for s in stories], "articles of the newswire"


def _score(found: SavedModel, sample: Sequence[Article]) -> _Scored:
    with opened(found) as summarizer:
        written = [row.summary for row in summarizer.write([a.article for a in sample])]
        loss = summarizer.loss([(a.article, a.reference) for a in sample])
    scores = [metrics.score_rouge(a.reference, s) for a, s in zip(sample, written, strict=True)]
    return _Scored(loss, sum(s["rougeLsum"] for s in scores) / len(scores), written)


def _gguf(found: SavedModel, whole: Path, out: Path, llama_cpp: Path) -> None:
    """The whole model as one file that llama.cpp reads, with a Modelfile for Ollama."""
    converter = llama_cpp / "convert_hf_to_gguf.py"
    if not converter.is_file():
        raise UserError(f"{llama_cpp} has no {converter.name}: give a copy of llama.cpp")
    out.mkdir()
    words = [sys.executable, str(converter), str(whole), "--outfile", str(out / "model.gguf")]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip() or done.stdout.strip() or "no word").splitlines()[-1]
        raise Failure(f"{converter} could not convert the model: {reason}")
    about = json.loads((whole / saved_model.FILE).read_text(encoding="utf-8"))
    shutil.copy2(whole / saved_model.FILE, out)
    (out / "Modelfile").write_text(model_card.modelfile(about), encoding="utf-8")
    (out / "README.md").write_text(model_card.model_card(about, "gguf"), encoding="utf-8")
