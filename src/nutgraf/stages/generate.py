"""Generate: every system's summaries of the same test articles; no stage before opens them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from tqdm import tqdm
from transformers import PreTrainedModel

from nutgraf import articles, metrics
from nutgraf.articles import Article
from nutgraf.inference import generate, summary_losses
from nutgraf.model import choose_device, load_base, load_tokenizer, with_adapter
from nutgraf.progress import say
from nutgraf.prompts import Renderer
from nutgraf.runfolder import RunFolder, write_records
from nutgraf.settings import Config
from nutgraf.systems import MODELS, SYSTEMS, TRAINED

SETTINGS = {"prompt", "model", "generate"}


def run(config: Config, folder: RunFolder, force: bool = False) -> bool:
    """Make summaries/<system>.jsonl, one row an article.

    Models also leave the loss of the reference there: `reference_nll` (nats, summed over the
    summary's tokens) and `reference_tokens`.
    """
    anything = False
    for system in SYSTEMS:
        made = folder.artefact(
            f"summaries/{system}",
            outputs=[f"summaries/{system}.jsonl"],
            inputs=["data", *([f"models/{system}"] if system in TRAINED else [])],
            settings=config.model_dump(mode="json", include=SETTINGS) if system in MODELS else {},
        )
        if made.is_current and not force:
            say(f"{system}: done before")
            continue
        test = articles.read(folder.data("test"))
        with made.writing() as scratch:
            rows = _by_model(system, config, folder, test) if system in MODELS else _lead3(test)
            write_records(scratch / "summaries" / f"{system}.jsonl", rows)
        anything = True
    return anything


def _lead3(test: list[Article]) -> list[dict[str, Any]]:
    return [
        {
            "id": a.id,
            "text": metrics.lead3(a.article),
            "prompt_tokens": None,
            "trimmed_tokens": 0,
            "finish_reason": "extract",
        }
        for a in test
    ]


def _by_model(
    system: str, config: Config, folder: RunFolder, test: list[Article]
) -> list[dict[str, Any]]:
    tokenizer, device = load_tokenizer(config.model), choose_device(config.model)
    renderer = Renderer(tokenizer, config.prompt)
    prompts = [renderer.prompt(a.article) for a in test]
    rows = [renderer.example(a.article, a.highlights) for a in test]
    bar = tqdm(total=len(test), desc=system, unit=" summaries")
    with bar, _model(system, config, folder) as model:
        found = {}
        ids = [prompt.ids for prompt in prompts]
        for index, generated in generate(model, tokenizer, ids, config.generate, device):
            found[index] = generated
            bar.update()
        losses = summary_losses(model, rows, tokenizer.pad_token_id, device)
    return [
        {
            "id": article.id,
            "text": renderer.text(found[i].ids),
            "prompt_tokens": len(prompts[i].ids),
            "trimmed_tokens": prompts[i].trimmed_tokens,
            "finish_reason": found[i].finish_reason,
            "reference_nll": losses[i].nll,
            "reference_tokens": losses[i].tokens,
        }
        for i, article in enumerate(test)
    ]


@contextlib.contextmanager
def _model(system: str, config: Config, folder: RunFolder) -> Iterator[PreTrainedModel]:
    base = load_base(config.model)
    if system == "zero_shot":
        yield base
    else:
        with with_adapter(base, folder.model(system)) as model:
            yield model
