"""Read and write faster on a CPU: attention in blocks of queries, and a cache that is not copied.

transformers' cache is copied at every step, and its keys are cast in every layer, since they leave
the rotary embedding in fp32. torch's fused attention takes 2.4 times as long if there is a mask
(docs/log.md). Summaries are the same up to rounding.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface, Cache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from nutgraf.modeling.attention import NAME as TRAINING
from nutgraf.modeling.attention import product_dtype, product_mask
from nutgraf.modeling.load import Device

NAME = "blocks"
BLOCK = 160  # queries: their scores stay in the cache of a core
ROOM = 128  # tokens for which a buffer is enlarged


class BufferedLayer(DynamicLayer):
    """Hold keys and values [batch, heads, tokens, d] of one layer in buffers with room for more."""

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Take the format of the products, that of the values, for both."""
        super().lazy_initialization(value_states, value_states)
        shape = (*key_states.shape[:2], 0, key_states.shape[3])
        self._buffers = [value_states.new_empty(shape) for _ in range(2)]
        self._show(0)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add the states of new tokens; return those of all, as views of the buffers."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start, end = self._tokens, self._tokens + key_states.shape[2]
        for i, states in enumerate((key_states, value_states)):
            if end > self._buffers[i].shape[2]:
                old = self._buffers[i]
                self._buffers[i] = old.new_empty((*old.shape[:2], end + ROOM, old.shape[3]))
                self._buffers[i][:, :, :start] = old[:, :, :start]
            self._buffers[i][:, :, start:end] = states
        return self._show(end)

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last tokens; their number is negative, as in transformers."""
        if self.is_initialized:
            self._show(self._tokens + tokens_to_remove)

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Keep these rows of the batch, in this order: the beams that go on."""
        if self.is_initialized:
            self._buffers = [buffer.index_select(0, beam_idx) for buffer in self._buffers]
            self._show(self._tokens)

    def _show(self, tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
        self._tokens = tokens
        keys, values = (buffer[:, :, :tokens] for buffer in self._buffers)
        self.keys, self.values = keys, values
        return keys, values


@contextlib.contextmanager
def fast_inference(model: PreTrainedModel, device: Device) -> Iterator[Cache | None]:
    """Attend in blocks in the context, and yield an empty cache for one batch.

    It is for a CPU, and for models in which each layer attends to all tokens by torch's fused
    attention. For others None is yielded, and the model attends as it did.
    """
    config = model.config
    previous = config._attn_implementation
    kinds = set(getattr(config, "layer_types", None) or ())
    if device.name != "cpu" or previous not in ("sdpa", TRAINING) or kinds - {"full_attention"}:
        yield None
        return
    model.set_attn_implementation(NAME)
    try:
        yield Cache(layer_class_to_replicate=BufferedLayer)
    finally:
        model.set_attn_implementation(previous)


def _attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor,
    scaling: float,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Attend from queries [batch, heads, n, d] to keys and values [batch, heads or fewer, m, d].

    The n queries are those of the last tokens of m, and look back only. Returns
    [batch, n, heads, d].
    """
    dtype = product_dtype(query.dtype)
    batch, heads, n, d = query.shape
    groups, m = key.shape[1], key.shape[2]
    query = (query * scaling).to(dtype).view(batch, groups, heads // groups, n, d)
    keys, value = key.to(dtype).transpose(2, 3), value.to(dtype)
    out = query.new_empty(batch, groups, heads // groups, n, d)
    for start in range(0, n, BLOCK):
        block = query[:, :, :, start : start + BLOCK]
        size = block.shape[3]
        seen = m - n + start + size
        scores = block.reshape(batch, groups, -1, d) @ keys[..., :seen]
        scores = scores.view(batch, groups, -1, size, seen)
        scores += attention_mask[:, :, None, start : start + size, :seen]
        weights = torch.softmax(scores, dim=-1).view(batch, groups, -1, seen)
        rows = (weights @ value[:, :, :seen]).view(batch, groups, -1, size, d)
        out[:, :, :, start : start + size] = rows
    return out.view(batch, heads, n, d).transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, _attend)
AttentionMaskInterface.register(NAME, product_mask)
