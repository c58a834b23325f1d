"""What is computed when: steps, rows and evaluations of a training, batches, how many at a time."""

from __future__ import annotations

import math
import os
import random
from collections.abc import Callable, Container, Iterator, Sequence

from nutgraf.section import Choices, Space
from nutgraf.settings import Config, SearchConfig, TrainConfig


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


def examples_of(settings: TrainConfig) -> int:
    """Examples that one training sees, repeats counted."""
    return steps_of(settings) * effective_batch(settings)


def worth_measuring(config: Config, examples: int, times: int) -> bool:
    """Whether a search trains on at least `times` the `examples` of a measurement of speed."""
    return config.search.trials * examples_of(config.train) >= times * examples


def warmup_of(settings: TrainConfig) -> int:
    """Steps in which the learning rate rises, as transformers counts them."""
    asked = settings.warmup_steps
    return int(asked) if asked >= 1 else math.ceil(steps_of(settings) * asked)


def row_every(settings: TrainConfig) -> int:
    """Steps between two rows of a training's history: about forty of them in all."""
    return max(1, steps_of(settings) // 40)


def most_examples(train: TrainConfig, space: Space) -> int:
    """Examples that no training with settings of `space` goes beyond: by less than one batch."""
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
    """Indices of the examples that a training on so many rows sees, in the order of their steps.

    Seeded permutations of all rows follow each other, so that a smaller budget sees the beginning
    of what a larger one sees.
    """
    draw = random.Random(seed)
    order: list[int] = []
    while len(order) < examples:
        epoch = list(range(rows))
        draw.shuffle(epoch)
        order += epoch
    return order[:examples]


def longest_first(order: Sequence[int], length: Callable[[int], int], batch: int) -> list[int]:
    """Indices that were `drawn`, within one optimizer step the longest row first.

    So the step's micro-batches hold rows of like length. What a step sees depends on the effective
    batch alone: 1 x 8 and 8 x 1 train on the same rows.
    """
    return [
        index
        for start in range(0, len(order), batch)
        for index in sorted(order[start : start + batch], key=lambda i: (-length(i), i))
    ]


def training_order(lengths: Sequence[int], batch: int, steps: int, seed: int) -> list[int]:
    """Indices of the rows in the order of training, `steps` times `batch` of them."""
    order = drawn(len(lengths), steps * batch, seed)
    return longest_first(order, lengths.__getitem__, batch)


def halved(batch: int, micro: int) -> int:
    """The next smaller micro-batch, at most half of `micro`, that an effective batch is made of."""
    return max(n for n in range(1, micro // 2 + 1) if batch % n == 0)


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
