"""fit(): train an adapter to summaries, for the search, the baseline and the best alike."""

from __future__ import annotations

import gc
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from nutgraf import stopping
from nutgraf.budget import effective_batch
from nutgraf.checkpoints import Checkpoints
from nutgraf.files import written_by_others
from nutgraf.history import Evaluation, Fit, History
from nutgraf.loop import Loop, adapter_weights, put_adapter_weights
from nutgraf.model import Device
from nutgraf.problems import Failure
from nutgraf.progress import say
from nutgraf.prompts import Example
from nutgraf.settings import TrainConfig


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

    A training that was stopped goes on from its newest checkpoint beside `out`, and ends with the
    same weights as one that was not. `on_eval` is called after each evaluation on the first
    `eval_examples` rows of `validation`, once its checkpoint is written; after a stop first for
    those before it. `on_step` is called after each step. What they raise ends the training, and so
    does a signal, with a last checkpoint (`stopping`). `progress` is the title of a progress bar,
    none without.

    Where the device has no memory for it, the micro-batch is halved and the accumulation doubled.
    Raises Failure where that is of no more help, and where the loss stops being a number.
    """
    if not train or not validation:
        raise Failure(
            f"{len(train)} training and {len(validation)} validation rows: both are needed"
        )
    rows, start = list(validation[: settings.eval_examples]), adapter_weights(model)
    claim = claim_of(model, start, train, rows, settings, device)
    kept, tell = Checkpoints(out, claim, progress or out.name), each_once(on_eval)
    if device.name == "cuda":
        torch.cuda.reset_peak_memory_stats()

    def trained(with_micro_batches: TrainConfig) -> Loop:
        put_adapter_weights(model, start)
        loop = Loop(model, tokenizer, train, rows, with_micro_batches, device, kept)
        loop.run(tell, on_step, asked, progress)
        return loop

    done = kept.finished()
    if done:
        cast(Any, model).load_adapter(str(out), "default", is_trainable=True)
    else:
        kept.open()
        with stopping.later() as asked:
            loop = _as_memory_allows(trained, settings, kept, max(map(_length, train)))
            put_adapter_weights(model, loop.best)
            save_adapter(model, out)
            done = {
                "micro_batch_size": loop.settings.micro_batch_size,
                "history": loop.history.state(),
            }
            kept.finish(done)
    history = History(effective_batch(settings))
    history.restore(done["history"])
    tell(history.evaluations)
    return Fit.of(history, settings, done["micro_batch_size"])


def save_adapter(model: PreTrainedModel, out: Path) -> None:
    """Save the adapter in `model` as peft does, without the empty card that it adds."""
    with written_by_others(out.parent):
        model.save_pretrained(str(out), safe_serialization=True)
    (out / "README.md").unlink()


def _as_memory_allows(
    trained: Callable[[TrainConfig], Loop], settings: TrainConfig, kept: Checkpoints, longest: int
) -> Loop:
    """`trained` with the settings, or with as small micro-batches as it takes: noted for a stop."""
    batch = effective_batch(settings)
    micro = kept.notes.get("micro_batch_size", settings.micro_batch_size)
    while True:
        accumulated = {"micro_batch_size": micro, "gradient_accumulation_steps": batch // micro}
        try:
            return trained(settings.model_copy(update=accumulated))
        except torch.OutOfMemoryError as error:
            reason = " ".join(str(error).split())[:120]
        micro = smaller(micro, batch, kept, longest, reason)
        gc.collect()
        torch.cuda.empty_cache()


def smaller(micro: int, batch: int, kept: Checkpoints, longest: int, reason: str) -> int:
    """The micro-batch to go on with after one of `micro` had no memory: noted for a stop, and said.

    It is at most half and divides the `batch`. Raises Failure where it was one article.
    """
    if micro == 1:
        raise Failure(
            f"{kept.title}: no memory on the device for one article of up to {longest} tokens "
            f"({reason}): lower prompt.max_tokens, or set train.activation_checkpointing to "
            "true or model.quantization to nf4"
        )
    less = max(n for n in range(1, micro // 2 + 1) if batch % n == 0)
    kept.note(micro_batch_size=less)
    say(
        f"{kept.title}: no memory on the device for {micro} articles at a time: goes on with "
        f"{less}, {batch // less} times a step (train.micro_batch_size)"
    )
    return less


def each_once(
    on_eval: Callable[[Evaluation], None] | None,
) -> Callable[[Sequence[Evaluation]], None]:
    """Calls `on_eval` with those of the evaluations so far that it was not called with before."""
    told = 0

    def tell(evaluations: Sequence[Evaluation]) -> None:
        nonlocal told
        for found in evaluations[told:]:
            told += 1
            if on_eval:
                on_eval(found)

    return tell


def claim_of(
    model: PreTrainedModel,
    start: Mapping[str, torch.Tensor],
    train: Sequence[Example],
    validation: Sequence[Example],
    settings: TrainConfig,
    device: Device,
) -> dict[str, Any]:
    """What decides the result of a training: only a checkpoint of the same is carried on from.

    Of the frozen base a few values of each tensor are hashed, not all.
    """
    lora = cast(Any, model).peft_config["default"]
    frozen = (w.flatten() for w in model.parameters() if not w.requires_grad)
    rows = [[*row.input_ids, -1, *row.labels, -1] for row in (*train, *validation)]
    return {
        "settings": settings.model_dump(mode="json"),
        "lora_alpha": lora.lora_alpha,
        "lora_dropout": lora.lora_dropout,
        "device": [device.name, device.dtype_name],
        "adapter": _hash(start[name].numpy() for name in sorted(start)),
        "base": _hash(w[:: max(1, w.numel() // 16)].float().cpu().numpy() for w in frozen),
        "rows": _hash(np.array(row) for row in rows),
    }


def _hash(arrays: Iterable[np.ndarray[Any, Any]]) -> str:
    found = hashlib.sha256()
    for array in arrays:
        found.update(repr(array.shape).encode())
        found.update(array.tobytes())
    return found.hexdigest()[:16]


def _length(row: Example) -> int:
    return len(row.input_ids)
