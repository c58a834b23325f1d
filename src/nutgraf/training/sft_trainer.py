"""Train with the loop of transformers and trl, and our own loss, evaluation and checkpoints.

The only user of trl. The loss is over the summary's tokens alone, end of sequence included.
"""

from __future__ import annotations

import contextlib
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import datasets
import torch
from torch.nn import functional
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    TrainerCallback,
)
from trl import SFTConfig, SFTTrainer

from nutgraf.core.files import written_by_others
from nutgraf.core.memory import release_memory
from nutgraf.core.signals import Stopped
from nutgraf.data.examples import IGNORED, Example
from nutgraf.modeling import adapters, batching
from nutgraf.modeling.attention import training_attention
from nutgraf.modeling.dims import EVAL_BATCH_SIZE
from nutgraf.modeling.fused.model import FusedModel
from nutgraf.modeling.load import Device
from nutgraf.modeling.losses import RowLoss, batch_losses
from nutgraf.training import budget
from nutgraf.training.checkpoints import Checkpoints
from nutgraf.training.distributed.process_group import SINGLE_PROCESS, ProcessGroup
from nutgraf.training.history import Evaluation, History, peak_memory, read_history
from nutgraf.training.job import TrainingJob
from nutgraf.training.optimizer import build_optimizer
from nutgraf.training.preference import preference_losses
from nutgraf.training.samples import add_samples


class AdapterTrainer(SFTTrainer):
    """One training of the adapter in `model`; `run` carries it out.

    Then `history` is the record of the training, and `best` the adapter's weights at the lowest
    validation loss; after a training on pairs, which raises that loss, the last ones.
    """

    model: PreTrainedModel

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        job: TrainingJob,
        device: Device,
        checkpoints: Checkpoints,
        group: ProcessGroup = SINGLE_PROCESS,
    ) -> None:
        settings, rows, pad = job.config.train, job.ordered_rows, tokenizer.pad_token_id
        micro_batch, accumulated = budget.split_batch(settings, group.size, job.together)
        adapter = [weight for weight in model.parameters() if weight.requires_grad]
        super().__init__(
            model=model,
            processing_class=tokenizer,
            # trl looks at one row; all of them are read below
            train_dataset=datasets.Dataset.from_list([_encode(rows[0])]),
            optimizers=build_optimizer(adapter, settings),
            args=SFTConfig(
                output_dir=str(checkpoints.half_written),
                max_steps=budget.total_steps(settings),
                per_device_train_batch_size=micro_batch,
                gradient_accumulation_steps=accumulated,
                max_grad_norm=settings.max_grad_norm,
                activation_checkpointing=settings.activation_checkpointing,
                train_sampling_strategy="sequential",  # the rows are in their order
                # The callback decides when to evaluate and save; the history logs.
                eval_strategy="no",
                save_strategy="no",
                logging_strategy="no",
                logging_nan_inf_filter=False,
                bf16=device.dtype == torch.bfloat16,
                fp16=device.dtype == torch.float16,
                use_cpu=device.name == "cpu",
                ddp_find_unused_parameters=False,
                seed=settings.seed,
                max_length=None,
                router_aux_loss_coef=0.0,  # the loss is ours
                dataset_kwargs={"skip_prepare_dataset": True},
                disable_tqdm=True,
                report_to="none",
            ),
        )
        self.remove_callback(PrinterCallback)
        batch = budget.effective_batch_size(settings)
        # Micro-batches go round the processes; rows without a loss fill up a step's last ones.
        padding = [(Example(array("i", [pad, pad]), 2, 0), 0.0)] * (
            micro_batch * accumulated * group.size - batch
        )
        nll = [job.preference.start_nll[i] if job.preference else 0.0 for i in job.order]
        pairs = list(zip(rows, nll, strict=True))
        steps = (pairs[start : start + batch] for start in range(0, len(pairs), batch))
        self.train_dataset = cast(Any, [row for step in steps for row in (*step, *padding)])
        collate = self.data_collator
        self.data_collator = lambda examples: {
            **collate([_encode(row) for row, _ in examples]),
            "start_nll": torch.tensor([nll for _, nll in examples]),
        }
        # trl casts the adapter of a quantized base to bf16; it is small, and in fp32 it loses
        # nothing.
        for weight in adapter:
            weight.data = weight.data.float()
        self.job, self.device, self.checkpoints, self.group = job, device, checkpoints, group
        self.settings, self.micro_batch, self.tokenizer = settings, micro_batch, tokenizer
        self.fused: FusedModel | None = None
        self.history = History(batch=batch, keep_last=job.preference is not None)
        self.best: dict[str, torch.Tensor] = {}
        self.step_losses: list[torch.Tensor] = []
        self.grad_norm = 0.0

    def run(
        self,
        notify: Callable[[Sequence[Evaluation]], None],
        stop_signal: Callable[[], int | None],
    ) -> None:
        """Train to the end, from the newest checkpoint if there is one.

        A checkpoint is written after each evaluation, and before `Stopped` is raised if
        `stop_signal` returns the number of a signal. `notify` gets all evaluations so far, at the
        start and after each checkpoint.
        """
        job, newest = self.job, self.checkpoints.newest()
        if newest:
            self.history, self.best = read_history(newest)
            notify(self.history.evaluations)
        if self.group.is_first:
            self.history.show_beside(job.out)
        shape = self.micro_batch, job.longest_row
        self.fused = FusedModel.of(self.model, self.device, *shape)
        with (
            contextlib.nullcontext()
            if self.fused
            else training_attention(self.model, self.device, *shape)
        ):
            self.add_callback(_Callback(self, notify, stop_signal))
            self.train(resume_from_checkpoint=str(newest) if newest else None)
        self.history.add_costs(peak_memory(self.device))

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Return the summaries' nats over their number of tokens in the whole optimizer step.

        In a training on pairs it is the mean of their losses over the step. The padding is on the
        right, where causal attention never looks, so no mask slows it down.
        """
        labels, preference = inputs["labels"], self.job.preference
        nll = self.row_nll(model, inputs["input_ids"], labels)
        if preference:
            tokens = (labels != IGNORED).sum(1)
            losses = preference_losses(
                nll, inputs["start_nll"], tokens, preference.beta, preference.likelihood
            )
            real = tokens[::2] > 0  # not the padding of a step
            loss = losses[real].sum() / (self.history.batch // 2)
        else:
            loss = nll.sum() / kwargs["num_items_in_batch"]
        self.step_losses.append(loss.detach())
        return loss * self.group.size  # the gradient is the mean over the processes

    def _get_grad_norm(self, *args: Any, **kwargs: Any) -> Any:
        """Remember the norm, which transformers clips with and shows only to its own log."""
        norm = super()._get_grad_norm(*args, **kwargs)
        self.grad_norm = float(norm)
        return norm

    def row_nll(self, model: Any, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the nats of each row's labels, [rows], in the model as the trainer calls it."""
        if self.fused:
            return self.fused.nll(model, ids, functional.pad(labels[:, 1:], (0, 1), value=IGNORED))
        return _row_nll(model, ids, labels)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Evaluate, exact over tokens whatever the batches; keep the adapter if it is the best."""
        self.model.eval()
        release_memory()  # an evaluation finds little room in the blocks that a step has left
        rows = self._validation_losses()
        if self.history.add_evaluation(self.state.global_step, rows):
            self.best = adapters.adapter_weights(self.model)
        # A part of a base writes nothing alone.
        if self.group.is_first and not self.group.sharded:
            add_samples(self.model, self.tokenizer, self.job, self.device, self.history)
        self.model.train()
        release_memory()
        self.control.should_evaluate = False
        return {}

    def _validation_losses(self) -> list[RowLoss]:
        """Return the rows' losses; processes take turns with the batches if each has the base."""
        group, rows, pad = self.group, self.job.evaluated_rows, self.tokenizer.pad_token_id
        batches = list(batching.length_batches([len(row.ids) for row in rows], EVAL_BATCH_SIZE))
        own: dict[int, RowLoss] = {}
        for batch in batches if group.sharded else batches[group.rank :: group.size]:
            losses = batch_losses(self.model, [rows[i] for i in batch], pad, self.device)
            own |= zip(batch, losses, strict=True)
        by_row = {i: loss for part in group.all_gather(own) for i, loss in part.items()}
        return [by_row[i] for i in range(len(rows))]

    def _save_checkpoint(self, *args: Any) -> None:
        """Write transformers' checkpoint and ours, under a temporary name until it is whole."""
        step = self.state.global_step
        self.history.add_costs(peak_memory(self.device))
        with written_by_others(self.checkpoints.folder):
            super()._save_checkpoint(*args)
            if not self.group.is_first:
                return
            self.history.write(self.checkpoints.half_written / f"checkpoint-{step}", self.best)
        self.checkpoints.commit(step)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the adapter alone: a checkpoint needs no tokenizer, no pickle of the arguments."""
        if self.group.is_first:
            adapters.save_adapter(self.model, Path(str(output_dir)))

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write none: checkpoints need no card, and the final model gets one with its scores."""


def _row_nll(model: Any, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the nats of each row's labels: [rows].

    trl computes the output layer for the articles' tokens too, and then masks them: 30% of a step
    of the pocket model on a CPU. Here it starts at the first summary of the batch.
    """
    in_summary = (labels[:, 1:] != IGNORED).any(0).int()
    summaries = len(in_summary) - int(in_summary.argmax())
    logits = model(
        input_ids=ids,
        logits_to_keep=summaries + 1,  # the token before a summary predicts its first one
        use_cache=False,
    ).logits[:, :-1]
    targets = labels[:, -summaries:]
    counted = targets != IGNORED
    nll = functional.cross_entropy(logits[counted].float(), targets[counted], reduction="none")
    return nll.new_zeros(len(ids)).index_add(0, counted.nonzero()[:, 0], nll)


def _encode(row: Example) -> dict[str, list[int]]:
    return {"input_ids": row.input_ids, "labels": row.labels}


class _Callback(TrainerCallback):
    """Decides when to evaluate and to save, records each step, and notifies the caller."""

    def __init__(
        self,
        trainer: AdapterTrainer,
        notify: Callable[[Sequence[Evaluation]], None],
        stop_signal: Callable[[], int | None],
    ) -> None:
        self.trainer, self.history = trainer, trainer.history
        self.notify, self.stop_signal = notify, stop_signal
        self.evaluation_steps = set(budget.evaluation_steps(trainer.settings))
        self.row_every = budget.history_interval(trainer.settings)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Let dropout in several processes depend on seed, step and process alone.

        A checkpoint has no other generator's state than the first one's.
        """
        group = self.trainer.group
        if group.size > 1:
            torch.manual_seed(hash((args.seed, state.global_step, group.rank)))

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Record the loss before it changes the weights: it may not be a number."""
        loss = torch.stack(self.trainer.step_losses).sum().item()
        self.trainer.step_losses.clear()
        rate = kwargs["optimizer"].param_groups[0]["lr"]
        total = sum(self.trainer.group.all_gather(loss))
        self.history.add_step(state.global_step + 1, total, rate, self.trainer.grad_norm)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step % self.row_every == 0:
            self.history.add_row(state.global_step)
        if self.trainer.job.on_step:
            self.trainer.job.on_step(state.global_step * self.history.batch)
        if state.global_step in self.evaluation_steps:
            control.should_evaluate = control.should_save = True
        if self.stop_signal():
            control.should_save = True

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.notify(self.history.evaluations)
        if number := self.stop_signal():
            raise Stopped(number)
