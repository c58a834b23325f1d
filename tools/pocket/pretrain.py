"""Pretrain the pocket model: the copy curriculum, then the mixture of lessons.

Muon trains the matrices, AdamW the embeddings and the norms. The rate falls over most of the run
because copying names without slips is learned mainly while it falls.
"""

from __future__ import annotations

import csv
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tools.pocket import lessons, probes
from tools.pocket.tokenizer import BOS, CONTEXT, EOS, PAD, SPECIAL, VOCABULARY

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Settings:
    """Hold what a pretraining run depends on, apart from the machine."""

    seed: int = 0
    hidden: int = 256
    layers: int = 4
    mlp: int = 640
    heads: int = 4
    kv_heads: int = 2
    rope_theta: float = 1e5
    curriculum_steps: int = 330  # copying random tokens, vocabulary 60, then 300, then all
    warm_copy_steps: int = 120  # longer copies and lists before the first article
    copy_batch_tokens: int = 2048
    tokens: int = 34_000_000  # the whole run, curriculum included
    rows: int = 8
    row_tokens: int = 512
    copy_share: float = 0.08  # rows of random copies that stay in to the end
    learning_rate: float = 3e-3
    matrix_decay: float = 0.03
    hold: float = 0.3  # share of the run at the peak rate, before the linear fall
    floor: float = 0.01  # last rate as a share of the peak
    probe_every: int = 300
    compile: bool = False  # needs a C compiler; 1.2 times as fast on a CPU, after half a minute


def new_model(settings: Settings) -> LlamaForCausalLM:
    """Return a Llama with random weights, drawn with the seed."""
    torch.manual_seed(settings.seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=settings.hidden,
            num_hidden_layers=settings.layers,
            intermediate_size=settings.mlp,
            num_attention_heads=settings.heads,
            num_key_value_heads=settings.kv_heads,
            max_position_embeddings=CONTEXT,
            tie_word_embeddings=True,
            rope_parameters={"rope_type": "default", "rope_theta": settings.rope_theta},
            bos_token_id=BOS,
            eos_token_id=EOS,
            pad_token_id=PAD,
        )
    )


def random_copies(rng: random.Random, length: int, vocabulary: int, tokens: int) -> Batch:
    """Draw random token strings, each written twice; only the second writing is trained on.

    Returns ids and weights, both (rows, 2 * length + 1).
    """
    rows = max(1, tokens // (2 * length + 1))
    first = len(SPECIAL)
    drawn = [
        [rng.randrange(first, min(VOCABULARY, first + vocabulary)) for _ in range(length)]
        for _ in range(rows)
    ]
    ids = torch.tensor([[BOS, *string, *string] for string in drawn])
    weights = torch.ones(ids.shape)
    # The first token of the second writing cannot be foreseen.
    weights[:, : length + 2] = 0.0
    return ids, weights


def encode(
    tokenizer: PreTrainedTokenizerFast, spans: list[lessons.Span]
) -> tuple[list[int], list[float]]:
    """Return the token ids of a lesson between <s> and </s>, and the loss weight of each."""
    texts = [text for text, _ in spans]
    ids, weights = [BOS], [0.0]
    encoded = tokenizer(texts, add_special_tokens=False).input_ids
    for piece, (_, weight) in zip(encoded, spans, strict=True):
        ids += piece
        weights += [weight] * len(piece)
    return [*ids, EOS], [*weights, 1.0]


def _row(
    rng: random.Random,
    tokenizer: PreTrainedTokenizerFast,
    settings: Settings,
    draw: Callable[[random.Random], list[lessons.Span]],
) -> tuple[list[int], list[float]]:
    ids: list[int] = []
    weights: list[float] = []
    while len(ids) < settings.row_tokens:
        if rng.random() < settings.copy_share:
            copies, targets = random_copies(rng, rng.randint(4, 60), VOCABULARY, 1)
            more, worth = copies[0].tolist(), targets[0].tolist()
        else:
            more, worth = encode(tokenizer, draw(rng))
        ids += more
        weights += worth
    return ids[: settings.row_tokens], weights[: settings.row_tokens]


def _rows(
    rng: random.Random,
    tokenizer: PreTrainedTokenizerFast,
    settings: Settings,
    draw: Callable[[random.Random], list[lessons.Span]],
) -> Batch:
    rows = [_row(rng, tokenizer, settings, draw) for _ in range(settings.rows)]
    return torch.tensor([ids for ids, _ in rows]), torch.tensor([w for _, w in rows])


def _lists(rng: random.Random) -> list[lessons.Span]:
    return rng.choice([lessons.name_list, lessons.recall])(rng)


def batches(
    tokenizer: PreTrainedTokenizerFast, settings: Settings, start: int = 0
) -> Iterator[Batch]:
    """Yield ids and loss weights, both (rows, tokens), without end: curriculum, then lessons.

    `start` is the step at which a resumed run goes on; it reads other lessons than the first part.
    """
    rng = random.Random(f"pretrain/{settings.seed}/{start}")
    for step in range(start, settings.curriculum_steps):
        part = step / settings.curriculum_steps
        vocabulary = 60 if part < 0.3 else 300 if part < 0.6 else VOCABULARY
        yield random_copies(rng, rng.randint(5, 12), vocabulary, settings.copy_batch_tokens)
    for step in range(max(0, start - settings.curriculum_steps), settings.warm_copy_steps):
        if step % 2:
            yield _rows(rng, tokenizer, settings, _lists)
        else:
            length = rng.randint(10, 60)
            yield random_copies(rng, length, VOCABULARY, settings.copy_batch_tokens)
    while True:
        yield _rows(rng, tokenizer, settings, lessons.lesson)


def _loss(
    model: LlamaForCausalLM, layers: Callable[..., Any], ids: Tensor, weights: Tensor
) -> Tensor:
    worth = weights[:, 1:]
    trained = worth > 0
    # Over half of the tokens are article text without weight: their logits are never computed.
    states = layers(input_ids=ids[:, :-1]).last_hidden_state[trained]
    logits = model.lm_head(states).float()
    each = cross_entropy(logits, ids[:, 1:][trained], reduction="none")
    return (each * worth[trained]).sum() / worth.sum().clamp(min=1.0)


def _optimizers(model: LlamaForCausalLM, settings: Settings) -> list[torch.optim.Optimizer]:
    matrices: list[Tensor] = []
    others: list[Tensor] = []
    for name, weight in model.named_parameters():
        (matrices if weight.ndim == 2 and "embed" not in name else others).append(weight)
    rate = settings.learning_rate
    return [
        torch.optim.Muon(
            matrices, lr=rate, weight_decay=settings.matrix_decay, adjust_lr_fn="match_rms_adamw"
        ),
        torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def _rate_share(step: int, progress: float, settings: Settings) -> float:
    warm = min(1.0, (step + 1) / 20)
    fall = (1 - progress) / (1 - settings.hold)
    return warm * max(settings.floor, min(1.0, fall))


def read_curve(path: Path) -> list[dict[str, float]]:
    """Return the rows of a curve."""
    with path.open(newline="") as file:
        return [
            {name: int(cell) if cell.isdigit() else float(cell) for name, cell in row.items()}
            for row in csv.DictReader(file)
        ]


def _write_curve(path: Path, rows: list[dict[str, float]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def pretrain(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    settings: Settings,
    curve: Path,
    minutes: float,
    save: Callable[[LlamaForCausalLM], None] | None = None,
    resume: bool = False,
) -> dict[str, float]:
    """Train in place until the tokens or the minutes are used up; return the last probes.

    The rate follows whichever of the two is nearer to its end, so that it always falls to the
    floor. `save` is called with the model after each probe. The curve is a CSV file, a row a probe;
    with `resume` the run goes on after its last row, with fresh optimizers.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model.to(device)  # type: ignore[arg-type]
    model.config.use_cache = False
    optimizers = _optimizers(model, settings)
    rows = read_curve(curve) if resume else []
    result: dict[str, float] = rows[-1] if rows else {}
    first = step = int(result.get("step", 0))
    tokens, average = int(result.get("tokens", 0)), 0.0
    started = time.monotonic() - result.get("seconds", 0.0)
    marks = {settings.curriculum_steps, settings.curriculum_steps + settings.warm_copy_steps}
    source = batches(tokenizer, settings, first)
    compiled = torch.compile(model.model, dynamic=False) if settings.compile else model.model
    while True:
        seconds = time.monotonic() - started
        progress = max(tokens / settings.tokens, seconds / (60 * minutes))
        finished = progress >= 1
        if step > first and (finished or step % settings.probe_every == 0 or step in marks):
            result = {
                "step": step,
                "tokens": tokens,
                "seconds": round(seconds, 1),
                "loss": round(average, 4),
                **probes.probe(model, tokenizer, device),
            }
            rows.append(result)
            _write_curve(curve, rows)
            print(" ".join(f"{name} {value}" for name, value in result.items()), flush=True)
            if save:
                save(model)
        if finished:
            break
        share = _rate_share(step - first, progress, settings)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = settings.learning_rate * share
        ids, weights = next(source)
        # The curriculum's rows have many lengths, each of which would be compiled anew.
        layers = compiled if ids.shape[1] == settings.row_tokens else model.model
        with torch.autocast(device, dtype=torch.bfloat16):
            loss = _loss(model, layers, ids.to(device), weights.to(device))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        tokens += ids.numel()
        average = loss.item() if step == first else 0.95 * average + 0.05 * loss.item()
        step += 1
    model.config.use_cache = True
    return result
