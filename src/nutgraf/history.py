"""What a training leaves beside its adapter, kept step by step so that it survives a kill."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from nutgraf.budget import steps_of
from nutgraf.inference import RowLoss
from nutgraf.metrics import perplexity
from nutgraf.problems import Failure
from nutgraf.settings import TrainConfig


@dataclass(frozen=True)
class Evaluation:
    """One look at the validation rows: `loss` in nats per summary token, `rows` one by one."""

    step: int
    examples: int
    loss: float
    rows: list[RowLoss]


@dataclass(frozen=True)
class HistoryRow:
    """One line of history.csv; `train_loss` and `validation_loss` in nats per summary token."""

    step: int
    examples: int
    learning_rate: float | None
    train_loss: float | None
    validation_loss: float | None
    seconds: float


@dataclass(frozen=True)
class Fit:
    """What a training leaves beside the adapter in the model: its best evaluation and its costs.

    `micro_batch_size` and `gradient_accumulation_steps` are those that the memory allowed, of each
    of the `processes` that shared the work in the end.
    """

    best: Evaluation
    history: list[HistoryRow]
    steps: int
    examples: int
    seconds: float
    peak_memory_bytes: int
    micro_batch_size: int
    gradient_accumulation_steps: int
    processes: int = 1

    @classmethod
    def of(
        cls, history: History, settings: TrainConfig, micro_batch_size: int, processes: int = 1
    ) -> Fit:
        """What a training with `settings` leaves at its end."""
        return cls(
            best=history.best,
            history=history.rows,
            steps=steps_of(settings),
            examples=steps_of(settings) * history.batch,
            seconds=history.seconds,
            peak_memory_bytes=history.peak_memory_bytes,
            micro_batch_size=micro_batch_size,
            gradient_accumulation_steps=math.ceil(history.batch / (micro_batch_size * processes)),
            processes=processes,
        )

    def record(self, settings: TrainConfig) -> dict[str, Any]:
        """The contents of train.json, without the adapter's settings."""
        return {
            "learning_rate": settings.learning_rate,
            "gradient_accumulation_steps": self.gradient_accumulation_steps,
            "micro_batch_size": self.micro_batch_size,
            "processes": self.processes,
            "weight_decay": settings.weight_decay,
            "seed": settings.seed,
            "examples": self.examples,
            "steps": self.steps,
            "seconds": round(self.seconds, 2),
            "peak_memory_bytes": self.peak_memory_bytes,
            "best_step": self.best.step,
            "validation_loss": self.best.loss,
            "perplexity": perplexity(
                sum(row.nll for row in self.best.rows), sum(row.tokens for row in self.best.rows)
            ),
        }

    def history_records(self) -> list[dict[str, Any]]:
        return [asdict(row) for row in self.history]


class History:
    """A training as far as it has come: losses step by step, evaluations, time and memory spent."""

    def __init__(self, batch: int) -> None:
        self.batch = batch  # examples in one optimizer step
        self.rows: list[HistoryRow] = []
        self.evaluations: list[Evaluation] = []
        self.peak_memory_bytes = 0
        self._losses: list[float] = []  # of the steps since the latest row
        self._rate = 0.0
        self._spent = 0.0
        self._started = time.perf_counter()

    @property
    def best(self) -> Evaluation:
        """The first of the evaluations with the lowest loss."""
        return min(self.evaluations, key=lambda found: found.loss)

    @property
    def seconds(self) -> float:
        """Spent in training, before a stop and after it."""
        return self._spent + time.perf_counter() - self._started

    def step(self, step: int, loss: float, rate: float) -> None:
        """Note the loss of one step, in nats per summary token, before it changes any weight.

        Raises Failure where it is not a number.
        """
        self._check("loss", loss, f"at step {step}", rate)
        self._losses.append(loss)
        self._rate = rate

    def row(self, step: int) -> float:
        """Add a row with the mean training loss since the latest one, which is returned."""
        loss = sum(self._losses) / len(self._losses)
        self._losses.clear()
        self._add(step, self._rate, loss, None)
        return loss

    def evaluation(self, step: int, loss: float, rows: list[RowLoss]) -> None:
        """Add an evaluation. Raises Failure where its loss is not a number."""
        self._check("validation loss", loss, f"after step {step}", self._rate)
        self.evaluations.append(Evaluation(step, step * self.batch, loss, rows))
        self._add(step, None, None, loss)

    def state(self) -> dict[str, Any]:
        """All of it, for JSON."""
        return {
            "rows": [asdict(row) for row in self.rows],
            "evaluations": [asdict(found) for found in self.evaluations],
            "losses": self._losses,
            "rate": self._rate,
            "seconds": self.seconds,
            "peak_memory_bytes": self.peak_memory_bytes,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave."""
        self.rows = [HistoryRow(**row) for row in state["rows"]]
        self.evaluations = [
            Evaluation(**{**found, "rows": [RowLoss(**row) for row in found["rows"]]})
            for found in state["evaluations"]
        ]
        self._losses, self._rate = list(state["losses"]), state["rate"]
        self._spent, self._started = state["seconds"], time.perf_counter()
        self.peak_memory_bytes = state["peak_memory_bytes"]

    def _check(self, what: str, loss: float, where: str, rate: float) -> None:
        if not math.isfinite(loss):
            raise Failure(
                f"the {what} is {loss} {where}, learning rate {rate:.2e}: "
                "lower train.learning_rate or train.max_grad_norm, or set model.dtype to fp32"
            )

    def _add(
        self, step: int, rate: float | None, train: float | None, validation: float | None
    ) -> None:
        seconds = round(self.seconds, 2)
        self.rows.append(HistoryRow(step, step * self.batch, rate, train, validation, seconds))
