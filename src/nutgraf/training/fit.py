"""Train one adapter: for the search, the baseline and the best model alike."""

from __future__ import annotations

import gc
import hashlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from nutgraf.config import effects
from nutgraf.core import signals
from nutgraf.core.errors import one_line
from nutgraf.modeling import adapters
from nutgraf.modeling.load import Device, choose_device, load_base, load_tokenizer
from nutgraf.training.checkpoints import Checkpoints
from nutgraf.training.distributed.fsdp import full_weight, load_base_on_cpu, shard_base
from nutgraf.training.distributed.process_group import SINGLE_PROCESS, ProcessGroup
from nutgraf.training.history import TrainingResult
from nutgraf.training.job import TrainingJob, notify_once
from nutgraf.training.sft_trainer import AdapterTrainer

# Raised when checkpoints of an earlier version can no longer be resumed, or the rest of their
# training would be rounded otherwise.
CHECKPOINT_FORMAT = 5


def fit_adapter(
    job: TrainingJob, group: ProcessGroup = SINGLE_PROCESS, max_micro_batch: int | None = None
) -> TrainingResult:
    """Train an adapter on the base of `job.config.model`, and save it to `job.out`.

    It is a new one, or starts as the one in `job.start`. The base stays loaded for the next
    training. Arguments and errors are those of `fit`.
    """
    config, device = job.config, choose_device(job.config.model)
    base = load_base_on_cpu(config.model, device) if group.sharded else load_base(config.model)
    with adapters.fresh_adapter(base, config.lora, config.train.seed) as model:
        if job.start:
            adapters.load_trainable(model, job.start)
        if group.sharded:
            shard_base(model, device, group.size)
        return fit(model, load_tokenizer(config.model), job, device, group, max_micro_batch)


def fit(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    job: TrainingJob,
    device: Device,
    group: ProcessGroup = SINGLE_PROCESS,
    max_micro_batch: int | None = None,
) -> TrainingResult:
    """Train the adapter of `model` and save the one with the lowest validation loss to `job.out`.

    After a training on pairs it is the last one.

    A stopped training resumes from its newest checkpoint beside `job.out`, and ends with the same
    weights as one that was not stopped. A signal ends it after the current step, with a last
    checkpoint. If the device has too little memory, the micro-batch is halved and the accumulation
    doubled.

    Args:
        model: The base with a peft adapter to train.
        tokenizer: The base's tokenizer.
        job: Settings, rows, output folder and callbacks.
        device: Where to compute and in which number format.
        group: The processes that share each step. All of them call this with the same job, except
            for `out`: only the first one's is used. Results are those of one process up to
            rounding; dropout depends on the number of processes.
        max_micro_batch: Rows of a micro-batch for several processes, if an earlier attempt ran out
            of memory.

    Raises:
        Failure: if not even one row fits into memory, or if a loss is not a number.
        torch.OutOfMemoryError: in one of several processes, which ends them all.
    """
    start = adapters.adapter_weights(model)
    checkpoints = Checkpoints(job.out, training_claim(model, start, job, device), job.title)
    notify = notify_once(job.on_eval)
    if device.name == "cuda":
        torch.cuda.reset_peak_memory_stats()

    def train(micro_batch: int) -> AdapterTrainer:
        adapters.set_adapter_weights(model, start)
        sized = job.with_micro_batch(micro_batch)
        trainer = AdapterTrainer(model, tokenizer, sized, device, checkpoints, group)
        trainer.run(notify, stop_signal)
        return trainer

    if state := group.broadcast(checkpoints.finished()):
        if group.is_first:
            adapters.load_trainable(model, job.out)
        result = TrainingResult(settings=job.config.train, device=device, **state)
    else:
        checkpoints.open()
        checkpoints.share(group)
        with signals.deferred_stop() as stop_signal:
            if group.size > 1:
                trainer = train(max_micro_batch or job.config.train.micro_batch_size)
            else:
                trainer = _train_within_memory(train, job, checkpoints)
            adapters.set_adapter_weights(model, trainer.best)
            result = TrainingResult(
                settings=job.config.train,
                device=device,
                history=trainer.history,
                micro_batch_size=trainer.micro_batch,
                processes=group.size,
            )
            if group.is_first:
                adapters.save_adapter(model, job.out)
                checkpoints.finish(result.model_dump())
    notify(result.history.evaluations)
    return result


def _train_within_memory(
    train: Callable[[int], AdapterTrainer], job: TrainingJob, checkpoints: Checkpoints
) -> AdapterTrainer:
    """Call `train` with smaller and smaller micro-batches until one fits; note its size."""
    micro_batch = job.config.train.micro_batch_size
    micro_batch = min(micro_batch, checkpoints.notes.get("micro_batch_size", micro_batch))
    while True:
        try:
            return train(micro_batch)
        except torch.OutOfMemoryError as error:
            reason = one_line(error, 120)
        micro_batch = job.smaller_micro_batch(micro_batch, reason)
        checkpoints.note(micro_batch_size=micro_batch)
        gc.collect()
        torch.cuda.empty_cache()


def training_claim(
    model: PreTrainedModel,
    start: Mapping[str, torch.Tensor],
    job: TrainingJob,
    device: Device,
) -> dict[str, Any]:
    """Return what decides the result of a training, so that only the same training is resumed.

    Of the frozen base a few values of each tensor are hashed, not all. `start` holds the adapter's
    initial weights by name.
    """
    frozen = (full_weight(w).flatten() for w in model.parameters() if not w.requires_grad)
    rows = (*job.ordered_rows, *job.evaluated_rows)
    pairs = {}
    if job.preference:
        pairs = {
            "beta": job.preference.beta,
            "likelihood": job.preference.likelihood,
            "start_nll": _hash([np.array(job.preference.start_nll)]),
        }
    return {
        **pairs,
        "checkpoint_format": CHECKPOINT_FORMAT,
        "settings": effects.deciding_training(job.config),
        "device": [device.name, device.dtype_name],
        "adapter": _hash(start[name].numpy() for name in sorted(start)),
        "base": _hash(w[:: max(1, w.numel() // 16)].float().cpu().numpy() for w in frozen),
        "rows": _hash(np.array([*row.input_ids, -1, *row.labels, -1]) for row in rows),
    }


def _hash(arrays: Iterable[np.ndarray[Any, Any]]) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(repr(array.shape).encode())
        digest.update(array.tobytes())
    return digest.hexdigest()[:16]
