"""Describe one training, the same for every way in which it is carried out."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nutgraf.config import Config
from nutgraf.core.errors import Failure
from nutgraf.data.examples import Example
from nutgraf.modeling import batching
from nutgraf.training import budget
from nutgraf.training.history import Evaluation

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Preference:
    """Make a training one on pairs: of rows 2i and 2i + 1, the first is the better summary.

    `start_nll` has the nats of each row's summary in the model that the training starts from, and
    `beta` is how dear it is to leave that, per nat. `likelihood` is how much the nats a token of
    the better summary count beside the preference.
    """

    beta: float
    likelihood: float
    start_nll: Sequence[float]


@dataclass(frozen=True)
class TrainingJob:
    """One adapter to train: with which settings, on which rows, and where it is saved.

    Of `config` the sections `model`, `lora` and `train` count. The training starts from the adapter
    in the folder `start`, if one is given, and with a `preference` it is one on pairs. `on_eval` is
    called after each evaluation, once its checkpoint is on disk; on resume it is first called for
    the earlier evaluations. `on_step` is called after each optimizer step, with the number of
    examples seen so far. If they raise, the training ends. `title` names the training in log lines.
    Without rows to train or to evaluate on, it raises Failure.
    """

    config: Config
    train: Sequence[Example]
    validation: Sequence[Example]
    out: Path
    title: str = "adapter"
    on_eval: Callable[[Evaluation], None] | None = None
    on_step: Callable[[int], None] | None = None
    start: Path | None = None
    preference: Preference | None = None

    def __post_init__(self) -> None:
        if not self.train or not self.validation:
            raise Failure(
                f"{len(self.train)} training and {len(self.validation)} validation rows: "
                "both are needed"
            )

    @property
    def together(self) -> int:
        """Return how many rows a micro-batch holds or leaves out together."""
        return 2 if self.preference else 1

    @functools.cached_property
    def order(self) -> list[int]:
        """The indices of training rows in the order of their steps."""
        train, size = self.config.train, self.together
        groups = [range(i, i + size) for i in range(0, len(self.train), size)]
        drawn = budget.draw_examples(len(groups), budget.total_examples(train) // size, train.seed)
        batch = budget.effective_batch_size(train) // size
        drawn = batching.longest_first(
            drawn, lambda g: max(len(self.train[i].ids) for i in groups[g]), batch
        )
        return [i for group in drawn for i in groups[group]]

    @functools.cached_property
    def ordered_rows(self) -> list[Example]:
        """The training rows in the order of their steps; no other row of `train` is read."""
        return [self.train[i] for i in self.order]

    @functools.cached_property
    def evaluated_rows(self) -> list[Example]:
        """The first `train.eval_examples` rows of `validation`."""
        return list(self.validation[: self.config.train.eval_examples])

    @property
    def longest_row(self) -> int:
        """Tokens of the longest training row."""
        return max(len(row.ids) for row in self.ordered_rows)

    def with_micro_batch(self, size: int) -> TrainingJob:
        """Return the same training in micro-batches of `size` rows; the effective batch stays."""
        accumulated = budget.effective_batch_size(self.config.train) // size
        train = self.config.train.model_copy(
            update={"micro_batch_size": size, "gradient_accumulation_steps": accumulated}
        )
        return replace(self, config=self.config.model_copy(update={"train": train}))

    def smaller_micro_batch(self, size: int, reason: str) -> int:
        """Return the micro-batch to try after one of `size` rows ran out of memory; log it.

        It is at most half as large and divides the effective batch. If a single row, or pair, did
        not fit, raise Failure with `reason`.
        """
        step = self.together
        if size == step:
            least = "pair" if self.preference else "article"
            raise Failure(
                f"{self.title}: no memory on the device for one {least} of up to "
                f"{self.longest_row} tokens ({reason}): lower prompt.max_tokens, or set "
                "train.activation_checkpointing to true or model.quantization to nf4"
            )
        batch = budget.effective_batch_size(self.config.train)
        smaller = max(n for n in range(step, size // 2 + 1, step) if batch % n == 0)
        logger.warning(
            f"{self.title}: no memory on the device for {size} articles at a time: goes on with "
            f"{smaller}, {batch // smaller} times a step (train.micro_batch_size)"
        )
        return smaller


def notify_once(
    on_eval: Callable[[Evaluation], None] | None,
) -> Callable[[Sequence[Evaluation]], None]:
    """Return a function that takes all evaluations so far, and calls `on_eval` once for each."""
    notified = 0

    def notify(evaluations: Sequence[Evaluation]) -> None:
        nonlocal notified
        for evaluation in evaluations[notified:]:
            notified += 1
            if on_eval:
                on_eval(evaluation)

    return notify
