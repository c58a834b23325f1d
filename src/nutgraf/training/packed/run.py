"""Carry out one of the trainings that are packed into one process.

It does what `fit()` does, step by step: the same rows in the same order, optimizer, schedule,
clipping, evaluations, checkpoints and files.
"""

from __future__ import annotations

import contextlib
import functools
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from nutgraf.core.errors import Failure
from nutgraf.core.files import written_by_others
from nutgraf.data.examples import Example
from nutgraf.modeling import adapters
from nutgraf.modeling.load import Device, load_tokenizer
from nutgraf.modeling.losses import RowLoss
from nutgraf.training.budget import (
    effective_batch_size,
    evaluation_steps,
    history_interval,
    total_steps,
)
from nutgraf.training.checkpoints import Checkpoints
from nutgraf.training.fit import training_claim
from nutgraf.training.history import History, TrainingResult, read_history
from nutgraf.training.job import TrainingJob, notify_once
from nutgraf.training.optimizer import build_optimizer
from nutgraf.training.packed.lora import PackedAdapter
from nutgraf.training.samples import add_samples

STATE = "state.pt"  # weights, optimizer, schedule, generator of dropout masks


class PackedRun:
    """A training of `job` over `base`, between two optimizer steps or within one.

    `result` is None until its end. Raises as `fit()` does.
    """

    def __init__(self, base: PreTrainedModel, job: TrainingJob, device: Device) -> None:
        settings = job.config.train
        self.job, self.settings, self.device = job, settings, device
        self._base = base
        with self._new_adapter() as model:
            claim = training_claim(model, adapters.adapter_weights(model), job, device)
            self.adapter = PackedAdapter(model, settings.seed, device)
        self.checkpoints = Checkpoints(job.out, {**claim, "together": True}, job.title)
        self.notify = notify_once(job.on_eval)
        self.history = History(batch=effective_batch_size(settings))
        self.micro_batch = settings.micro_batch_size  # or as small as the memory requires
        self.best: dict[str, torch.Tensor] = {}
        self.step = 0
        self.result: TrainingResult | None = None
        self._evaluation_steps = set(evaluation_steps(settings))
        self._optimizer, self._schedule = build_optimizer(self.adapter.parameters, settings)
        self._masks_at_step = self.adapter.masks.generator.get_state()
        if state := self.checkpoints.finished():
            self.result = TrainingResult(settings=settings, device=device, **state)
            self.notify(self.result.history.evaluations)
            return
        self.checkpoints.open()
        fits = self.checkpoints.notes.get("micro_batch_size", self.micro_batch)
        self.micro_batch = min(self.micro_batch, fits)
        if newest := self.checkpoints.newest():
            self._resume(newest)
        self.history.show_beside(job.out)
        if self.step < total_steps(settings):
            self.begin_step()
        else:
            self._finish()

    def _new_adapter(self) -> contextlib.AbstractContextManager[PreTrainedModel]:
        return adapters.fresh_adapter(self._base, self.job.config.lora, self.settings.seed)

    @functools.cached_property
    def _tokenizer(self) -> PreTrainedTokenizerBase:
        return load_tokenizer(self.job.config.model)

    # A step: its micro-batches one by one, `add_loss` after each, then `take_step`.

    def begin_step(self) -> None:
        """Go to the first micro-batch of the next step; forget what was computed of that step."""
        batch = self.history.batch
        self._rows = self.job.ordered_rows[self.step * batch :][:batch]
        self._losses: list[float] = []
        self.adapter.masks.generator.set_state(self._masks_at_step)
        for weight in self.adapter.parameters:
            if weight.grad is not None:
                weight.grad.zero_()

    @property
    def examples(self) -> int:
        """The number of examples seen so far."""
        return self.step * self.history.batch

    @property
    def next_rows(self) -> list[Example]:
        """The rows of the next micro-batch."""
        return self._rows[len(self._losses) * self.micro_batch :][: self.micro_batch]

    @property
    def tokens(self) -> int:
        """Summary tokens in the whole step, over which the loss is the mean."""
        return sum(len(row.ids) - row.prompt_tokens for row in self._rows)

    @property
    def gradient_complete(self) -> bool:
        """Return whether the gradient of the step is complete."""
        return len(self._losses) * self.micro_batch == self.history.batch

    @property
    def evaluation_due(self) -> bool:
        """Return whether an evaluation comes before the next step."""
        last = self.history.evaluations[-1].step if self.history.evaluations else 0
        return self.step in self._evaluation_steps and self.step != last

    @property
    def evaluation_follows(self) -> bool:
        """Return whether an evaluation comes after the step that it is in."""
        return self.step + 1 in self._evaluation_steps

    def add_loss(self, loss: float) -> None:
        """Record a micro-batch's part of the step's loss, once its gradient is added."""
        self._losses.append(loss)

    def take_step(self) -> None:
        """Change the weights. Raises Failure, before it does, if the loss is not a number."""
        rate = self._optimizer.param_groups[0]["lr"]
        limit = self.settings.max_grad_norm
        norm = torch.nn.utils.clip_grad_norm_(self.adapter.parameters, limit)
        self.history.add_step(self.step + 1, sum(self._losses), rate, norm.item())
        self._optimizer.step()
        self._schedule.step()
        self.step += 1
        if self.step % history_interval(self.settings) == 0:
            self.history.add_row(self.step)
        self._masks_at_step = self.adapter.masks.generator.get_state()
        if self.job.on_step:
            self.job.on_step(self.examples)
        self.begin_step()

    def add_evaluation(self, rows: list[RowLoss], memory: int) -> None:
        """Record an evaluation: remember the weights if they are the best, write a checkpoint.

        After the last one the training ends. `memory` is the peak so far, in bytes.
        """
        if self.history.add_evaluation(self.step, rows):
            self.best = self.adapter.weights()
        if self.settings.samples:
            with self._new_adapter() as model:
                adapters.set_adapter_weights(model, self.adapter.weights())
                model.eval()
                add_samples(model, self._tokenizer, self.job, self.device, self.history)
        self.history.add_costs(memory)
        self.save()
        self.notify(self.history.evaluations)
        if self.step == total_steps(self.settings):
            self._finish()

    def halve_micro_batch(self, reason: str) -> None:
        """Start the step again in smaller micro-batches.

        Raise Failure if they hold one row, or memory was too short for an evaluation.
        """
        if self.evaluation_due:  # in small batches, as they are
            raise Failure(reason)
        self.micro_batch = self.job.smaller_micro_batch(self.micro_batch, reason)
        self.checkpoints.note(micro_batch_size=self.micro_batch)
        self.begin_step()

    def save(self) -> None:
        """Write a checkpoint of the latest complete step."""
        folder = self.checkpoints.half_written / f"checkpoint-{self.step}"
        state = {
            "weights": self.adapter.weights(),
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
            "masks": self._masks_at_step,
        }
        with written_by_others(self.checkpoints.folder):
            folder.mkdir(parents=True, exist_ok=True)
            torch.save(state, folder / STATE)
            self.history.write(folder, self.best)
        self.checkpoints.commit(self.step)

    def _resume(self, checkpoint: Path) -> None:
        state = torch.load(checkpoint / STATE, weights_only=True)
        self.adapter.load_weights(state["weights"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])
        self._masks_at_step = state["masks"]
        self.step = self._schedule.last_epoch
        self.history, self.best = read_history(checkpoint)
        self.notify(self.history.evaluations)

    def _finish(self) -> None:
        """Leave what `fit()` leaves: the best adapter in `out`."""
        with self._new_adapter() as model:
            adapters.set_adapter_weights(model, self.best)
            adapters.save_adapter(model, self.job.out)
        self.result = TrainingResult(
            settings=self.settings,
            device=self.device,
            history=self.history,
            micro_batch_size=self.micro_batch,
        )
        self.checkpoints.finish(self.result.model_dump())
