"""Train with plain attention on a CPU: products and a softmax, two bytes a score in memory.

torch's fused kernel takes 14 to 21% more time there, and transformers' eager attention keeps six
bytes a score for the backward pass (docs/log.md).
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

from nutgraf.modeling.dims import ATTENTION_SCORE_LIMIT, attention_score_bytes
from nutgraf.modeling.load import Device

NAME = "plain"


@contextlib.contextmanager
def training_attention(
    model: PreTrainedModel, device: Device, rows: int, tokens: int
) -> Iterator[None]:
    """Use plain attention in the block, if that is fastest for micro-batches of [rows, tokens].

    It keeps all scores for the backward pass, so it is used only if these are few. It is used in
    place of torch's fused attention alone: a base that takes another (Gemma 2 caps its scores)
    needs that.
    """
    config = model.config
    layers, heads = config.num_hidden_layers, config.num_attention_heads
    size = attention_score_bytes(layers, heads, rows, tokens, device.dtype.itemsize)
    previous = config._attn_implementation
    if device.name != "cpu" or previous != "sdpa" or size > ATTENTION_SCORE_LIMIT:
        yield
        return
    model.set_attn_implementation(NAME)
    try:
        yield
    finally:
        model.set_attn_implementation(previous)


def _plain(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Attend from queries [batch, heads, n, d] to keys and values [batch, heads or fewer, m, d].

    Returns [batch, n, heads, d]. All is in the format of the products; softmax sums in fp32 inside.
    """
    dtype = product_dtype(query.dtype)
    key, value = (
        tensor.to(dtype).repeat_interleave(query.shape[1] // tensor.shape[1], dim=1)
        for tensor in (key, value)
    )
    scores = (query.to(dtype) * scaling) @ key.transpose(2, 3)
    if attention_mask is not None:
        scores += attention_mask
    weights = torch.softmax(scores, dim=-1)
    if dropout:
        weights = functional.dropout(weights, dropout)
    return (weights @ value).transpose(1, 2).contiguous(), None


def product_mask(*, dtype: torch.dtype = torch.float32, **shape: Any) -> torch.Tensor | None:
    """Return transformers' additive mask in the format of the products."""
    return eager_mask(dtype=product_dtype(dtype), **shape)


def product_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the format of products: that of autocast if it is on, else `dtype`."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else dtype


AttentionInterface.register(NAME, _plain)
AttentionMaskInterface.register(NAME, product_mask)
