"""Generate: every system's summaries of the same test articles; no stage before opens them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm import tqdm
from transformers import PreTrainedModel

from nutgraf import artefacts, articles, extracts, rivals
from nutgraf.articles import Article
from nutgraf.files import Journal
from nutgraf.inference import generate_batches, loss_batches
from nutgraf.model import choose_device, load_base, load_tokenizer, with_adapter
from nutgraf.progress import say
from nutgraf.prompts import Renderer
from nutgraf.runfolder import RunFolder, write_records
from nutgraf.settings import Config
from nutgraf.systems import EXTRACTS, MODELS, measured, origin


def run(config: Config, folder: RunFolder, force: bool = False) -> bool:
    """Make summaries/<system>.jsonl, one row an article.

    Models also leave the loss of the reference there: `reference_nll` (nats, summed over the
    summary's tokens) and `reference_tokens`.
    """
    anything = False
    systems = measured(config.rivals, config.train.seeds)
    for system, made in zip(systems, artefacts.generate(config, folder), strict=True):
        if made.is_current and not force:
            say(f"{system}: done before")
            continue
        test = articles.read(folder.data("test"))
        with made.writing(resume=True) as scratch:
            rows = _summaries(system, config, folder, test, scratch)
            write_records(scratch / "summaries" / f"{system}.jsonl", rows)
        anything = True
    return anything


def _summaries(
    system: str, config: Config, folder: RunFolder, test: list[Article], scratch: Path
) -> list[dict[str, Any]]:
    if origin(system) in MODELS:
        return _by_model(system, config, folder, test, scratch)
    if system in EXTRACTS:
        return _by_extract(system, test)
    rival = config.rivals[system]
    if rival.file:
        return rivals.from_file(system, rival, test)
    device = choose_device(config.model).name
    rows = _collected(
        scratch / "summaries.part", system, len(test),
        lambda done: rivals.from_checkpoint(system, rival, test, device, done),
    )  # fmt: skip
    return [rows[i] for i in range(len(test))]


def _by_extract(system: str, test: list[Article]) -> list[dict[str, Any]]:
    texts = extracts.extract_many(system, [(a.article, a.highlights) for a in test])
    return [
        {
            "id": article.id,
            "text": text,
            "prompt_tokens": None,
            "trimmed_tokens": 0,
            "finish_reason": "extract",
        }
        for article, text in zip(test, texts, strict=True)
    ]


def _by_model(
    system: str, config: Config, folder: RunFolder, test: list[Article], scratch: Path
) -> list[dict[str, Any]]:
    tokenizer, device = load_tokenizer(config.model), choose_device(config.model)
    renderer = Renderer(tokenizer, config.prompt)
    prompts = [renderer.prompt(a.article) for a in test]
    ids = [prompt.ids for prompt in prompts]
    rows = [renderer.example(a.article, a.highlights) for a in test]
    with _model(system, config, folder) as model:
        found = _collected(
            scratch / "summaries.part", system, len(test),
            lambda done: generate_batches(model, tokenizer, ids, config.generate, device, done),
        )  # fmt: skip
        losses = _collected(
            scratch / "losses.part", f"{system}, loss of the references", len(test),
            lambda done: loss_batches(model, rows, tokenizer.pad_token_id, device, done=done),
        )  # fmt: skip
    return [
        {
            "id": article.id,
            "text": renderer.text(found[i]["ids"]),
            "prompt_tokens": len(prompts[i].ids),
            "trimmed_tokens": prompts[i].trimmed_tokens,
            "finish_reason": found[i]["finish_reason"],
            "reference_nll": losses[i]["nll"],
            "reference_tokens": losses[i]["tokens"],
        }
        for i, article in enumerate(test)
    ]


def _collected(
    path: Path,
    title: str,
    total: int,
    batches: Callable[[Container[int]], Iterable[Mapping[int, Any]]],
) -> dict[int, dict[str, Any]]:
    """Rows by the index of their article, on the disk batch by batch: a stop loses none of them.

    `batches` is given the indices that are done.
    """
    journal = Journal(path)
    rows = {row["index"]: row["row"] for row in journal.rows}
    if rows:
        say(f"{title}: carries on after {len(rows)} of {total} articles")
    with tqdm(total=total, desc=title, unit=" articles", initial=len(rows)) as bar:
        for batch in batches(frozenset(rows)):
            made = {i: row if isinstance(row, dict) else asdict(row) for i, row in batch.items()}
            journal.add({"index": i, "row": row} for i, row in made.items())
            rows |= made
            bar.update(len(rows) - bar.n)
    return rows


@contextlib.contextmanager
def _model(system: str, config: Config, folder: RunFolder) -> Iterator[PreTrainedModel]:
    base = load_base(config.model)
    if system == "zero_shot":
        yield base
    else:
        with with_adapter(base, folder.model(system)) as model:
            yield model
