"""Count the steps, rows and evaluations of a training."""

from __future__ import annotations

import math
import random

from nutgraf.config import Config, TrainConfig
from nutgraf.config.load import with_overrides
from nutgraf.config.types import Space

ROWS_A_STEP = 4  # of a round: two pairs


def total_steps(settings: TrainConfig) -> int:
    """Return the optimizer steps of one training: budget over effective batch, at least one."""
    if settings.max_steps is not None:
        return settings.max_steps
    assert settings.max_examples is not None  # TrainConfig holds that one of them is set
    return max(1, round(settings.max_examples / effective_batch_size(settings)))


def warmup_steps(settings: TrainConfig) -> int:
    """Return the steps in which the learning rate rises; a share of all leaves at least one."""
    steps, warmup = total_steps(settings), settings.warmup_steps
    return int(warmup) if warmup >= 1 else min(math.ceil(steps * warmup), steps - 1)


def effective_batch_size(settings: TrainConfig) -> int:
    """Return the examples in one optimizer step."""
    return settings.micro_batch_size * settings.gradient_accumulation_steps


def evaluation_steps(settings: TrainConfig) -> list[int]:
    """Return the steps after which the validation rows are evaluated; the last step is one.

    Their number depends on the budget in examples alone, so that the n-th evaluations of two
    trials with different batches have seen equally many examples (within one step).
    """
    steps = total_steps(settings)
    count = min(steps, max(1, round(total_examples(settings) / settings.eval_every)))
    return [math.ceil(steps * k / count) for k in range(1, count + 1)]


def total_examples(settings: TrainConfig) -> int:
    """Return how many examples one training sees, repeats counted."""
    return total_steps(settings) * effective_batch_size(settings)


def worth_measuring(config: Config, examples: int, times: int) -> bool:
    """Return whether a search trains on at least `times` the `examples` of a speed measurement."""
    return config.search.trials * total_examples(config.train) >= times * examples


def history_interval(settings: TrainConfig) -> int:
    """Return the steps between two rows of a history, so that it has about forty rows."""
    return max(1, total_steps(settings) // 40)


def max_examples_seen(train: TrainConfig, space: Space) -> int:
    """Return a number of examples that no training with settings of `space` exceeds."""
    batch = 1
    for name in ("micro_batch_size", "gradient_accumulation_steps"):
        domain = space.get(f"train.{name}")
        batch *= int(domain.largest if domain else getattr(train, name))
    if train.max_steps is not None:
        return train.max_steps * batch
    assert train.max_examples is not None
    return train.max_examples + batch


def draw_examples(rows: int, examples: int, seed: int) -> list[int]:
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


def round_config(best: Config, pairs: int) -> Config:
    """Return the configuration of a round on so many pairs, after a training by that of `best`.

    Two pairs, of two rows each, make a step. There is no dropout: the nats at the start, which
    those of a step are compared with, have none.
    """
    micro_batch = 2 if best.train.micro_batch_size < ROWS_A_STEP else ROWS_A_STEP
    settings = {
        "train.learning_rate": best.preference.learning_rate,
        "train.max_examples": 2 * pairs,
        "train.max_steps": None,
        "train.micro_batch_size": micro_batch,
        "train.gradient_accumulation_steps": ROWS_A_STEP // micro_batch,
        "train.eval_every": max(1, pairs),
        "lora.dropout": 0.0,
    }
    return with_overrides(best, settings)


def candidates_config(best: Config) -> Config:
    """Return the configuration with which the candidates of a round are written."""
    settings = {
        "generate.candidates": best.preference.candidates,
        "generate.temperature": best.preference.temperature,
        "generate.num_beams": 1,
    }
    return with_overrides(best, settings)


def split_batch(settings: TrainConfig, processes: int, together: int = 1) -> tuple[int, int]:
    """Return (micro-batch size, micro-batches in a step) of one of `processes`.

    So many rows stay `together`. If those of a step cannot be shared evenly, there is room for a
    few more than there are.
    """
    groups = math.ceil(effective_batch_size(settings) / together / processes)
    accumulated = math.ceil(groups * together / settings.micro_batch_size)
    return math.ceil(groups / accumulated) * together, accumulated
