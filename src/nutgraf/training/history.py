"""Record a training: losses, evaluations, time and memory, across stops and kills."""

from __future__ import annotations

import math
import resource
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, Field, PrivateAttr
from safetensors.torch import load_file, save_file

from nutgraf.config import Config, TrainConfig
from nutgraf.core.errors import Failure
from nutgraf.core.files import read_json
from nutgraf.core.units import perplexity
from nutgraf.modeling.load import Device
from nutgraf.modeling.losses import RowLoss, mean_loss
from nutgraf.training.budget import total_examples, total_steps
from nutgraf.training.checkpoints import BEST
from nutgraf.training.curves import curves_path, leave, samples_path

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
    """One line of history.csv; `train_loss` and `validation_loss` in nats per summary token.

    `grad_norm` is the largest norm of the gradient, before it is clipped, of the steps since the
    line before.
    """

    step: int
    examples: int
    learning_rate: float | None
    train_loss: float | None
    validation_loss: float | None
    seconds: float
    grad_norm: float | None = None


class Samples(BaseModel):
    """What the model wrote of the same `articles` at each evaluation.

    An article has its text, as the model reads it, and its reference. An evaluation has the
    examples seen, the validation loss, and the texts in the order of the articles.
    """

    articles: list[dict[str, str]] = []
    evaluations: list[dict[str, Any]] = []


class History(BaseModel):
    """A training so far: losses step by step, evaluations, time and memory.

    `batch` is the number of examples in an optimizer step. `seconds` were spent in training, before
    a stop and after it.
    """

    batch: int
    keep_last: bool = False  # the last adapter is the one to keep, whatever its loss
    rows: list[HistoryRow] = []
    evaluations: list[Evaluation] = []
    samples: Samples = Samples()
    losses: list[float] = []  # of the steps since the latest row
    grad_norm: float | None = None  # the largest of these steps
    learning_rate: float = 0.0
    seconds: float = 0.0
    peak_memory_bytes: int = 0
    _clock: float = PrivateAttr(default_factory=time.perf_counter)
    _out: Path | None = PrivateAttr(None)

    @property
    def best(self) -> Evaluation:
        """The evaluation of the adapter to keep: with the lowest loss, of equal ones the first."""
        return (
            self.evaluations[-1]
            if self.keep_last
            else min(self.evaluations, key=lambda evaluation: evaluation.loss)
        )

    def show_beside(self, out: Path) -> None:
        """Write the rows and samples to files beside `out`, now and whenever there are more."""
        self._out = out
        samples_path(out).unlink(missing_ok=True)  # those of another training
        self._show()

    def add_step(self, step: int, loss: float, rate: float, grad_norm: float) -> None:
        """Add the loss of one step, in nats per summary token, before the weights change.

        Raise Failure if it is not a number. A norm that is none, as of steps that fp16 skips, is
        left out.
        """
        if step == 1 and not math.isfinite(loss):
            raise Failure(
                f"the loss is {loss} at step 1, before the adapter has changed: set model.dtype to "
                "fp32, or give a model.base whose weights are numbers"
            )
        _check_loss(f"loss is {loss} at step {step}", loss, rate)
        self.losses.append(loss)
        self.learning_rate = rate
        if math.isfinite(grad_norm):
            self.grad_norm = max(grad_norm, self.grad_norm or 0.0)

    def add_row(self, step: int) -> None:
        """Add a row with the mean training loss since the latest one."""
        loss = sum(self.losses) / len(self.losses)
        self.losses.clear()
        self._add(step, self.learning_rate, loss, None, self.grad_norm)
        self.grad_norm = None

    def add_evaluation(self, step: int, rows: list[RowLoss]) -> bool:
        """Add an evaluation; return whether its adapter is the one to keep so far.

        Raise Failure if it is not a number.
        """
        loss = mean_loss(rows)
        _check_loss(f"validation loss is {loss} after step {step}", loss, self.learning_rate)
        self.evaluations.append(Evaluation(step, step * self.batch, loss, rows))
        self._add(step, None, None, loss, None)
        return self.best is self.evaluations[-1]

    def add_samples(self, articles: list[dict[str, str]], texts: list[str]) -> None:
        """Add what was written after the latest evaluation."""
        latest = self.evaluations[-1]
        self.samples.articles = articles
        self.samples.evaluations.append(
            {"examples": latest.examples, "loss": latest.loss, "texts": texts}
        )
        self._show()

    def add_costs(self, memory: int) -> None:
        """Count the time until now; raise the peak memory to `memory` bytes, if that is more."""
        now = time.perf_counter()
        self.seconds += now - self._clock
        self._clock = now
        self.peak_memory_bytes = max(self.peak_memory_bytes, memory)

    def write(self, checkpoint: Path, best: Mapping[str, torch.Tensor]) -> None:
        """Write the history and the best adapter so far into a checkpoint's folder."""
        self.add_costs(memory=0)
        save_file(dict(best), checkpoint / BEST)
        (checkpoint / HISTORY).write_text(self.model_dump_json(), encoding="utf-8")

    def _add(
        self,
        step: int,
        rate: float | None,
        train: float | None,
        validation: float | None,
        grad_norm: float | None,
    ) -> None:
        self.add_costs(memory=0)
        seconds = round(self.seconds, 2)
        examples = step * self.batch
        self.rows.append(HistoryRow(step, examples, rate, train, validation, seconds, grad_norm))
        self._show()

    def _show(self) -> None:
        if self._out is None:
            return
        leave(curves_path(self._out), [asdict(row) for row in self.rows])
        if self.samples.evaluations:
            leave(samples_path(self._out), self.samples.model_dump())


def read_history(checkpoint: Path) -> tuple[History, dict[str, torch.Tensor]]:
    """Return the history and the best adapter that `History.write` left."""
    return History.model_validate(read_json(checkpoint / HISTORY)), load_file(checkpoint / BEST)


def _check_loss(fact: str, loss: float, rate: float) -> None:
    if not math.isfinite(loss):
        raise Failure(
            f"the {fact}, learning rate {rate:.2e}: "
            "lower train.learning_rate or train.max_grad_norm, or set model.dtype to fp32"
        )


def peak_memory(device: Device) -> int:
    """Return the peak memory so far, in bytes: of the GPU, or of this process without one."""
    if device.name == "cuda":
        return torch.cuda.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


class TrainingResult(BaseModel, arbitrary_types_allowed=True, frozen=True):
    """The result of a training beside its adapter.

    `micro_batch_size` is the one that the memory allowed, of each of the `processes` that shared
    the work in the end. A dump has the results alone, without `settings` and `device`.
    """

    settings: TrainConfig = Field(exclude=True)
    device: Device = Field(exclude=True)
    history: History
    micro_batch_size: int
    processes: int = 1

    @property
    def best(self) -> Evaluation:
        """The evaluation of the adapter that was saved."""
        return self.history.best

    def record(self, config: Config) -> dict[str, Any]:
        """Return the contents of train.json, without the identity of the base."""
        settings, history, rows = self.settings, self.history, self.best.rows
        per_pass = self.micro_batch_size * self.processes
        return {
            "learning_rate": settings.learning_rate,
            "gradient_accumulation_steps": math.ceil(history.batch / per_pass),
            "micro_batch_size": self.micro_batch_size,
            "processes": self.processes,
            "weight_decay": settings.weight_decay,
            "seed": settings.seed,
            "examples": total_examples(settings),
            "steps": total_steps(settings),
            "seconds": round(history.seconds, 2),
            "peak_memory_bytes": history.peak_memory_bytes,
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
        return [asdict(row) for row in self.history.rows]
