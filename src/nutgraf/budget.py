"""What is computed when: steps, rows and evaluations of a training, batches, how many at a time."""

from __future__ import annotations

import math
import os
import random
from collections.abc import Container, Iterator, Sequence

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


def share(settings: TrainConfig, processes: int) -> tuple[int, int]:
    """Micro-batch size and number of micro-batches of one of `processes` in an optimizer step.

    Where the step's rows cannot be shared out evenly, there is room for a few more than there are.
    """
    rows = math.ceil(effective_batch(settings) / processes)
    accumulated = math.ceil(rows / settings.micro_batch_size)
    return math.ceil(rows / accumulated), accumulated


def batches(lengths: Sequence[int], size: int, done: Container[int] = ()) -> Iterator[list[int]]:
    """Indices of rows that are computed together, the longest first.

    They are the same whatever is done; those left out are done altogether.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    for start in range(0, len(order), size):
        batch = order[start : start + size]
        if any(index not in done for index in batch):
            yield batch


def at_once(search: SearchConfig) -> int:
    """Trainings at a time on this machine: as many as asked for, if there are cores for them."""
    return min(search.concurrent, max(1, int((os.cpu_count() or 1) / search.cpus_per_trial)))
