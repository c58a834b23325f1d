"""The record of one training: losses, evaluations, time and memory; it survives a kill."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from nutgraf.config import Config, TrainConfig
from nutgraf.core.errors import Failure
from nutgraf.core.units import perplexity
from nutgraf.modeling.load import Device
from nutgraf.modeling.losses import RowLoss, mean_loss
from nutgraf.training.budget import effective_batch_size, total_steps
from nutgraf.training.checkpoints import BEST

HISTORY = "history.json"  # in a checkpoint


@dataclass(frozen=True)
class Evaluation:
    """One evaluation: `loss` in nats per summary token, and the losses of the `rows`."""

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
    """The result of a training beside its adapter: the best evaluation, history and costs.

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
    device: Device
    processes: int = 1

    @classmethod
    def of(
        cls,
        history: History,
        settings: TrainConfig,
        device: Device,
        micro_batch_size: int,
        processes: int = 1,
    ) -> Fit:
        """Return the result of a finished training."""
        return cls(
            best=history.best,
            history=history.rows,
            steps=total_steps(settings),
            examples=total_steps(settings) * history.batch,
            seconds=history.seconds,
            peak_memory_bytes=history.peak_memory_bytes,
            micro_batch_size=micro_batch_size,
            gradient_accumulation_steps=math.ceil(history.batch / (micro_batch_size * processes)),
            device=device,
            processes=processes,
        )

    def record(self, config: Config) -> dict[str, Any]:
        """Return the contents of train.json, without the identity of the base."""
        settings, rows = config.train, self.best.rows
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
            "perplexity": perplexity(sum(row.nll for row in rows), sum(row.tokens for row in rows)),
            "lora_r": config.lora.r,
            "lora_alpha": config.lora.alpha,
            "device": self.device.name,
            "dtype": self.device.dtype_name,
        }

    def history_records(self) -> list[dict[str, Any]]:
        """Return the rows of history.csv."""
        return [asdict(row) for row in self.history]


class History:
    """A training so far: losses step by step, evaluations, time and memory spent."""

    def __init__(self, settings: TrainConfig) -> None:
        self.batch = effective_batch_size(settings)  # examples in one optimizer step
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
        return min(self.evaluations, key=lambda evaluation: evaluation.loss)

    @property
    def seconds(self) -> float:
        """Seconds spent in training, before a stop and after it."""
        return self._spent + time.perf_counter() - self._started

    def add_step(self, step: int, loss: float, rate: float) -> None:
        """Add the loss of one step, in nats per summary token, before the weights change.

        Raises:
            Failure: if the loss is not a number.
        """
        self._check("loss", loss, f"at step {step}", rate)
        self._losses.append(loss)
        self._rate = rate

    def add_row(self, step: int) -> float:
        """Add a row with the mean training loss since the latest one, and return that loss."""
        loss = sum(self._losses) / len(self._losses)
        self._losses.clear()
        self._add(step, self._rate, loss, None)
        return loss

    def add_evaluation(self, step: int, rows: list[RowLoss]) -> bool:
        """Add an evaluation; return whether its loss is the lowest so far.

        Raises:
            Failure: if the loss is not a number.
        """
        loss = mean_loss(rows)
        self._check("validation loss", loss, f"after step {step}", self._rate)
        self.evaluations.append(Evaluation(step, step * self.batch, loss, rows))
        self._add(step, None, None, loss)
        return self.best is self.evaluations[-1]

    def note_memory(self, used: int) -> None:
        """Raise the peak memory to `used` bytes, if that is more."""
        self.peak_memory_bytes = max(self.peak_memory_bytes, used)

    def state(self) -> dict[str, Any]:
        """Return all of it, for JSON."""
        return {
            "rows": [asdict(row) for row in self.rows],
            "evaluations": [asdict(evaluation) for evaluation in self.evaluations],
            "losses": self._losses,
            "rate": self._rate,
            "seconds": self.seconds,
            "peak_memory_bytes": self.peak_memory_bytes,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Set all of it to what `state` returned."""
        self.rows = [HistoryRow(**row) for row in state["rows"]]
        self.evaluations = [
            Evaluation(**{**evaluation, "rows": [RowLoss(**row) for row in evaluation["rows"]]})
            for evaluation in state["evaluations"]
        ]
        self._losses, self._rate = list(state["losses"]), state["rate"]
        self._spent, self._started = state["seconds"], time.perf_counter()
        self.peak_memory_bytes = state["peak_memory_bytes"]

    def write(self, checkpoint: Path, best: Mapping[str, torch.Tensor]) -> None:
        """Write the history and the best adapter so far into a checkpoint's folder."""
        save_file(dict(best), checkpoint / BEST)
        (checkpoint / HISTORY).write_text(json.dumps(self.state()), encoding="utf-8")

    def read(self, checkpoint: Path) -> dict[str, torch.Tensor]:
        """Restore what `write` left, and return the best adapter so far."""
        self.restore(json.loads((checkpoint / HISTORY).read_text(encoding="utf-8")))
        return load_file(checkpoint / BEST)

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
