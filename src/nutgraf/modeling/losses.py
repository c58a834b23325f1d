"""Compute losses of summaries in batches."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional
from transformers import Cache, PreTrainedModel

from nutgraf.core.errors import Failure
from nutgraf.data.examples import IGNORED, Example
from nutgraf.modeling.batching import length_batches
from nutgraf.modeling.dims import EVAL_BATCH_SIZE, LOGIT_POSITIONS
from nutgraf.modeling.inference import fast_inference
from nutgraf.modeling.load import Device


class DeviceMemoryError(Failure):
    """The device has no memory for a batch."""


@dataclass(frozen=True)
class RowLoss:
    """The negative log-likelihood of a summary: a sum over its tokens (nats), and their number."""

    nll: float
    tokens: int


def summary_losses(
    model: PreTrainedModel,
    rows: Sequence[Example],
    pad: int,
    device: Device,
    batch_size: int = EVAL_BATCH_SIZE,
) -> list[RowLoss]:
    """Return the loss of each row's summary, end of sequence included, in the order of the rows.

    Args:
        model: The base, with or without an adapter.
        rows: Token ids of prompt and summary.
        pad: The id of the padding token.
        device: Where the model is.
        batch_size: Rows in a batch.

    Raises:
        DeviceMemoryError: The device has no memory for a batch.
    """
    losses: dict[int, RowLoss] = {}
    for batch in length_batches([len(row.ids) for row in rows], batch_size):
        of_batch = batch_losses(model, [rows[i] for i in batch], pad, device)
        losses |= zip(batch, of_batch, strict=True)
    return [losses[i] for i in range(len(rows))]


@torch.no_grad()
def batch_losses(
    model: PreTrainedModel, rows: Sequence[Example], pad: int, device: Device
) -> list[RowLoss]:
    """Return the losses of the rows' summaries, computed as one batch. Raises DeviceMemoryError.

    Rows are padded on the left, so that all summaries end together and logits are computed for
    the last positions only: [batch, longest summary + 1, vocabulary], never for the article.
    """
    ids, mask = pad_left([row.input_ids for row in rows], pad, device)
    labels = [row.ids[row.prompt_tokens :].tolist() for row in rows]
    knob = "lower prompt.max_tokens, or set model.quantization to nf4"
    with (
        device.autocast(),
        guard_memory(len(rows), ids.shape[1], knob),
        fast_inference(model, device),
    ):
        logits = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=(mask.cumsum(1) - 1).clamp(min=0),
            logits_to_keep=max(map(len, labels)) + 1,
            use_cache=False,
        ).logits
    losses = []
    for summary, row_logits in zip(labels, logits[:, :-1], strict=True):
        target = torch.tensor(summary, device=row_logits.device)
        nll = functional.cross_entropy(row_logits[-len(summary) :].float(), target, reduction="sum")
        losses.append(RowLoss(nll.item(), len(summary)))
    return losses


@torch.no_grad()
def losses_after(
    model: PreTrainedModel,
    prompts: tuple[torch.Tensor, torch.Tensor],
    summaries: Sequence[Sequence[int]],
    cache: Cache,
) -> list[RowLoss]:
    """Return the losses of summaries, end of sequence included, and leave prompts in the cache.

    So summaries can be generated from the same reading: all but the last token of each prompt is
    in the cache, which was empty. Logits are computed for few positions at a time.

    Args:
        model: The base, with or without an adapter, in the context of `FastInference.used`.
        prompts: Token ids and mask of the prompts, padded on the left, [batch, longest].
        summaries: Token ids of each summary.
        cache: An empty cache, which can be cropped.
    """
    ids, mask = prompts
    read = ids.shape[1] - 1
    inputs = [
        [*last, *summary[:-1]]
        for last, summary in zip(ids[:, -1:].tolist(), summaries, strict=True)
    ]
    longest = max(map(len, inputs))
    behind = ids.new_tensor([row + [0] * (longest - len(row)) for row in inputs])
    labels = ids.new_tensor([[*row] + [IGNORED] * (longest - len(row)) for row in summaries])
    ids, mask = torch.cat([ids[:, :-1], behind], 1), torch.cat([mask[:, :-1], labels != IGNORED], 1)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    nll = [0.0] * len(ids)
    step = max(1, LOGIT_POSITIONS // len(ids))
    for start, end in itertools.pairwise([0, *range(read, ids.shape[1], step), ids.shape[1]]):
        logits = model(
            input_ids=ids[:, start:end],
            attention_mask=mask[:, :end],
            position_ids=positions[:, start:end],
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1 if end == read else 0,
        ).logits
        if start >= read:
            for i, row in enumerate(logits):
                target = labels[i, start - read : end - read]
                nll[i] += functional.cross_entropy(row.float(), target, reduction="sum").item()
    cache.crop(-longest)
    return [RowLoss(total, len(summary)) for total, summary in zip(nll, summaries, strict=True)]


def mean_loss(losses: Sequence[RowLoss]) -> float:
    """Return nats per summary token over all rows; its exponential is the perplexity."""
    return sum(row.nll for row in losses) / sum(row.tokens for row in losses)


@contextlib.contextmanager
def guard_memory(rows: int, tokens: int, knob: str) -> Iterator[None]:
    """Raise DeviceMemoryError, with the `knob` to turn, if memory runs out in the block."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        reason = " ".join(str(error).split())[:120]
        raise DeviceMemoryError(
            f"no memory on the device for {rows} rows of {tokens} tokens ({reason}): {knob}"
        ) from None


def pad_left(
    rows: Sequence[Sequence[int]], pad: int, device: Device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return token ids and mask, [batch, longest], with the rows at the right end."""
    longest = max(map(len, rows))
    ids = [[pad] * (longest - len(row)) + list(row) for row in rows]
    mask = [[0] * (longest - len(row)) + [1] * len(row) for row in rows]
    return torch.tensor(ids, device=device.name), torch.tensor(mask, device=device.name)
