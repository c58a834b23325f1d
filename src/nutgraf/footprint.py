"""How much memory a study takes, in bytes: arithmetic from shape, lengths of rows and settings.

Every assumption is a name here with its source; `measurement` takes times, this takes none.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nutgraf.budget import at_once, steps_of
from nutgraf.config import replace
from nutgraf.section import Choices
from nutgraf.settings import Config, LoraSettings, TrainConfig


@dataclass(frozen=True)
class Shape:
    """What time and memory of a causal language model depend on, known without its weights."""

    layers: int
    width: int
    """Numbers that stand for a token between layers."""
    inner: int
    """Numbers inside a layer's feed-forward part."""
    heads: int
    query_width: int
    """Numbers of all attention heads together."""
    key_width: int
    """Numbers of all key heads together; values have as many."""
    vocabulary: int
    positions: int
    """The longest text it was made for, in tokens."""
    linear: int
    """Weights of the layers' matrices, which can be held in 4 bits."""
    other: int
    """All other weights: embeddings, output layer, norms."""
    adapter: int
    """Weights of one LoRA adapter with the configuration's settings."""


@dataclass(frozen=True)
class Lengths:
    """Tokens of rows, as means and as the longest; a row is a prompt and its summary."""

    row: float
    longest_row: int
    prompt: float
    longest_prompt: int
    summary: float
    longest_summary: int


@dataclass(frozen=True)
class Machine:
    """Where the study would run."""

    device: str
    """`cpu` or `cuda`."""
    half: bool
    """Whether products are computed in 2 bytes a number, else in 4."""
    cores: int
    free: int
    """Bytes that the device has free: of the GPU, or of memory where there is none."""


# Of one process, measured with torch 2.13 on a CPU (docs/benchmarks.md, Planner).
PROCESS = 620_000_000  # Python with torch, transformers, peft and trl, before a model is loaded
CONTEXT = 500_000_000  # of a GPU, for CUDA itself: an estimate, not measured
FRAGMENTS = 1.1  # blocks of a GPU that are kept and of no use at the moment: an estimate
# On a CPU oneDNN compiles each product for its shape and keeps it: bytes for each length in tokens
# that a micro-batch has come with (measured: 1.2 GB in 56 steps of the newswire).
COMPILED = 15_000_000
COMPILED_MOST = 100  # lengths, after which the oldest are forgotten

# What autograd keeps of a layer, in bytes a token, times these widths; products are in 2 bytes a
# number. Least squares over 15 shapes of Llama, adapters on all linear layers: within 1%.
KEPT = {"width": 18.0, "query_width": 6.0, "key_width": 3.9, "inner": 8.05, "r": 24.4}
KEPT_IN_FULL = 1.36  # times as much where products are computed in 4 bytes (measured)
DROPPED = 3.65  # with dropout, for each number that goes into an adapter (measured)
SCORES_LIMIT = 2**30  # bytes; beyond it a CPU trains with torch's fused attention (attention.py)
LOGIT = 14  # bytes of a logit in training: 2 + 4 in fp32 + its gradient and its softmax
ADAPTER = 16  # bytes of an adapter's weight: itself, its gradient, AdamW's two moments, all fp32
NF4_BITS = {True: 4.13, False: 4.5}  # a weight, with and without double quantization (QLoRA)
CHECKPOINT = 12  # bytes of an adapter's weight on disk, with AdamW's two moments
ARTICLE = (
    12_000  # bytes of an article with all its summaries and scores: of CNN/DailyMail, rounded up
)
REPORT = 50_000_000  # bytes of figures, report and Ray's own files, rounded up
EVALUATED = 16  # rows in a batch of losses (inference.summary_losses)


def lengths(rows: Sequence[tuple[int, int]]) -> Lengths:
    """Of training rows as (tokens, of which the prompt has)."""
    row, prompt = zip(*rows, strict=True)
    summary = [whole - before for whole, before in rows]
    n = len(rows)
    return Lengths(
        sum(row) / n, max(row), sum(prompt) / n, max(prompt), sum(summary) / n, max(summary)
    )


def scores(layers: int, heads: int, rows: int, tokens: int, number: int) -> int:
    """Bytes of the attention scores of [rows, tokens] where a training keeps them all, as plain
    products in `number` bytes each (attention.py)."""
    return layers * heads * rows * tokens**2 * number


def weights(config: Config, shape: Shape, machine: Machine) -> float:
    """Bytes of the frozen base as it is held (model.load_base)."""
    if config.model.quantization == "nf4":
        number = 2 if machine.half else 4
        bits = NF4_BITS[config.model.double_quantization]
        # The largest matrix is unpacked for its product.
        return shape.linear * bits / 8 + (shape.other + shape.width * shape.inner) * number
    number = 2 if machine.half else 4
    return shape.linear * number + shape.other * (number if machine.device == "cuda" else 4)


def training(config: Config, shape: Shape, rows: Lengths, machine: Machine) -> float:
    """Most bytes that one training holds, evaluations included, without CUDA's own.

    Of micro-batches that are searched the largest counts.
    """
    searched = config.search.space.get("train.micro_batch_size")
    if isinstance(searched, Choices):
        config = replace(config, {"train.micro_batch_size": max(searched.choices)})
    settings = config.train
    held = weights(config, shape, machine) + ADAPTER * shape.adapter
    step = _kept(settings, config.lora, shape, rows, machine)
    step += settings.micro_batch_size * rows.longest_summary * shape.vocabulary * LOGIT
    looked = _passed(EVALUATED, rows.longest_row, shape, machine)
    looked += EVALUATED * rows.longest_summary * shape.vocabulary * 6
    if machine.device == "cuda":
        return (held + max(step, looked)) * FRAGMENTS
    if _plain(settings.micro_batch_size, shape, rows, machine):
        looked += scores(1, shape.heads, EVALUATED, rows.longest_row, 4)
    # The longest row of a micro-batch is seldom below the mean.
    met = min(COMPILED_MOST, 2 * (rows.longest_row - int(rows.row)) + 1)
    batches = steps_of(settings) * settings.gradient_accumulation_steps
    compiled = min(met, batches) * COMPILED if machine.half else 0
    # An evaluation finds little room in the blocks that a step has left.
    return PROCESS + held + step + looked + compiled


def generating(config: Config, shape: Shape, rows: Lengths, machine: Machine) -> float:
    """Most bytes that writing summaries holds, without CUDA's own."""
    settings = config.generate
    decoded = settings.batch_size * settings.num_beams
    number = 2 if machine.half else 4
    cache = decoded * (rows.longest_prompt + settings.max_new_tokens) * shape.key_width * 2 * number
    held = weights(config, shape, machine) + 4 * shape.adapter + cache * shape.layers
    read = _passed(decoded, rows.longest_prompt, shape, machine)
    size = held + max(read, cache)
    return size * FRAGMENTS if machine.device == "cuda" else PROCESS + size


def on_disk(config: Config, shape: Shape, articles: int) -> float:
    """Bytes that a run folder may come to, while trials and trainings keep their checkpoints."""
    trainings = 2 * len(config.train.seeds)
    adapters = config.search.trials + trainings + 1
    checkpoints = max(at_once(config.search), 1) * 2  # the best and the last of each
    kept = shape.adapter * (4 * adapters + CHECKPOINT * checkpoints)
    return kept + articles * ARTICLE + REPORT


def stages(config: Config, shape: Shape, rows: Lengths, machine: Machine) -> dict[str, float]:
    """Most bytes on the device, CUDA's own included, by the stages that hold a model."""
    own = CONTEXT if machine.device == "cuda" else 0
    together = min(at_once(config.search), 2 * len(config.train.seeds))
    waiting = own or (PROCESS if together > 1 else 0)
    one = training(config, shape, rows, machine) + own
    return {
        "search": at_once(config.search) * one + (own or PROCESS),
        "train": together * one + waiting,
        "generate": generating(config, shape, rows, machine) + own,
    }


def suggest_changes(
    config: Config, shape: Shape, rows: Lengths, machine: Machine
) -> dict[str, tuple[object, object]] | None:
    """Return the smallest change with which all stages fit: {setting: (now, then)}.

    It has as few settings as possible, the first of those that suffice. It is empty if all stages
    fit, and None if no change of these settings suffices.
    """
    micro = config.train.micro_batch_size
    batches = micro * config.train.gradient_accumulation_steps
    then: dict[str, list[Any]] = {
        "train.micro_batch_size": _halved(micro),
        "search.concurrent": _halved(config.search.concurrent),
        "train.activation_checkpointing": sorted({config.train.activation_checkpointing, True}),
        "model.quantization": list(dict.fromkeys([config.model.quantization, "nf4"])),
        "generate.batch_size": _halved(config.generate.batch_size),
    }
    now = {name: levels[0] for name, levels in then.items()}
    found = []
    for values in itertools.product(*then.values()):
        changed = dict(zip(then, values, strict=True))
        tried = replace(config, changed)
        if max(stages(tried, shape, rows, machine).values()) <= machine.free:
            levels = [then[name].index(value) for name, value in changed.items()]
            which = [place for place, level in enumerate(levels) if level]
            different = {name: (now[name], v) for name, v in changed.items() if v != now[name]}
            found.append((len(which), which, levels, different))
    if not found:
        return None
    *_, changes = min(found, key=lambda choice: choice[:3])
    if "train.micro_batch_size" in changes:  # the optimizer's steps stay as they are
        accumulated = batches // changes["train.micro_batch_size"][1]
        before = config.train.gradient_accumulation_steps
        changes["train.gradient_accumulation_steps"] = (before, accumulated)
    return changes


def _halved(number: int) -> list[int]:
    levels = [number]
    while levels[-1] > 1:
        levels.append(levels[-1] // 2)
    return levels


def _kept(
    settings: TrainConfig, lora: LoraSettings, shape: Shape, rows: Lengths, machine: Machine
) -> float:
    """Bytes of what the backward pass of one micro-batch needs."""
    tokens = settings.micro_batch_size * rows.longest_row
    widths = {**vars(shape), "r": lora.r}
    layer = tokens * sum(each * widths[name] for name, each in KEPT.items())
    layer *= 1 if machine.half else KEPT_IN_FULL
    if lora.dropout:
        layer += tokens * DROPPED * (6 * shape.width + shape.inner)
    if _plain(settings.micro_batch_size, shape, rows, machine):
        number = 2 if machine.half else 4
        layer += scores(1, shape.heads, settings.micro_batch_size, rows.longest_row, number)
    if settings.activation_checkpointing:
        between = 2 if machine.device == "cuda" and machine.half else 4
        return layer + shape.layers * tokens * shape.width * between
    return layer * shape.layers


def _plain(micro_batch: int, shape: Shape, rows: Lengths, machine: Machine) -> bool:
    """Whether attention is trained as plain products (attention.training_attention)."""
    number = 2 if machine.half else 4
    kept = scores(shape.layers, shape.heads, micro_batch, rows.longest_row, number)
    return machine.device == "cpu" and kept <= SCORES_LIMIT


def _passed(rows: int, tokens: int, shape: Shape, machine: Machine) -> float:
    """Bytes of one layer's numbers on the way through, without a backward pass: the feed-forward
    part's as products give them, four of the width of what goes between layers in fp32."""
    number = 2 if machine.half else 4
    return rows * tokens * (3 * shape.inner * number + 4 * shape.width * 4)
