"""fit(): train an adapter to summaries, for the search, the baseline and the best alike."""

from __future__ import annotations

import gc
import hashlib
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from nutgraf import adapter, stopping
from nutgraf.budget import effective_batch, halved
from nutgraf.checkpoints import Checkpoints
from nutgraf.history import Evaluation, Fit, History
from nutgraf.loop import Loop, in_order
from nutgraf.model import Device
from nutgraf.peers import ALONE, Peers
from nutgraf.problems import Failure
from nutgraf.prompts import Example
from nutgraf.settings import TrainConfig
from nutgraf.shards import whole

logger = logging.getLogger(__name__)


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
    peers: Peers = ALONE,
    most: int | None = None,
) -> Fit:
    """Train the adapter of `model` and save the one with the lowest validation loss to `out`.

    Of `train` only the rows that are `drawn` for the settings are touched. A training that was
    stopped goes on from its newest checkpoint beside `out`, and ends with the same weights as one
    that was not. `on_eval` is called after each evaluation on the first `eval_examples` rows of
    `validation`, once its checkpoint is written; after a stop first for those before it. `on_step`
    is called after each step. What they raise ends the training, and so does a signal, with a last
    checkpoint (`stopping`). `progress` is the title of a progress bar, none without.

    Several processes share the work of each step, where `peers` are not alone: each calls this with
    the same, but for `out`, of which only that of the first is of use. Results are those of one
    process, up to rounding, and dropout differs with their number.

    Where the device has no memory for it, the micro-batch is halved and the accumulation doubled.
    Raises Failure where that is of no more help, and where the loss stops being a number. Among
    several processes torch.OutOfMemoryError is raised, which ends them all: `most` is then the
    micro-batch that their next attempt begins with.
    """
    if not train or not validation:
        raise Failure(
            f"{len(train)} training and {len(validation)} validation rows: both are needed"
        )
    train = in_order(train, settings)
    rows, start = list(validation[: settings.eval_examples]), adapter.weights(model)
    claim = claim_of(model, start, train, rows, settings, device)
    kept, tell = Checkpoints(out, claim, progress or out.name), each_once(on_eval)
    if device.name == "cuda":
        torch.cuda.reset_peak_memory_stats()

    def trained(with_micro_batches: TrainConfig) -> Loop:
        adapter.put(model, start)
        loop = Loop(model, tokenizer, train, rows, with_micro_batches, device, kept, peers)
        loop.run(tell, on_step, asked, progress)
        return loop

    done = peers.first(kept.finished())
    if done and peers.is_first:
        cast(Any, model).load_adapter(str(out), "default", is_trainable=True)
    elif not done:
        kept.open()
        kept.share(peers)
        with stopping.later() as asked:
            if peers.size > 1:
                loop = trained(_with_micro_batches(settings, most or settings.micro_batch_size))
            else:
                loop = _as_memory_allows(trained, settings, kept, max(map(_length, train)))
            adapter.put(model, loop.best)
            done = {
                "processes": peers.size,
                "micro_batch_size": loop.micro,
                "history": loop.history.state(),
            }
            if peers.is_first:
                adapter.save(model, out)
                kept.finish(done)
    history = History(effective_batch(settings))
    history.restore(done["history"])
    tell(history.evaluations)
    return Fit.of(history, settings, done["micro_batch_size"], done["processes"])


def _as_memory_allows(
    trained: Callable[[TrainConfig], Loop], settings: TrainConfig, kept: Checkpoints, longest: int
) -> Loop:
    """`trained` with the settings, or with as small micro-batches as it takes: noted for a stop."""
    batch = effective_batch(settings)
    micro = kept.notes.get("micro_batch_size", settings.micro_batch_size)
    while True:
        try:
            return trained(_with_micro_batches(settings, micro))
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
    less = halved(batch, micro)
    kept.note(micro_batch_size=less)
    logger.warning(
        f"{kept.title}: no memory on the device for {micro} articles at a time: goes on with "
        f"{less}, {batch // less} times a step (train.micro_batch_size)"
    )
    return less


def _with_micro_batches(settings: TrainConfig, micro: int) -> TrainConfig:
    accumulated = effective_batch(settings) // micro
    return settings.model_copy(
        update={"micro_batch_size": micro, "gradient_accumulation_steps": accumulated}
    )


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
    frozen = (whole(w).flatten() for w in model.parameters() if not w.requires_grad)
    rows = ([*row.input_ids, -1, *row.labels, -1] for row in (*train, *validation))
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
    return len(row.ids)
