"""The levers that `recipe.py` measures: what each changes against the configuration."""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias
from unittest import mock

import pandas as pd
import torch

from nutgraf.data.examples import Example
from nutgraf.evaluation.indicators import SummaryJudge
from nutgraf.generation.extractive import extract_many
from nutgraf.modeling import adapters
from nutgraf.training import optimizer, sft_trainer

# What a training is patched with; gets the rows that it trains on.
Patch: TypeAlias = Callable[[Sequence[Example]], contextlib.AbstractContextManager[Any]]

WORDS_READ = 300  # about 400 tokens
LORA_PLUS = (1 / 8, 2)  # what the learning rates of A and B are multiplied by: a ratio of 16
EVA_ROWS = 48  # articles whose activations initialize A


@dataclass(frozen=True)
class Lever:
    """What differs: settings, the rows that are trained on, or the training itself.

    Settings of `generate` alone need no training of their own.
    """

    settings: dict[str, Any] = field(default_factory=dict)
    rows: Callable[[pd.DataFrame], pd.DataFrame] = lambda rows: rows
    patch: Patch = lambda rows: contextlib.nullcontext()
    as_they_are: bool = False  # rows as the file has them, whatever `--cnn-share` says


def supported(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows whose references have no name and no number that the article lacks."""
    kinds = ("unsupported_names", "unsupported_numbers")
    judged = [
        SummaryJudge(article, reference).indicators(reference)
        for article, reference in zip(rows["article"], rows["highlights"], strict=True)
    ]
    return rows[[not any(row[kind] for kind in kinds) for row in judged]]


def answerable(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows with over 30% of their references' pairs of words in what is read."""
    shares = [
        len(_pairs(reference) & _pairs(" ".join(article.split()[:WORDS_READ])))
        / max(1, len(_pairs(reference)))
        for article, reference in zip(rows["article"], rows["highlights"], strict=True)
    ]
    return rows[[share > 0.3 for share in shares]]


def extracts(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows with, for references, the sentences read that share most with them."""
    read = [" ".join(article.split()[:WORDS_READ]) for article in rows["article"]]
    pairs = zip(read, rows["highlights"], strict=True)
    return rows.assign(highlights=extract_many("oracle", list(pairs)))


def extracts_if_unanswerable(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows, of which those that are not `answerable` have extracts for references."""
    is_answerable = rows.index.isin(answerable(rows).index)
    return rows.assign(
        highlights=rows["highlights"].where(is_answerable, extracts(rows)["highlights"])
    )


def _pairs(text: str) -> set[tuple[str, str]]:
    return set(itertools.pairwise(re.findall(r"[a-z0-9]+", text.lower())))


def lora_plus(rows: Sequence[Example]) -> contextlib.AbstractContextManager[Any]:
    """Train B at a multiple of A's learning rate: Hayou et al. 2024, arXiv:2402.12354."""

    def build(weights: Any, settings: Any) -> Any:
        weights = list(weights)  # A and B in turn
        groups = [
            {"params": part, "lr": factor * settings.learning_rate}
            for part, factor in zip((weights[0::2], weights[1::2]), LORA_PLUS, strict=True)
        ]
        adamw = torch.optim.AdamW(groups, weight_decay=settings.weight_decay, fused=True)
        steps = optimizer.warmup_steps(settings), optimizer.total_steps(settings)
        return adamw, optimizer.get_scheduler(settings.schedule, adamw, *steps)

    return mock.patch.object(sft_trainer, "build_optimizer", build)


def eva(rows: Sequence[Example]) -> contextlib.AbstractContextManager[Any]:
    """Initialize A by its inputs' first singular vectors: Paischer et al. 2024, arXiv:2410.07170.

    All layers keep their rank, and the vectors have the length that peft draws them in.
    """
    usual = adapters.fresh_adapter

    @contextlib.contextmanager
    def fresh(base: Any, lora: Any, seed: int) -> Iterator[Any]:
        with usual(base, lora, seed) as model:
            for layer, products in _input_products(model, rows[:EVA_ROWS]):
                down = layer.lora_A["default"].weight
                _, vectors = torch.linalg.eigh(products.double())
                length = down.data.norm(dim=1).mean()
                down.data = (vectors[:, -len(down) :].T.float() * length).contiguous()
            yield model

    return mock.patch.object(adapters, "fresh_adapter", fresh)


@torch.no_grad()
def _input_products(model: Any, rows: Sequence[Example]) -> list[tuple[Any, torch.Tensor]]:
    """Return X'X of the inputs X [tokens, width] of each layer with an adapter."""
    layers = [m for m in model.modules() if isinstance(m, adapters.LoraLayer)]
    sums: dict[Any, Any] = dict.fromkeys(layers, 0)

    def add(layer: Any, inputs: Any) -> None:
        x = inputs[0].float().flatten(0, -2)
        sums[layer] = sums[layer] + x.T @ x

    hooks = [layer.register_forward_pre_hook(add) for layer in layers]
    for row in rows:
        ids = torch.tensor([row.input_ids], device=model.device)
        with torch.autocast(model.device.type, dtype=torch.bfloat16):
            model(input_ids=ids, use_cache=False, logits_to_keep=1)
    for hook in hooks:
        hook.remove()
    return list(sums.items())


def _context(tokens: int) -> Lever:
    return Lever({"prompt.max_article_tokens": tokens, "prompt.max_tokens": tokens + 160})


def _request(words: str) -> dict[str, Any]:
    return {"prompt.request": words}


def _examples(n: int) -> dict[str, Any]:
    return {"train.max_examples": n, "train.eval_every": n}


FOUR = _request("Summarize the news article in four sentences:")
SHORT = _request("Summarize:")
PLAIN = {"prompt.template": "plain"} | SHORT

LEVERS: dict[str, Lever] = {
    "baseline": Lever(),
    "seed 2": Lever({"train.seeds": [2]}),
    "seed 3": Lever({"train.seeds": [3]}),
    "zero-shot": Lever(),
    "zero-shot, four": Lever(FOUR),
    "zero-shot, plain": Lever(PLAIN),
    "zero-shot, chat": Lever(SHORT),
    "four sentences asked for": Lever(FOUR),
    "plain prompt": Lever(PLAIN),
    "chat, no length asked for": Lever(SHORT),
    "repetition allowed": Lever({"generate.no_repeat_ngram": 0}),
    "no repeated 2 words": Lever({"generate.no_repeat_ngram": 2}),
    "no repeated 4 words": Lever({"generate.no_repeat_ngram": 4}),
    "no repeated 5 words": Lever({"generate.no_repeat_ngram": 5}),
    "at least 30 tokens": Lever({"generate.min_new_tokens": 30}),
    "at least 50 tokens": Lever({"generate.min_new_tokens": 50}),
    "whole sentences": Lever({"generate.whole_sentences": True}),
    "4 beams": Lever({"generate.num_beams": 4}),
    "4 beams, length penalty 2": Lever({"generate.num_beams": 4, "generate.length_penalty": 2.0}),
    "batch of 8": Lever({"train.gradient_accumulation_steps": 2}),
    "learning rate 4e-4": Lever({"train.learning_rate": 4e-4}),
    "learning rate 2e-3": Lever({"train.learning_rate": 2e-3}),
    "alpha 64": Lever({"lora.alpha": 64}),
    "r 64, alpha 64 (rank-stabilized)": Lever({"lora.r": 64, "lora.alpha": 64}),
    "r 64, alpha 128": Lever({"lora.r": 64, "lora.alpha": 128}),
    "LoRA+, B 16 times": Lever(patch=lora_plus),
    "EVA": Lever(patch=eva),
    "cosine": Lever({"train.schedule": "cosine"}),
    "weight decay 0.1": Lever({"train.weight_decay": 0.1}),
    "dropout 0.1": Lever({"lora.dropout": 0.1}),
    "350 tokens": _context(350),
    "512 tokens": _context(512),
    "736 tokens": _context(736),
    "1,024 tokens": _context(1024),
    "320 rows twice": Lever(rows=lambda rows: rows[:320]),
    "1,280 articles": Lever(_examples(1280)),
    "rows as they are": Lever(as_they_are=True),
    "2,048 rows as they are": Lever(_examples(2048), as_they_are=True),
    "supported references only": Lever(rows=supported),
    "answerable references only": Lever(rows=answerable),
    "extracts for references": Lever(rows=extracts),
    "extracts for unanswerable references": Lever(rows=extracts_if_unanswerable),
}
