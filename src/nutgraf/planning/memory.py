"""Predict how much memory and disk a study takes, from dimensions, row lengths and settings.

Every assumption is a constant here with its source. `benchmark` measures times; nothing here does.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nutgraf.config import Config
from nutgraf.config.load import with_overrides
from nutgraf.config.systems import fits_choice, start_of_round, trained_models
from nutgraf.modeling.dims import (
    ATTENTION_SCORE_LIMIT,
    EVAL_BATCH_SIZE,
    LOGIT_POSITIONS,
    PASSAGE_TOKENS,
    READ_ROWS,
    SENTENCE_TOKENS,
    ModelDims,
    attention_score_bytes,
    fused_score_bytes,
)
from nutgraf.training.budget import candidates_config, round_config


@dataclass(frozen=True)
class RowLengths:
    """Mean and longest lengths in tokens; a row is a prompt and its summary."""

    row: float
    longest_row: int
    prompt: float
    longest_prompt: int
    summary: float
    longest_summary: int
    padded: float = 0.0  # of a row in training, padded to the longest beside it; 0 if not known


@dataclass(frozen=True)
class Machine:
    """The device that a study would run on."""

    device: str  # cpu or cuda
    half: bool  # products are computed in 2 bytes a number, else in 4
    cores: int
    free: int  # free bytes of the GPU, or of memory if there is none

    @property
    def number_bytes(self) -> int:
        """Return the bytes of a number in a product."""
        return 2 if self.half else 4


# Of one process, measured with torch 2.13 on a CPU (docs/benchmarks.md, Planner).
PROCESS_BYTES = 620_000_000  # Python with torch, transformers, peft and trl, without a model
CUDA_CONTEXT_BYTES = 500_000_000  # an estimate, not measured
CUDA_FRAGMENTATION = 1.1  # an estimate
# On a CPU oneDNN compiles a product for its shape, and keeps 256 (`nutgraf/__init__.py`), of about
# a megabyte each (measured).
COMPILED_BYTES = 256_000_000

# What autograd saves of a layer, in bytes a token, times these widths; products are in 2 bytes a
# number. Least squares over 15 shapes of Llama, adapters on all linear layers: within 1%.
ACTIVATION_BYTES = {"width": 18.0, "query_width": 6.0, "key_width": 3.9, "inner": 8.05, "r": 24.4}
FP32_ACTIVATIONS = 1.36  # times as much if products are computed in 4 bytes (measured)
DROPOUT_BYTES = 3.65  # for each number that goes into an adapter (measured)
LOGIT_BYTES = 14  # of a logit in training: 2 + 4 in fp32 + its gradient and its softmax
SCORE_BYTES = 12  # of a word's score in writing: in fp32, divided by the temperature, exponential
ADAPTER_BYTES = 16  # of an adapter's weight: itself, gradient, AdamW's two moments, all fp32
NF4_BITS = {True: 4.13, False: 4.5}  # of a weight, with and without double quantization (QLoRA)
CHECKPOINT_BYTES = 12  # of an adapter's weight on disk, with AdamW's two moments
ARTICLE_BYTES = 12_000  # of a CNN/DailyMail article with all its summaries and scores, rounded up
REPORT_BYTES = 50_000_000  # of figures, report and Ray's own files, rounded up


def row_lengths(rows: Sequence[tuple[int, int]]) -> RowLengths:
    """Return the lengths of rows of (tokens, tokens of the prompt)."""
    row, prompt = zip(*rows, strict=True)
    summary = [tokens - prompt_tokens for tokens, prompt_tokens in rows]
    n = len(rows)
    return RowLengths(
        sum(row) / n, max(row), sum(prompt) / n, max(prompt), sum(summary) / n, max(summary)
    )


def base_bytes(config: Config, dims: ModelDims, machine: Machine) -> float:
    """Return the bytes of the frozen base once it is loaded."""
    number = machine.number_bytes
    if config.model.quantization == "nf4":
        bits = NF4_BITS[config.model.double_quantization]
        # The largest matrix is unpacked for its product.
        return dims.linear * bits / 8 + (dims.other + dims.width * dims.inner) * number
    return dims.linear * number + dims.other * (number if machine.device == "cuda" else 4)


def training_bytes(config: Config, dims: ModelDims, rows: RowLengths, machine: Machine) -> float:
    """Return the peak bytes of one training and its evaluations, without CUDA's own.

    If micro-batches are searched, the largest counts.
    """
    config = with_overrides(config, config.search.largest("train.micro_batch_size"))
    train = config.train
    resident = base_bytes(config, dims, machine) + ADAPTER_BYTES * dims.adapter
    step = activation_bytes(config, dims, rows, machine)
    step += train.micro_batch_size * rows.longest_summary * dims.vocabulary * LOGIT_BYTES
    evaluation = _evaluation_bytes(dims, rows, machine)
    if machine.device == "cuda":
        return (resident + max(step, evaluation)) * CUDA_FRAGMENTATION
    if _block_attention(train.micro_batch_size, dims, rows, machine):
        evaluation += attention_score_bytes(1, dims.heads, EVAL_BATCH_SIZE, rows.longest_row, 4)
    # An evaluation finds little room in the blocks that a step has left.
    return PROCESS_BYTES + resident + step + evaluation + _compiled_bytes(machine)


def generation_bytes(config: Config, dims: ModelDims, rows: RowLengths, machine: Machine) -> float:
    """Return the peak bytes of generating summaries, and of losses of references, without CUDA's.

    A CPU without beams computes these from the same reading, others apart.
    """
    generate, number = config.generate, machine.number_bytes
    sequences = generate.batch_size * generate.num_beams
    tokens = rows.longest_prompt + generate.max_new_tokens
    layer_cache = sequences * tokens * dims.key_width * 2 * number
    loaded = base_bytes(config, dims, machine) + 4 * dims.adapter
    writing: float = layer_cache * dims.layers
    writing += max(_forward_bytes(sequences, rows.longest_prompt, dims, machine), layer_cache)
    # A CPU keeps the keys and values of a prompt once for all candidates, a GPU for each of them.
    own = generate.max_new_tokens if machine.device == "cpu" else tokens
    more = (generate.candidates - 1) * sequences * own
    writing += more * dims.key_width * 2 * number * dims.layers
    writing += sequences * generate.candidates * dims.vocabulary * (number + SCORE_BYTES)
    if machine.device == "cpu" and generate.num_beams == 1:
        positions = min(LOGIT_POSITIONS, generate.batch_size * rows.longest_summary)
        # Those of two steps, and twice those of a row in fp32. They find little room in the blocks
        # that reading has left.
        logits = positions * dims.vocabulary * (2 * number + 8 / generate.batch_size)
        return PROCESS_BYTES + loaded + writing + logits + _compiled_bytes(machine)
    size = loaded + max(writing, _evaluation_bytes(dims, rows, machine))
    if machine.device == "cuda":
        return size * CUDA_FRAGMENTATION
    return PROCESS_BYTES + size + _compiled_bytes(machine)


def _evaluation_bytes(dims: ModelDims, rows: RowLengths, machine: Machine) -> float:
    """Return the bytes of a batch of losses of given summaries."""
    logits = EVAL_BATCH_SIZE * rows.longest_summary * dims.vocabulary * 6
    return _forward_bytes(EVAL_BATCH_SIZE, rows.longest_row, dims, machine) + logits


def _compiled_bytes(machine: Machine) -> int:
    return COMPILED_BYTES if machine.device == "cpu" and machine.half else 0


def facts_bytes(config: Config, dims: ModelDims, machine: Machine) -> float:
    """Return the peak bytes of reading sentences behind passages, without CUDA's own."""
    size = base_bytes(config, dims, machine)
    size += _forward_bytes(READ_ROWS, PASSAGE_TOKENS + SENTENCE_TOKENS, dims, machine)
    size += READ_ROWS * SENTENCE_TOKENS * dims.vocabulary * 6  # logits, and those of a row in fp32
    return size * CUDA_FRAGMENTATION if machine.device == "cuda" else PROCESS_BYTES + size


def first_trainings(config: Config) -> int:
    """Return how many trainings come before the rounds: of baselines and best models, all seeds."""
    return sum(start_of_round(name) is None for name in trained_models(config))


def disk_bytes(config: Config, dims: ModelDims, articles: int) -> float:
    """Return the bytes of a run folder at its largest, with the checkpoints of trainings."""
    adapters = config.search.trials + len(trained_models(config)) + 1
    checkpoints = config.search.parallel_trials * 2  # the best and the last of each
    weights = dims.adapter * (4 * adapters + CHECKPOINT_BYTES * checkpoints)
    return weights + articles * ARTICLE_BYTES + REPORT_BYTES


def bytes_by_stage(
    config: Config, dims: ModelDims, rows: RowLengths, machine: Machine
) -> dict[str, float]:
    """Return the peak bytes on the device, CUDA's own included, of the stages that load a model."""
    context = CUDA_CONTEXT_BYTES if machine.device == "cuda" else 0
    trials = config.search.parallel_trials
    trainings = min(trials, first_trainings(config))
    parent = context or (PROCESS_BYTES if trainings > 1 else 0)
    one = training_bytes(config, dims, rows, machine) + context
    train = trainings * one + parent
    generate = generation_bytes(config, dims, rows, machine) + context
    writer = generation_bytes(candidates_config(config), dims, rows, machine) + context
    if config.train.rounds:
        own = round_config(config, config.preference.articles)
        train = max(train, writer, training_bytes(own, dims, rows, machine) + context)
    elif fits_choice(config):
        generate = max(generate, writer)
    peaks = {
        "search": trials * one + (context or PROCESS_BYTES),
        "train": train,
        "generate": generate,
    }
    if config.facts.articles:
        peaks["score"] = facts_bytes(config, dims, machine) + context
    return peaks


def suggest_changes(
    config: Config, dims: ModelDims, rows: RowLengths, machine: Machine
) -> dict[str, tuple[object, object]] | None:
    """Return the smallest change with which all stages fit: {setting: (now, then)}.

    It has as few settings as possible, the first of those that suffice. It is empty if all stages
    fit, and None if no change of these settings suffices.
    """
    train = config.train
    options: dict[str, list[Any]] = {  # the present value first, then smaller ones
        "train.micro_batch_size": _divisors(train.micro_batch_size),
        "search.concurrent": _halvings(config.search.concurrent),
        "train.activation_checkpointing": sorted({train.activation_checkpointing, True}),
        "model.quantization": list(dict.fromkeys([config.model.quantization, "nf4"])),
        "generate.batch_size": _halvings(config.generate.batch_size),
    }

    def size_of_change(levels: Sequence[int]) -> tuple[int, list[int], Sequence[int]]:
        changed = [place for place, level in enumerate(levels) if level]
        return len(changed), changed, levels

    levels_of_all = itertools.product(*(range(len(values)) for values in options.values()))
    for levels in sorted(levels_of_all, key=size_of_change):
        pairs = zip(options.items(), levels, strict=True)
        changes = {name: (values[0], values[level]) for (name, values), level in pairs if level}
        changed = with_overrides(config, {name: then for name, (_, then) in changes.items()})
        if max(bytes_by_stage(changed, dims, rows, machine).values()) <= machine.free:
            if "train.micro_batch_size" in changes:
                now = train.gradient_accumulation_steps
                then = train.micro_batch_size * now // changed.train.micro_batch_size
                changes["train.gradient_accumulation_steps"] = (now, then)
            return changes
    return None


def _divisors(number: int) -> list[int]:
    """Return what divides `number`, the largest first: so the effective batch can stay as it is."""
    return [n for n in range(number, 0, -1) if number % n == 0]


def _halvings(number: int) -> list[int]:
    return [number] if number == 1 else [number, *_halvings(number // 2)]


def activation_bytes(config: Config, dims: ModelDims, rows: RowLengths, machine: Machine) -> float:
    """Return the bytes that the backward pass of one micro-batch needs."""
    train, number = config.train, machine.number_bytes
    tokens = train.micro_batch_size * rows.longest_row
    scores = dims.heads, train.micro_batch_size, rows.longest_row, number
    if _fused(config, dims, machine):
        products = 2 * (dims.width + dims.query_width + dims.key_width + dims.inner)
        layer = tokens * (8.0 * dims.width + number * (products + 7 * config.lora.r))
        if fused_score_bytes(dims.layers, *scores) <= ATTENTION_SCORE_LIMIT:
            layer += fused_score_bytes(1, *scores)
    else:
        widths = {**vars(dims), "r": config.lora.r}
        layer = tokens * sum(each * widths[name] for name, each in ACTIVATION_BYTES.items())
        layer *= 1 if machine.half else FP32_ACTIVATIONS
        if config.lora.dropout:
            layer += tokens * DROPOUT_BYTES * (6 * dims.width + dims.inner)
        if _block_attention(train.micro_batch_size, dims, rows, machine):
            layer += attention_score_bytes(1, *scores)
    if train.activation_checkpointing:
        saved = 2 if machine.device == "cuda" and machine.half else 4
        return layer + dims.layers * tokens * dims.width * saved
    return layer * dims.layers


def _fused(config: Config, dims: ModelDims, machine: Machine) -> bool:
    """Return whether layers are trained fused; trials may have dropout, with which they are not."""
    return dims.fused and machine.device == "cpu" and "lora.dropout" not in config.search.space


def _block_attention(micro_batch: int, dims: ModelDims, rows: RowLengths, machine: Machine) -> bool:
    """Return whether attention is trained in blocks (modeling.attention)."""
    scores = attention_score_bytes(
        dims.layers, dims.heads, micro_batch, rows.longest_row, machine.number_bytes
    )
    return machine.device == "cpu" and scores <= ATTENTION_SCORE_LIMIT


def _forward_bytes(rows: int, tokens: int, dims: ModelDims, machine: Machine) -> float:
    """Return the bytes of one layer's numbers in a forward pass without a backward pass.

    The feed-forward part's are as products give them; between layers there are four in fp32.
    """
    return rows * tokens * (3 * dims.inner * machine.number_bytes + 4 * dims.width * 4)
