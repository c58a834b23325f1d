"""Attention as it trains fastest on a CPU: plain products and a softmax, kept in two bytes a score.

torch's fused kernel takes 14 to 21% more time there, transformers' own plain attention keeps six
bytes a score for the backward pass (docs/log.md).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import eager_mask

from nutgraf.modeling.dims import ATTENTION_SCORE_LIMIT, attention_score_bytes
from nutgraf.modeling.load import Device

NAME = "plain"


@contextlib.contextmanager
def training_attention(
    model: PreTrainedModel, device: Device, rows: int, tokens: int
) -> Iterator[None]:
    """In the block, attention as it trains fastest with micro-batches of [rows, tokens].

    Plain products keep all scores for the backward pass: done where these are few.
    """
    form = model.config
    layers, heads = form.num_hidden_layers, form.num_attention_heads
    kept = attention_score_bytes(layers, heads, rows, tokens, device.dtype.itemsize)
    if device.name != "cpu" or kept > ATTENTION_SCORE_LIMIT:
        yield
        return
    usual = form._attn_implementation
    model.set_attn_implementation(NAME)
    try:
        yield
    finally:
        model.set_attn_implementation(usual)


def _plain(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of queries [batch, heads, n, d] to keys and values [batch, heads or fewer, m, d].

    Gives [batch, n, heads, d]. All in the format of the products: the softmax sums in fp32 inside.
    """
    dtype = _product_dtype(query.dtype)
    key, value = (
        given.to(dtype).repeat_interleave(query.shape[1] // given.shape[1], dim=1)
        for given in (key, value)
    )
    scores = (query.to(dtype) * scaling) @ key.transpose(2, 3)
    if attention_mask is not None:
        scores += attention_mask
    return (torch.softmax(scores, dim=-1) @ value).transpose(1, 2).contiguous(), None


def _mask(*, dtype: torch.dtype = torch.float32, **shape: Any) -> torch.Tensor | None:
    """transformers' additive mask, in the format of the products."""
    return eager_mask(dtype=_product_dtype(dtype), **shape)


def _product_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else dtype


AttentionInterface.register(NAME, _plain)
AttentionMaskInterface.register(NAME, _mask)
