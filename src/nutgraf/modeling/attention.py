"""Attend on a CPU in blocks of queries: products and a softmax, no later keys, no copies.

For training torch's fused kernel takes 14 to 21% more time than products and a softmax, and
transformers' eager attention keeps six bytes a score for the backward pass, where this keeps two.
With a mask the fused kernel takes 2.4 times as long as blocks (docs/log.md).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import eager_mask

from nutgraf.modeling.cache import BufferedLayer, SharedPrompts
from nutgraf.modeling.dims import ATTENTION_SCORE_LIMIT, attention_score_bytes
from nutgraf.modeling.load import Device

NAME = "blocks"
BLOCK = 160  # queries: their scores stay in the cache of a core


@contextlib.contextmanager
def training_attention(
    model: PreTrainedModel, device: Device, rows: int, tokens: int
) -> Iterator[None]:
    """Attend in blocks in the context, if that is fastest for micro-batches of [rows, tokens].

    All scores are kept for the backward pass, so it is used only if these are few. It is used in
    place of torch's fused attention alone: a base that takes another (Gemma 2 caps its scores)
    needs that.
    """
    config = model.config
    layers, heads = config.num_hidden_layers, config.num_attention_heads
    size = attention_score_bytes(layers, heads, rows, tokens, device.dtype.itemsize)
    usual = device.name == "cpu" and config._attn_implementation == "sdpa"
    fits = size <= ATTENTION_SCORE_LIMIT
    with block_attention(model) if usual and fits else contextlib.nullcontext():
        yield


@contextlib.contextmanager
def block_attention(model: PreTrainedModel) -> Iterator[None]:
    """Attend in blocks in the context."""
    previous = model.config._attn_implementation
    model.set_attn_implementation(NAME)
    try:
        yield
    finally:
        model.set_attn_implementation(previous)


def _attend(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor,
    scaling: float,
    dropout: float = 0.0,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Attend as transformers' attention functions do; the mask is that of `_mask`."""
    dtype = _product_dtype(query.dtype)
    query, key, value = (query * scaling).to(dtype), key.to(dtype), value.to(dtype)
    return attend_in_blocks(query, key, value, attention_mask, dropout), None


def attend_in_blocks(
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor,
    dropout: float = 0.0,
) -> torch.Tensor:
    """Attend from scaled queries [batch, heads, n, d] to keys and values [batch, fewer, m, d].

    The n queries are those of the last tokens of m, and look back only. The mask, [batch, 1 or
    heads, n, m], is added to the scores. Returns [batch, n, heads, d]. All is in the format of the
    products; softmax sums in fp32 inside.
    """
    batch, heads, n, d = queries.shape
    groups, m = keys.shape[1], keys.shape[2]
    queries = queries.view(batch, groups, -1, n, d)
    keys = keys.transpose(2, 3)
    of_heads = (1, 1) if mask.shape[1] == 1 else (groups, -1)
    mask = mask.unflatten(1, of_heads)
    rows = []
    for start in range(0, n, BLOCK):
        block = queries[:, :, :, start : start + BLOCK]
        size = block.shape[3]
        seen = m - n + start + size
        scores = block.reshape(batch, groups, -1, d) @ keys[..., :seen]
        scores = scores.view(batch, groups, -1, size, seen)
        scores += mask[..., start : start + size, :seen]
        weights = torch.softmax(scores, dim=-1)
        if dropout:
            weights = functional.dropout(weights, dropout)
        part = weights.view(batch, groups, -1, seen) @ values[:, :, :seen]
        rows.append(part.view(batch, heads, size, d))
    return torch.cat(rows, 2).transpose(1, 2).contiguous()


def attend_few(queries: torch.Tensor, layer: BufferedLayer, mask: torch.Tensor) -> torch.Tensor:
    """Attend as `attend_in_blocks` from few queries [rows, heads, n, d] to what a cache holds.

    The mask is [rows, 1, n, tokens]. Whole buffers enter the products, what has no token masked:
    torch copies a part of a buffer before a product, which for one query takes longer than the
    products. The queries of rows that share a prompt enter one product with its keys.
    """
    rows, heads, n, d = queries.shape
    keys, values = layer.buffers
    groups, room = keys.shape[1], keys.shape[2]
    seen = mask.shape[3]
    grouped = queries.reshape(rows * groups, -1, d)
    scores = torch.bmm(grouped, keys.view(rows * groups, room, d).transpose(1, 2))
    scores = scores.view(rows, heads, n, room)
    prompts = layer.prompts
    tokens = prompts.tokens if prompts else 0
    if prompts:
        of_prompts = _by_prompt(grouped.view(rows, groups, -1, d), prompts)
        of_prompts = torch.bmm(of_prompts, prompts.keys.flatten(0, 1).transpose(1, 2))
        of_prompts = _by_row(of_prompts, groups, prompts).reshape(rows, heads, n, tokens)
        scores = torch.cat([of_prompts, scores], -1)
    scores += functional.pad(mask, (0, tokens + room - seen), value=-torch.inf)
    weights = torch.softmax(scores, dim=-1)
    own = weights[..., tokens:].reshape(rows * groups, -1, room)
    out = torch.bmm(own, values.view(rows * groups, room, d)).view(rows, heads, n, d)
    if prompts:
        shared = _by_prompt(weights[..., :tokens].reshape(rows, groups, -1, tokens), prompts)
        shared = torch.bmm(shared, prompts.values.flatten(0, 1))
        out += _by_row(shared, groups, prompts).reshape(rows, heads, n, d)
    return out.transpose(1, 2)


def _by_prompt(x: torch.Tensor, prompts: SharedPrompts) -> torch.Tensor:
    """Return [rows, groups, k, m] as [prompts * groups, copies * k, m], zeros in empty slots."""
    _, groups, k, m = x.shape
    slots = len(prompts.keys) * prompts.copies
    if len(x) < slots:
        x = x.new_zeros(slots, groups, k, m).index_copy_(0, prompts.slots, x)
    x = x.view(-1, prompts.copies, groups, k, m).transpose(1, 2)
    return x.reshape(-1, prompts.copies * k, m)


def _by_row(x: torch.Tensor, groups: int, prompts: SharedPrompts) -> torch.Tensor:
    """Return [prompts * groups, copies * k, m] as [rows, groups, k, m]."""
    m = x.shape[2]
    x = x.view(len(prompts.keys), groups, prompts.copies, -1, m).transpose(1, 2)
    x = x.reshape(len(prompts.keys) * prompts.copies, groups, -1, m)
    return x if len(x) == len(prompts.slots) else x[prompts.slots]


def _mask(*, dtype: torch.dtype = torch.float32, **shape: Any) -> torch.Tensor | None:
    """Return transformers' additive mask in the format of the products."""
    return eager_mask(dtype=_product_dtype(dtype), **shape)


def _product_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else dtype


AttentionInterface.register(NAME, _attend)
AttentionMaskInterface.register(NAME, _mask)
