"""The loop of a training: that of transformers and trl, with our loss, evaluation and checkpoints.

The only user of trl. The loss is over the summary's tokens alone, end of sequence included.
"""

from __future__ import annotations

import json
import resource
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional
from torch.utils.data import Dataset
from tqdm import tqdm
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from trl import SFTConfig, SFTTrainer

from nutgraf import adapter, budget
from nutgraf.articles import as_dataset
from nutgraf.attention import training_attention
from nutgraf.checkpoints import BEST, Checkpoints
from nutgraf.files import written_by_others
from nutgraf.footprint import EVALUATED
from nutgraf.history import Evaluation, History
from nutgraf.inference import RowLoss, loss_batches, mean_loss
from nutgraf.model import Device
from nutgraf.peers import ALONE, Peers
from nutgraf.prompts import IGNORED, Example
from nutgraf.settings import TrainConfig
from nutgraf.stopping import Stopped

# What a checkpoint has beside what transformers writes and reads: adapter, optimizer, schedule,
# loss scale, states of the random number generators.
HISTORY = "history.json"


def in_order(train: Sequence[Example], settings: TrainConfig) -> list[Example]:
    """The rows as a training takes them, one after the other; of `train` it touches no others."""
    order = budget.drawn(len(train), budget.examples_of(settings), settings.seed)
    batch = budget.effective_batch(settings)
    return [train[i] for i in budget.longest_first(order, lambda i: len(train[i].ids), batch)]


def peak_memory(device: Device) -> int:
    """Most memory held so far, in bytes: of the GPU, or of this process where there is none."""
    if device.name == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class Loop(SFTTrainer):
    """One training of the adapter in `model` on `train`, rows `in_order`; `run` does it.

    `history` is what is known of it, `best` the adapter's weights at the lowest validation loss.
    """

    model: PreTrainedModel

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        train: Sequence[Example],
        validation: Sequence[Example],
        settings: TrainConfig,
        device: Device,
        kept: Checkpoints,
        peers: Peers = ALONE,
    ) -> None:
        micro, accumulated = budget.share(settings, peers.size)
        super().__init__(
            model=model,
            processing_class=tokenizer,
            train_dataset=as_dataset([_row(train[0])]),  # trl looks at one; all of them: below
            args=SFTConfig(
                output_dir=str(kept.half_written),
                max_steps=budget.steps_of(settings),
                per_device_train_batch_size=micro,
                gradient_accumulation_steps=accumulated,
                learning_rate=settings.learning_rate,
                weight_decay=settings.weight_decay,
                warmup_steps=settings.warmup_steps,
                lr_scheduler_type=settings.schedule,
                max_grad_norm=settings.max_grad_norm,
                activation_checkpointing=settings.activation_checkpointing,
                train_sampling_strategy="sequential",  # `train` is in its order
                # When to evaluate and save, the watch says; what to log, the history.
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
                dataset_kwargs={"skip_prepare_dataset": True},
                disable_tqdm=True,
                report_to="none",
            ),
        )
        rows = budget.effective_batch(settings), micro * accumulated * peers.size
        self.train_dataset = cast(Any, _Rows(train, *rows, tokenizer.pad_token_id))
        self.remove_callback(PrinterCallback)
        # TRL casts the adapter of a quantized base to bf16; it is small, and in fp32 it loses
        # nothing.
        for weight in model.parameters():
            if weight.requires_grad:
                weight.data = weight.data.float()
        self.settings, self.device, self.kept = settings, device, kept
        self.peers, self.micro = peers, micro
        self.validation, self.pad = validation, tokenizer.pad_token_id
        self.longest = max(len(row.ids) for row in train)
        self.history = History(budget.effective_batch(settings))
        self.best: dict[str, torch.Tensor] = {}
        self.step_losses: list[torch.Tensor] = []

    def run(
        self,
        tell: Callable[[Sequence[Evaluation]], None],
        on_step: Callable[[], None],
        asked: Callable[[], int | None],
        progress: str | None,
    ) -> None:
        """Train to the end, from the newest checkpoint if there is one.

        A checkpoint is written after each evaluation, and before `Stopped` is raised where `asked`
        gives the number of a signal. `tell` is given all evaluations so far, at the start and after
        each checkpoint; `on_step` is called after each step.
        """
        newest = self.kept.newest()
        if newest:
            self.history.restore(json.loads((newest / HISTORY).read_text(encoding="utf-8")))
            self.best = load_file(newest / BEST)
            tell(self.history.evaluations)
        bar = tqdm(
            total=budget.steps_of(self.settings) * self.history.batch,
            desc=progress,
            unit=" articles",
            disable=None if progress else True,
        )
        with bar, training_attention(self.model, self.device, self.micro, self.longest):
            self.add_callback(_Watch(self, tell, on_step, asked, bar))
            self.train(resume_from_checkpoint=str(newest) if newest else None)
        self._note_memory()

    def _note_memory(self) -> None:
        history = self.history
        history.peak_memory_bytes = max(history.peak_memory_bytes, peak_memory(self.device))

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Nats of the summaries over the number of their tokens in the whole optimizer step.

        trl computes the output layer for the articles' tokens too, and then masks them: 30% of a
        step of the pocket model on a CPU. Here it begins with the first summary of the batch. The
        padding is on the right, where causal attention never looks, so that no mask slows it down.
        """
        labels = inputs["labels"]
        in_summary = (labels[:, 1:] != -100).any(0).int()
        summaries = len(in_summary) - int(in_summary.argmax())
        logits = model(
            input_ids=inputs["input_ids"],
            logits_to_keep=summaries + 1,  # the token before a summary foretells its first one
            use_cache=False,
        ).logits[:, :-1]
        targets = labels[:, -summaries:]
        told = targets != IGNORED
        nll = functional.cross_entropy(logits[told].float(), targets[told], reduction="sum")
        loss = nll / kwargs["num_items_in_batch"]
        self.step_losses.append(loss.detach())
        return loss * self.peers.size  # the gradient is the mean over the processes

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Exact over tokens, whatever the batches; the adapter is kept where it is the best."""
        self.model.eval()
        rows = self._validation_losses()
        self.model.train()
        loss = mean_loss(rows)
        self.history.evaluation(self.state.global_step, loss, rows)
        if self.history.best is self.history.evaluations[-1]:
            self.best = adapter.weights(self.model)
        metrics = {"eval_loss": loss}
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    def _validation_losses(self) -> list[RowLoss]:
        """Of the same batches whatever the number of processes, which take turns where they can."""
        peers, every = (
            self.peers,
            list(budget.batches([len(r.ids) for r in self.validation], EVALUATED)),
        )
        mine = every if peers.shards else every[peers.rank :: peers.size]
        others = set(range(len(self.validation))).difference(*mine)
        found: dict[int, RowLoss] = {}
        for batch in loss_batches(self.model, self.validation, self.pad, self.device, done=others):
            found |= batch
        known = {i: row for rows in peers.all(found) for i, row in rows.items()}
        return [known[i] for i in range(len(self.validation))]

    def _save_checkpoint(self, *args: Any) -> None:
        """transformers' checkpoint and what is ours, under a temporary name until it is whole."""
        step = self.state.global_step
        folder = self.kept.half_written / f"checkpoint-{step}"
        self._note_memory()
        with written_by_others(self.kept.folder):
            super()._save_checkpoint(*args)
            if not self.peers.is_first:
                return
            save_file(self.best, folder / BEST)
            (folder / HISTORY).write_text(json.dumps(self.history.state()), encoding="utf-8")
        self.kept.keep(step)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """The adapter alone: a checkpoint needs no tokenizer, and no pickle of the arguments."""
        if self.peers.is_first:
            adapter.save(self.model, Path(str(output_dir)))

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Checkpoints need no model card; the final model gets one with its scores."""


class _Rows(Dataset[dict[str, list[int]]]):
    """The rows of each step, made when their turn comes.

    Micro-batches go round the processes; rows that fill up the last ones of a step count nothing.
    """

    def __init__(self, train: Sequence[Example], batch: int, room: int, pad: int) -> None:
        self._train, self._batch, self._room = train, batch, room
        self._empty = {"input_ids": [pad] * 2, "labels": [IGNORED] * 2}

    def __len__(self) -> int:
        return len(self._train) // self._batch * self._room

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        step, place = divmod(index, self._room)
        if place >= self._batch:
            return self._empty
        return _row(self._train[step * self._batch + place])


def _row(example: Example) -> dict[str, list[int]]:
    return {"input_ids": example.input_ids, "labels": example.labels}


class _Watch(TrainerCallback):
    """Says when to evaluate and to save, notes each step, and tells the caller."""

    def __init__(
        self,
        loop: Loop,
        tell: Callable[[Sequence[Evaluation]], None],
        on_step: Callable[[], None],
        asked: Callable[[], int | None],
        bar: Any,
    ) -> None:
        self.loop, self.history, self.bar = loop, loop.history, bar
        self.tell, self.on_step, self.asked = tell, on_step, asked
        self.evaluate_at = set(budget.evaluation_steps(loop.settings))
        self.row_every = budget.row_every(loop.settings)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.bar.update(state.global_step * self.history.batch)  # done before a stop

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Among several processes dropout depends on seed, step and process alone.

        A checkpoint has no other generator's state than the first one's.
        """
        peers = self.loop.peers
        if peers.size > 1:
            torch.manual_seed(hash((args.seed, state.global_step, peers.rank)))

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """A loss that is not a number is seen before it gets into the weights."""
        loss = sum(self.loop.peers.all(torch.stack(self.loop.step_losses).sum().item()))
        self.loop.step_losses.clear()
        self.history.step(state.global_step + 1, loss, kwargs["optimizer"].param_groups[0]["lr"])

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.global_step % self.row_every == 0:
            self.bar.set_postfix(loss=f"{self.history.row(state.global_step):.3f}", refresh=False)
        self.bar.update(self.history.batch)
        self.on_step()
        if state.global_step in self.evaluate_at:
            control.should_evaluate = control.should_save = True
        if self.asked():
            control.should_save = True

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.tell(self.history.evaluations)
        if number := self.asked():
            raise Stopped(number)
