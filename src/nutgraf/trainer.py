"""One training: fit an adapter to summaries, for the search, the baseline and the best alike.

The only user of trl. The loss is over the summary's tokens alone, end of sequence included.
"""

from __future__ import annotations

import resource
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional
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

from nutgraf.articles import as_dataset
from nutgraf.attention import training_attention
from nutgraf.budget import effective_batch, evaluation_steps, steps_of, training_order
from nutgraf.inference import RowLoss, mean_loss, summary_losses
from nutgraf.metrics import perplexity
from nutgraf.model import Device
from nutgraf.problems import Failure
from nutgraf.prompts import Example
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
    """What a training leaves beside the adapter in the model: its best evaluation and its costs."""

    best: Evaluation
    history: list[HistoryRow]
    steps: int
    examples: int
    seconds: float
    peak_memory_bytes: int

    def record(self, settings: TrainConfig) -> dict[str, Any]:
        """The contents of train.json, without the adapter's settings."""
        return {
            "learning_rate": settings.learning_rate,
            "gradient_accumulation_steps": settings.gradient_accumulation_steps,
            "micro_batch_size": settings.micro_batch_size,
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


def fit(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    train: Sequence[Example],
    validation: Sequence[Example],
    settings: TrainConfig,
    device: Device,
    out: Path,
    on_eval: Callable[[Evaluation], None] | None = None,
    on_step: Callable[[], None] = lambda: None,
    progress: str | None = None,
) -> Fit:
    """Train the adapter of `model` and save the one with the lowest validation loss to `out`.

    `on_eval` is called after each evaluation on the first `eval_examples` rows of `validation`,
    `on_step` after each step; what they raise ends the training. `progress` is the title of a
    progress bar, none without. Raises Failure where the loss stops being a number, with step and
    learning rate.
    """
    if not train or not validation:
        raise Failure(
            f"{len(train)} training and {len(validation)} validation rows: both are needed"
        )
    batch, steps = effective_batch(settings), steps_of(settings)
    order = training_order([len(row.input_ids) for row in train], batch, steps, settings.seed)
    scratch = out.with_name(f".{out.name}.checkpoints")
    watch = _Watch(batch, evaluation_steps(settings), on_step, progress)
    trainer = _SummaryTrainer(
        model=model,
        processing_class=tokenizer,
        train_dataset=as_dataset(
            [{"input_ids": train[i].input_ids, "labels": train[i].labels} for i in order]
        ),
        eval_dataset=as_dataset(
            [{"input_ids": validation[0].input_ids, "labels": validation[0].labels}]
        ),
        callbacks=[watch],
        args=SFTConfig(
            output_dir=str(scratch),
            max_steps=steps,
            per_device_train_batch_size=settings.micro_batch_size,
            gradient_accumulation_steps=settings.gradient_accumulation_steps,
            learning_rate=settings.learning_rate,
            weight_decay=settings.weight_decay,
            warmup_steps=settings.warmup_steps,
            lr_scheduler_type=settings.schedule,
            max_grad_norm=settings.max_grad_norm,
            activation_checkpointing=settings.activation_checkpointing,
            train_sampling_strategy="sequential",  # `order` is the order
            eval_strategy="steps",
            eval_steps=steps,  # and wherever the watch says
            save_strategy="steps",
            save_steps=steps,
            save_total_limit=1,
            load_best_model_at_end=True,
            metric_for_best_model="eval_loss",
            logging_steps=max(1, steps // 40),
            logging_nan_inf_filter=False,
            bf16=device.dtype == torch.bfloat16,
            fp16=device.dtype == torch.float16,
            use_cpu=device.name == "cpu",
            seed=settings.seed,
            max_length=None,
            dataset_kwargs={"skip_prepare_dataset": True},
            disable_tqdm=True,
            report_to="none",
        ),
    )
    trainer.remove_callback(PrinterCallback)
    trainer.rows = list(validation[: settings.eval_examples])
    trainer.pad, trainer.device = tokenizer.pad_token_id, device
    trainer.on_eval = lambda found: watch.evaluated(found, on_eval)
    # TRL casts the adapter of a quantized base to bf16; it is small, and in fp32 it loses nothing.
    for weight in model.parameters():
        if weight.requires_grad:
            weight.data = weight.data.float()
    if device.name == "cuda":
        torch.cuda.reset_peak_memory_stats()
    longest = max(len(row.input_ids) for row in train)
    started = time.perf_counter()
    with training_attention(model, device, settings.micro_batch_size, longest):
        trainer.train()
    seconds = time.perf_counter() - started
    watch.close()
    model.save_pretrained(str(out), safe_serialization=True)
    (out / "README.md").unlink()  # peft's empty model card; the final model gets a filled one
    shutil.rmtree(scratch)
    best = min(watch.evaluations, key=lambda e: e.loss)
    return Fit(best, watch.history, steps, steps * batch, seconds, peak_memory(device))


def peak_memory(device: Device) -> int:
    """Most memory held so far, in bytes: of the GPU, or of this process where there is none."""
    if device.name == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class _SummaryTrainer(SFTTrainer):
    """SFTTrainer whose evaluation is ours: exact over tokens, whatever the batches."""

    model: PreTrainedModel
    rows: list[Example]
    pad: int
    device: Device
    on_eval: Callable[[Evaluation], None]

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        raise AssertionError("evaluation does not go through a data loader")

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        self.model.eval()
        rows = summary_losses(self.model, self.rows, self.pad, self.device)
        self.model.train()
        batch = self.args.per_device_train_batch_size * self.args.gradient_accumulation_steps
        step = self.state.global_step
        found = Evaluation(step, step * batch, mean_loss(rows), rows)
        metrics = {"eval_loss": found.loss}
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        self.on_eval(found)
        return metrics

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Nats of the summaries over the number of their tokens in the whole optimizer step.

        trl computes the output layer for the articles' tokens too, and then masks them: 30% of a
        step of the pocket model on a CPU. Here it begins with the first summary of the batch. The
        padding is on the right, where causal attention never looks, so that no mask slows it down.
        """
        labels = inputs["labels"]
        summaries = labels.shape[1] - int((labels != -100).int().argmax(1).min())
        logits = model(
            input_ids=inputs["input_ids"],
            logits_to_keep=summaries + 1,  # the token before a summary foretells its first one
            use_cache=False,
        ).logits[:, :-1]
        targets = labels[:, -summaries:]
        told = targets != -100
        nll = functional.cross_entropy(logits[told].float(), targets[told], reduction="sum")
        return nll / kwargs["num_items_in_batch"]

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Checkpoints need no model card; the final model gets one with its scores."""


class _Watch(TrainerCallback):
    """History and progress of one training."""

    def __init__(
        self, batch: int, evaluate_at: list[int], on_step: Callable[[], None], title: str | None
    ) -> None:
        self.batch = batch
        self.on_step = on_step
        self.evaluate_at = set(evaluate_at)
        self.started = time.perf_counter()
        self.history: list[HistoryRow] = []
        self.evaluations: list[Evaluation] = []
        self.bar = tqdm(
            total=evaluate_at[-1] * batch,
            desc=title,
            unit=" articles",
            disable=title is None,
            leave=True,
        )

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.bar.update(self.batch)
        self.on_step()
        if state.global_step in self.evaluate_at:
            control.should_evaluate = control.should_save = True

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if not logs or "loss" not in logs:
            return
        loss, rate = logs["loss"], logs["learning_rate"]
        if loss != loss or loss in (float("inf"), float("-inf")):
            raise Failure(
                f"the loss is {loss} at step {state.global_step}, learning rate {rate:.2e}: "
                "lower train.learning_rate or train.max_grad_norm, or set model.dtype to fp32"
            )
        self._add(state.global_step, rate, loss, None)
        self.bar.set_postfix(loss=f"{loss:.3f}", refresh=False)

    def evaluated(self, found: Evaluation, on_eval: Callable[[Evaluation], None] | None) -> None:
        self.evaluations.append(found)
        self._add(found.step, None, None, found.loss)
        if on_eval:
            on_eval(found)

    def close(self) -> None:
        self.bar.close()

    def _add(
        self, step: int, rate: float | None, train: float | None, validation: float | None
    ) -> None:
        seconds = round(time.perf_counter() - self.started, 2)
        row = HistoryRow(step, step * self.batch, rate, train, validation, seconds)
        self.history.append(row)
