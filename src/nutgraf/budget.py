"""The budget of a training: steps, rows in their order, evaluations; how many run at a time."""

from __future__ import annotations

import math
import os
import random
from collections.abc import Sequence

from nutgraf.settings import SearchConfig, TrainConfig


def steps_of(settings: TrainConfig) -> int:
    """Optimizer steps of one training: the budget over the effective batch, at least one."""
    if settings.max_steps is not None:
        return settings.max_steps
    assert settings.max_examples is not None  # settings.TrainConfig holds that one of them is set
    return max(1, round(settings.max_examples / effective_batch(settings)))


def effective_batch(settings: TrainConfig) -> int:
    """Examples in one optimizer step."""
    return settings.micro_batch_size * settings.gradient_accumulation_steps


def evaluation_steps(settings: TrainConfig) -> list[int]:
    """The steps after which the validation rows are evaluated, the last step among them.

    Their number depends on the budget in examples alone, so that the n-th evaluations of two
    trials with other batches have seen the same number of examples (within one step).
    """
    steps = steps_of(settings)
    count = min(steps, max(1, round(steps * effective_batch(settings) / settings.eval_every)))
    return [math.ceil(steps * k / count) for k in range(1, count + 1)]


def warmup_of(settings: TrainConfig) -> int:
    """Steps in which the learning rate rises, as transformers counts them."""
    asked = settings.warmup_steps
    return int(asked) if asked >= 1 else math.ceil(steps_of(settings) * asked)


def row_every(settings: TrainConfig) -> int:
    """Steps between two rows of a training's history: about forty of them in all."""
    return max(1, steps_of(settings) // 40)


def training_order(lengths: Sequence[int], batch: int, steps: int, seed: int) -> list[int]:
    """Indices of the rows in the order of training, `steps` times `batch` of them.

    Seeded permutations follow each other; within one optimizer step rows go longest first, so
    that its micro-batches hold rows of like length. What a step sees depends on the effective
    batch alone: 1 x 8 and 8 x 1 train on the same rows.
    """
    draw = random.Random(seed)
    order: list[int] = []
    while len(order) < steps * batch:
        epoch = list(range(len(lengths)))
        draw.shuffle(epoch)
        order += epoch
    return [
        index
        for start in range(0, steps * batch, batch)
        for index in sorted(order[start : start + batch], key=lambda i: (-lengths[i], i))
    ]


def at_once(search: SearchConfig) -> int:
    """Trainings at a time on this machine: as many as asked for, if there are cores for them."""
    return min(search.concurrent, max(1, int((os.cpu_count() or 1) / search.cpus_per_trial)))
