"""Measure during pretraining what the pocket model can do so far.

All probes are teacher-forced and greedy. Held-out stories come from the test split, with a seed
that no study uses; they are looked at, never trained on.
"""

from __future__ import annotations

import random

import torch
from torch import Tensor
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from nutgraf.pocket import newswire
from tools.pocket import lessons
from tools.pocket.tokenizer import BOS, EOS, PAD, SPECIAL

_SEED = "probe"


def _pad(rows: list[list[int]], device: torch.device) -> Tensor:
    longest = max(map(len, rows))
    return torch.tensor([row + [PAD] * (longest - len(row)) for row in rows], device=device)


def _article_loss(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, split: str) -> float:
    rng = random.Random(f"{_SEED}/{split}")
    drafts = [newswire.draft(split, rng) for _ in range(16)]
    texts = [" " + draft.article for draft in drafts]
    rows = [[BOS, *ids, EOS] for ids in tokenizer(texts, add_special_tokens=False).input_ids]
    ids = _pad(rows, model.device)
    return model(input_ids=ids, labels=ids.masked_fill(ids == PAD, -100)).loss.item()


def _random_copying(model: LlamaForCausalLM, vocabulary: int, length: int = 40) -> float:
    rng = random.Random(_SEED)
    strings = [[rng.randrange(len(SPECIAL), vocabulary) for _ in range(length)] for _ in range(16)]
    ids = torch.tensor([[BOS, *string, *string] for string in strings], device=model.device)
    guessed = model(input_ids=ids).logits.argmax(-1)
    return (guessed[:, length + 1 : -1] == ids[:, length + 2 :]).float().mean().item()


def _share_right(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, drawn: list[list[lessons.Span]]
) -> float:
    """Return the share of spans of weight 1 whose tokens are all the greedy choice."""
    rows, places = [], []
    for number, spans in enumerate(drawn):
        row = [BOS]
        encoded = tokenizer([text for text, _ in spans], add_special_tokens=False).input_ids
        for piece, (_, weight) in zip(encoded, spans, strict=True):
            if weight == 1.0:
                places.append((number, len(row), len(row) + len(piece)))
            row += piece
        rows.append(row)
    ids = _pad(rows, model.device)
    guessed = model(input_ids=ids).logits.argmax(-1)
    right = [
        bool((guessed[row, start - 1 : end - 1] == ids[row, start:end]).all())
        for row, start, end in places
    ]
    return sum(right) / len(right)


def _name_copying(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> float:
    rng = random.Random(_SEED)
    drawn = []
    for _ in range(24):
        names = newswire.Names(rng, held_out=True)
        row = [" " + names.word(rng.choice(list(newswire.ENDINGS))) for _ in range(6)]
        spans = [("List:" + ",".join(row) + "\nAgain:", 0.0)]
        for name in row:
            spans += [(name, 1.0), (",", 0.0)]
        drawn.append(spans)
    return _share_right(model, tokenizer, drawn)


def _fact_sheets(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> float:
    rng = random.Random(_SEED)
    drawn = []
    for _ in range(32):
        draft = newswire.draft("test", rng)
        spans = [(f"News: {draft.article}\n", 0.0), ("\nFacts:\n", 0.0)]
        for field in draft.key_facts:
            spans += [(f"{lessons.label(field)}:", 0.0), (f" {draft.facts[field]}\n", 1.0)]
        drawn.append(spans)
    return _share_right(model, tokenizer, drawn)


@torch.no_grad()
def probe(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, device_type: str
) -> dict[str, float]:
    """Return article loss (nats a token) on seen and held-out names, and shares that are right."""
    model.eval()
    with torch.autocast(device_type, dtype=torch.bfloat16):
        values = {
            "loss_seen": _article_loss(model, tokenizer, "validation"),
            "loss_held_out": _article_loss(model, tokenizer, "test"),
            "copy": _random_copying(model, len(tokenizer)),
            "names": _name_copying(model, tokenizer),
            "facts": _fact_sheets(model, tokenizer),
        }
    model.train()
    return {name: round(value, 4) for name, value in values.items()}
