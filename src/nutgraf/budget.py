"""Arithmetic of trainings: steps, evaluations, order of the rows, batches."""

from __future__ import annotations

import math
import os
import random
from collections.abc import Callable, Container, Iterator, Sequence

from nutgraf.section import Choices, Space
from nutgraf.settings import Config, SearchConfig, TrainConfig


def steps_of(settings: TrainConfig) -> int:
    """Return the optimizer steps of one training: budget over effective batch, at least one."""
    if settings.max_steps is not None:
        return settings.max_steps
    assert settings.max_examples is not None  # settings.TrainConfig holds that one of them is set
    return max(1, round(settings.max_examples / effective_batch(settings)))


def effective_batch(settings: TrainConfig) -> int:
    """Return the examples in one optimizer step."""
    return settings.micro_batch_size * settings.gradient_accumulation_steps


def evaluation_steps(settings: TrainConfig) -> list[int]:
    """Return the steps after which the validation rows are evaluated; the last step is one.

    Their number depends on the budget in examples alone, so that the n-th evaluations of two
    trials with different batches have seen equally many examples (within one step).
    """
    steps = steps_of(settings)
    count = min(steps, max(1, round(steps * effective_batch(settings) / settings.eval_every)))
    return [math.ceil(steps * k / count) for k in range(1, count + 1)]


def examples_of(settings: TrainConfig) -> int:
    """Return how many examples one training sees, repeats counted."""
    return steps_of(settings) * effective_batch(settings)


def worth_measuring(config: Config, examples: int, times: int) -> bool:
    """Return whether a search trains on at least `times` the `examples` of a speed measurement."""
    return config.search.trials * examples_of(config.train) >= times * examples


def warmup_of(settings: TrainConfig) -> int:
    """Return the steps in which the learning rate rises, as transformers counts them."""
    asked = settings.warmup_steps
    return int(asked) if asked >= 1 else math.ceil(steps_of(settings) * asked)


def row_every(settings: TrainConfig) -> int:
    """Return the steps between two rows of a history, so that it has about forty rows."""
    return max(1, steps_of(settings) // 40)


def most_examples(train: TrainConfig, space: Space) -> int:
    """Return a number of examples that no training with settings of `space` exceeds."""
    batch = _largest(space, "train.micro_batch_size", train.micro_batch_size) * _largest(
        space, "train.gradient_accumulation_steps", train.gradient_accumulation_steps
    )
    if train.max_steps is not None:
        return train.max_steps * batch
    assert train.max_examples is not None
    return train.max_examples + batch


def _largest(space: Space, name: str, otherwise: int) -> int:
    if name not in space:
        return otherwise
    domain = space[name]
    return max(map(int, domain.choices)) if isinstance(domain, Choices) else int(domain.high)


def drawn(rows: int, examples: int, seed: int) -> list[int]:
    """Return the indices of the `examples` that a training on so many rows sees, step by step.

    Seeded permutations of all rows follow each other, so a smaller budget sees the first part of
    what a larger one sees.
    """
    draw = random.Random(seed)
    order: list[int] = []
    while len(order) < examples:
        epoch = list(range(rows))
        draw.shuffle(epoch)
        order += epoch
    return order[:examples]


def longest_first(order: Sequence[int], length: Callable[[int], int], batch: int) -> list[int]:
    """Return `drawn` indices with the longest row of each optimizer step first.

    So a step's micro-batches hold rows of similar length. What a step sees depends on the effective
    batch alone: 1 x 8 and 8 x 1 train on the same rows.
    """
    return [
        index
        for start in range(0, len(order), batch)
        for index in sorted(order[start : start + batch], key=lambda i: (-length(i), i))
    ]


def training_order(lengths: Sequence[int], batch: int, steps: int, seed: int) -> list[int]:
    """Return row indices in the order of training: `steps` times `batch` of them."""
    order = drawn(len(lengths), steps * batch, seed)
    return longest_first(order, lengths.__getitem__, batch)


def halved(batch: int, micro: int) -> int:
    """Return the largest divisor of `batch` that is at most half of `micro`."""
    return max(n for n in range(1, micro // 2 + 1) if batch % n == 0)


def share(settings: TrainConfig, processes: int) -> tuple[int, int]:
    """Return (micro-batch size, micro-batches a step) of one of `processes`.

    If a step's rows cannot be shared evenly, there is room for a few more than there are.
    """
    rows = math.ceil(effective_batch(settings) / processes)
    accumulated = math.ceil(rows / settings.micro_batch_size)
    return math.ceil(rows / accumulated), accumulated


def batches(lengths: Sequence[int], size: int, done: Container[int] = ()) -> Iterator[list[int]]:
    """Yield batches of row indices, the longest rows first.

    Batches do not depend on `done`; those whose rows are all done are left out.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    for start in range(0, len(order), size):
        batch = order[start : start + size]
        if any(index not in done for index in batch):
            yield batch


def at_once(search: SearchConfig) -> int:
    """Return how many trials run at a time here: `search.concurrent`, or what the cores allow."""
    return min(search.concurrent, max(1, int((os.cpu_count() or 1) / search.cpus_per_trial)))
