"""How much memory a study takes, in bytes: arithmetic from shape, lengths of rows and settings.

Every assumption is a name here with its source; `measurement` takes times, this takes none.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nutgraf.config import Config, LoraSettings, TrainConfig
from nutgraf.config.load import replace_settings
from nutgraf.config.types import Choices
from nutgraf.modeling.dims import (
    ATTENTION_SCORE_LIMIT,
    EVAL_BATCH_SIZE,
    ModelDims,
    attention_score_bytes,
)
from nutgraf.training.budget import at_once, total_steps


@dataclass(frozen=True)
class RowLengths:
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
ACTIVATION_BYTES = {"width": 18.0, "query_width": 6.0, "key_width": 3.9, "inner": 8.05, "r": 24.4}
KEPT_IN_FULL = 1.36  # times as much where products are computed in 4 bytes (measured)
DROPPED = 3.65  # with dropout, for each number that goes into an adapter (measured)
LOGIT = 14  # bytes of a logit in training: 2 + 4 in fp32 + its gradient and its softmax
ADAPTER = 16  # bytes of an adapter's weight: itself, its gradient, AdamW's two moments, all fp32
NF4_BITS = {True: 4.13, False: 4.5}  # a weight, with and without double quantization (QLoRA)
CHECKPOINT = 12  # bytes of an adapter's weight on disk, with AdamW's two moments
ARTICLE = (
    12_000  # bytes of an article with all its summaries and scores: of CNN/DailyMail, rounded up
)
REPORT = 50_000_000  # bytes of figures, report and Ray's own files, rounded up


def row_lengths(rows: Sequence[tuple[int, int]]) -> RowLengths:
    """Of training rows as (tokens, of which the prompt has)."""
    row, prompt = zip(*rows, strict=True)
    summary = [whole - before for whole, before in rows]
    n = len(rows)
    return RowLengths(
        sum(row) / n, max(row), sum(prompt) / n, max(prompt), sum(summary) / n, max(summary)
    )


def base_bytes(config: Config, shape: ModelDims, machine: Machine) -> float:
    """Bytes of the frozen base as it is held (model.load_base)."""
    if config.model.quantization == "nf4":
        number = 2 if machine.half else 4
        bits = NF4_BITS[config.model.double_quantization]
        # The largest matrix is unpacked for its product.
        return shape.linear * bits / 8 + (shape.other + shape.width * shape.inner) * number
    number = 2 if machine.half else 4
    return shape.linear * number + shape.other * (number if machine.device == "cuda" else 4)


def training_bytes(config: Config, shape: ModelDims, rows: RowLengths, machine: Machine) -> float:
    """Most bytes that one training holds, evaluations included, without CUDA's own.

    Of micro-batches that are searched the largest counts.
    """
    searched = config.search.space.get("train.micro_batch_size")
    if isinstance(searched, Choices):
        config = replace_settings(config, {"train.micro_batch_size": max(searched.choices)})
    settings = config.train
    held = base_bytes(config, shape, machine) + ADAPTER * shape.adapter
    step = _kept(settings, config.lora, shape, rows, machine)
    step += settings.micro_batch_size * rows.longest_summary * shape.vocabulary * LOGIT
    looked = _passed(EVAL_BATCH_SIZE, rows.longest_row, shape, machine)
    looked += EVAL_BATCH_SIZE * rows.longest_summary * shape.vocabulary * 6
    if machine.device == "cuda":
        return (held + max(step, looked)) * FRAGMENTS
    if _plain(settings.micro_batch_size, shape, rows, machine):
        looked += attention_score_bytes(1, shape.heads, EVAL_BATCH_SIZE, rows.longest_row, 4)
    # The longest row of a micro-batch is seldom below the mean.
    met = min(COMPILED_MOST, 2 * (rows.longest_row - int(rows.row)) + 1)
    batches = total_steps(settings) * settings.gradient_accumulation_steps
    compiled = min(met, batches) * COMPILED if machine.half else 0
    # An evaluation finds little room in the blocks that a step has left.
    return PROCESS + held + step + looked + compiled


def generation_bytes(config: Config, shape: ModelDims, rows: RowLengths, machine: Machine) -> float:
    """Most bytes that writing summaries holds, without CUDA's own."""
    settings = config.generate
    decoded = settings.batch_size * settings.num_beams
    number = 2 if machine.half else 4
    cache = decoded * (rows.longest_prompt + settings.max_new_tokens) * shape.key_width * 2 * number
    held = base_bytes(config, shape, machine) + 4 * shape.adapter + cache * shape.layers
    read = _passed(decoded, rows.longest_prompt, shape, machine)
    size = held + max(read, cache)
    return size * FRAGMENTS if machine.device == "cuda" else PROCESS + size


def disk_bytes(config: Config, shape: ModelDims, articles: int) -> float:
    """Bytes that a run folder may come to, while trials and trainings keep their checkpoints."""
    trainings = 2 * len(config.train.seeds)
    adapters = config.search.trials + trainings + 1
    checkpoints = max(at_once(config.search), 1) * 2  # the best and the last of each
    kept = shape.adapter * (4 * adapters + CHECKPOINT * checkpoints)
    return kept + articles * ARTICLE + REPORT


def bytes_by_stage(
    config: Config, shape: ModelDims, rows: RowLengths, machine: Machine
) -> dict[str, float]:
    """Most bytes on the device, CUDA's own included, by the stages that hold a model."""
    own = CONTEXT if machine.device == "cuda" else 0
    together = min(at_once(config.search), 2 * len(config.train.seeds))
    waiting = own or (PROCESS if together > 1 else 0)
    one = training_bytes(config, shape, rows, machine) + own
    return {
        "search": at_once(config.search) * one + (own or PROCESS),
        "train": together * one + waiting,
        "generate": generation_bytes(config, shape, rows, machine) + own,
    }


def suggest_changes(
    config: Config, shape: ModelDims, rows: RowLengths, machine: Machine
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
        tried = replace_settings(config, changed)
        if max(bytes_by_stage(tried, shape, rows, machine).values()) <= machine.free:
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
    settings: TrainConfig, lora: LoraSettings, shape: ModelDims, rows: RowLengths, machine: Machine
) -> float:
    """Bytes of what the backward pass of one micro-batch needs."""
    tokens = settings.micro_batch_size * rows.longest_row
    widths = {**vars(shape), "r": lora.r}
    layer = tokens * sum(each * widths[name] for name, each in ACTIVATION_BYTES.items())
    layer *= 1 if machine.half else KEPT_IN_FULL
    if lora.dropout:
        layer += tokens * DROPPED * (6 * shape.width + shape.inner)
    if _plain(settings.micro_batch_size, shape, rows, machine):
        number = 2 if machine.half else 4
        layer += attention_score_bytes(
            1, shape.heads, settings.micro_batch_size, rows.longest_row, number
        )
    if settings.activation_checkpointing:
        between = 2 if machine.device == "cuda" and machine.half else 4
        return layer + shape.layers * tokens * shape.width * between
    return layer * shape.layers


def _plain(micro_batch: int, shape: ModelDims, rows: RowLengths, machine: Machine) -> bool:
    """Whether attention is trained as plain products (attention.training_attention)."""
    number = 2 if machine.half else 4
    kept = attention_score_bytes(shape.layers, shape.heads, micro_batch, rows.longest_row, number)
    return machine.device == "cpu" and kept <= ATTENTION_SCORE_LIMIT


def _passed(rows: int, tokens: int, shape: ModelDims, machine: Machine) -> float:
    """Bytes of one layer's numbers on the way through, without a backward pass: the feed-forward
    part's as products give them, four of the width of what goes between layers in fp32."""
    number = 2 if machine.half else 4
    return rows * tokens * (3 * shape.inner * number + 4 * shape.width * 4)
