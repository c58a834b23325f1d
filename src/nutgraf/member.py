"""One of the trainings that go on together: all that is its own, and nothing of the others.

It does what `fit()` does, step by step: the same rows in the same order, optimizer, schedule,
clipping, evaluations, checkpoints and files.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel, get_scheduler

from nutgraf import adapter
from nutgraf.budget import (
    effective_batch,
    evaluation_steps,
    row_every,
    steps_of,
    warmup_of,
)
from nutgraf.checkpoints import BEST, Checkpoints
from nutgraf.files import written_by_others
from nutgraf.history import Evaluation, Fit, History
from nutgraf.inference import RowLoss, mean_loss
from nutgraf.loop import HISTORY, in_order
from nutgraf.model import Device
from nutgraf.prompts import Example
from nutgraf.settings import TrainConfig
from nutgraf.together import Adapter
from nutgraf.trainer import claim_of, each_once, smaller

STATE = "state.pt"  # weights, optimizer, schedule, stream of dropout


@dataclass(frozen=True)
class Job:
    """A training to do: what `fit()` is given, but the base, the rows and the device.

    `adapted` gives the base with the new adapter, as `fresh_adapter` does.
    """

    adapted: Callable[[], contextlib.AbstractContextManager[PreTrainedModel]]
    settings: TrainConfig
    out: Path
    on_eval: Callable[[Evaluation], None] | None = None
    on_step: Callable[[], None] = lambda: None
    title: str | None = None


class Member:
    """A training of `job` that stands between two optimizer steps, or within one.

    `done` is what it leaves, None until its end. Raises as `fit()` does.
    """

    def __init__(
        self, job: Job, train: Sequence[Example], validation: Sequence[Example], device: Device
    ) -> None:
        settings = job.settings
        self.job, self.settings, self.device = job, settings, device
        self.train = in_order(train, settings)
        self.validation = list(validation[: settings.eval_examples])
        with job.adapted() as model:
            start = adapter.weights(model)
            claim = claim_of(model, start, self.train, self.validation, settings, device)
            self.adapter = Adapter(model, settings.seed, device)
        self.kept = Checkpoints(
            job.out,
            {**claim, "together": True},
            job.title or f"{job.out.parent.name}/{job.out.name}",
        )
        self.tell = each_once(job.on_eval)
        self.history = History(effective_batch(settings))
        self.micro = settings.micro_batch_size  # or as small as the memory wants it
        self.best: dict[str, torch.Tensor] = {}
        self.step = 0
        self.at_start = self.adapter.masks.stream.get_state()
        self.done: Fit | None = None
        self._evaluate_at = set(evaluation_steps(settings))
        self._row_every = row_every(settings)
        self._steps = steps_of(settings)
        self._optimizer, self._schedule = self._new_optimizer()
        if record := self.kept.finished():
            self._end(record)
        else:
            self.kept.open()
            self.micro = self.kept.notes.get("micro_batch_size", self.micro)
            self._carry_on()
            if self.step < self._steps:
                self.begin_step()
            else:
                self._finish()

    def _new_optimizer(self) -> tuple[torch.optim.Optimizer, Any]:
        """Those that transformers makes for `fit()`."""
        settings = self.settings
        optimizer = torch.optim.AdamW(
            self.adapter.parameters,
            lr=settings.learning_rate,
            weight_decay=settings.weight_decay,
            fused=True,
        )
        schedule = get_scheduler(
            settings.schedule,
            optimizer,
            num_warmup_steps=warmup_of(settings),
            num_training_steps=steps_of(settings),
        )
        return optimizer, schedule

    # A step: its micro-batches one by one, `loss` after each, then `take_step`.

    def begin_step(self) -> None:
        """Be at the first micro-batch of the next step, whatever was done of it before."""
        batch = self.history.batch
        self._rows = self.train[self.step * batch :][:batch]
        self._losses: list[float] = []
        self.adapter.masks.stream.set_state(self.at_start)
        for weight in self.adapter.parameters:
            if weight.grad is not None:
                weight.grad.zero_()

    @property
    def micro_batch(self) -> list[Example]:
        """The rows that come next."""
        return self._rows[len(self._losses) * self.micro :][: self.micro]

    @property
    def tokens(self) -> int:
        """Summary tokens in the whole step, over which the loss is the mean."""
        return sum(len(row.ids) - row.prompt_tokens for row in self._rows)

    @property
    def summed(self) -> bool:
        """Whether the gradient of the step is complete."""
        return len(self._losses) * self.micro == self.history.batch

    @property
    def evaluates(self) -> bool:
        """Whether an evaluation comes before the next step."""
        found = self.history.evaluations
        return self.step in self._evaluate_at and not (found and found[-1].step == self.step)

    @property
    def evaluates_next(self) -> bool:
        """Whether an evaluation comes after the step that it is in."""
        return self.step + 1 in self._evaluate_at

    @property
    def longest(self) -> int:
        """Tokens of the longest row that it trains on."""
        return max(len(row.ids) for row in self.train)

    def loss(self, found: float) -> None:
        """Note that a micro-batch's gradient is added up, and its part of the loss."""
        self._losses.append(found)

    def take_step(self) -> None:
        """Change the weights. Raises Failure, before it does, where the loss is no number."""
        rate = self._optimizer.param_groups[0]["lr"]
        self.history.step(self.step + 1, sum(self._losses), rate)
        torch.nn.utils.clip_grad_norm_(self.adapter.parameters, self.settings.max_grad_norm)
        self._optimizer.step()
        self._schedule.step()
        self.step += 1
        if self.step % self._row_every == 0:
            self.history.row(self.step)
        self.at_start = self.adapter.masks.stream.get_state()
        self.job.on_step()
        self.begin_step()

    def evaluated(self, rows: list[RowLoss], memory: int) -> None:
        """Take an evaluation: keep the weights where they are the best, write a checkpoint.

        After the last one the training is done. `memory` is the most held so far, in bytes.
        """
        self.history.evaluation(self.step, mean_loss(rows), rows)
        if self.history.best is self.history.evaluations[-1]:
            self.best = self.adapter.weights()
        self.history.peak_memory_bytes = max(self.history.peak_memory_bytes, memory)
        self.save()
        self.tell(self.history.evaluations)
        if self.step == self._steps:
            self._finish()

    def _finish(self) -> None:
        """Leave what `fit()` leaves: the best adapter in `out`."""
        with self.job.adapted() as model:
            adapter.put(model, self.best)
            adapter.save(model, self.job.out)
        record = {
            "micro_batch_size": self.micro,
            "history": self.history.state(),
        }
        self.kept.finish(record)
        self._end(record)

    def save(self) -> None:
        """Write a checkpoint of the latest step that is complete."""
        folder = self.kept.half_written / f"checkpoint-{self.step}"
        with written_by_others(self.kept.folder):
            folder.mkdir(parents=True, exist_ok=True)
            torch.save(
                {
                    "weights": self.adapter.weights(),
                    "optimizer": self._optimizer.state_dict(),
                    "schedule": self._schedule.state_dict(),
                    "stream": self.at_start,
                },
                folder / STATE,
            )
            save_file(self.best, folder / BEST)
            (folder / HISTORY).write_text(json.dumps(self.history.state()), encoding="utf-8")
        self.kept.keep(self.step)

    def _carry_on(self) -> None:
        """Be where the newest checkpoint was written, if there is one."""
        newest = self.kept.newest()
        if newest is None:
            return
        state = torch.load(newest / STATE, weights_only=True)
        self.adapter.put(state["weights"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])
        self.at_start = state["stream"]
        self.step = self._schedule.last_epoch
        self.history.restore(json.loads((newest / HISTORY).read_text(encoding="utf-8")))
        self.best = load_file(newest / BEST)
        self.tell(self.history.evaluations)

    def _end(self, record: dict[str, Any]) -> None:
        self.history.restore(record["history"])
        self.tell(self.history.evaluations)
        self.done = Fit.of(self.history, self.settings, record["micro_batch_size"])

    def halve(self, reason: str) -> None:
        """Be at the begin of the step with smaller micro-batches, as `fit()` does.

        Raises Failure where they hold one article.
        """
        self.micro = smaller(self.micro, self.history.batch, self.kept, self.longest, reason)
        self.begin_step()
