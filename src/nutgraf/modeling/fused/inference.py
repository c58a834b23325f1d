"""Compute the decoder layers of the Llama family without gradients, with a cache or without."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import nn
from transformers import Cache, PreTrainedModel
from transformers.models.llama.modeling_llama import LlamaForCausalLM

from nutgraf.modeling.adapters import LoraLinear, base_of
from nutgraf.modeling.attention import attend_few, attend_in_blocks
from nutgraf.modeling.cache import BufferedLayer
from nutgraf.modeling.fused.layer import Group
from nutgraf.modeling.fused.model import has_fused_layers
from nutgraf.modeling.fused.passes import gate, norm, rotate
from nutgraf.modeling.load import Device

Tensor = torch.Tensor
FEW = 16  # new tokens of a row whose attention reads the cache where it is


class FusedInference:
    """A base of the Llama family whose forward passes are computed fused in its context.

    Adapters are read when it is made.
    """

    def __init__(self, base: LlamaForCausalLM, device: Device) -> None:
        layers = cast(list[Any], list(base.model.layers))
        self._forwards: dict[nn.Module, Callable[..., Tensor]] = {
            layer: InferenceLayer(layer, device.dtype) for layer in layers
        }
        output = LoraLinear.of(base.lm_head)
        if output is not None and not output.adapter:
            weight = output.weight.to(device.dtype)  # a tied one is in fp32 for the embedding
            self._forwards[base.lm_head] = lambda hidden: hidden.to(weight.dtype) @ weight.T

    @classmethod
    def of(cls, model: PreTrainedModel, device: Device) -> FusedInference | None:
        """Return the fused model of `model`, or None if it has no layers that can be fused."""
        base = base_of(model)
        return cls(cast(Any, base), device) if has_fused_layers(base) else None

    def __enter__(self) -> None:
        for module, forward in self._forwards.items():
            module.forward = forward

    def __exit__(self, *_: object) -> None:
        for module in self._forwards:
            del module.forward


class InferenceLayer:
    """Computes a decoder layer as `LlamaDecoderLayer.forward` does."""

    def __init__(self, layer: Any, dtype: torch.dtype) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self._groups = [
            Group([attention.q_proj, attention.k_proj, attention.v_proj], dtype),
            Group([attention.o_proj], dtype),
            Group([mlp.gate_proj, mlp.up_proj], dtype),
            Group([mlp.down_proj], dtype),
        ]
        for group in self._groups:
            group.load()
        self._norms = layer.input_layernorm, layer.post_attention_layernorm
        self._size, self._scaling = attention.head_dim, attention.scaling
        self._index, self._dtype = attention.layer_idx, dtype

    def __call__(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        past_key_values: Cache | None = None,
        **others: Any,
    ) -> Tensor:
        """Return the output for [rows, tokens, width]; keys and values go into the cache.

        `attention_mask` [rows, 1, tokens, all tokens] is added to the scores; the embeddings are
        cosines and sines, [rows or 1, tokens, head size].
        """
        rows, tokens, width = hidden_states.shape
        h = hidden_states.reshape(-1, width)
        first, second = self._norms
        qkv, output, gate_up, down = self._groups
        with torch.autocast("cpu", enabled=False):
            x = norm(h, first.weight, first.variance_epsilon, self._dtype)[0]
            queries, keys, values = (
                part.view(rows, tokens, -1, self._size).transpose(1, 2)
                for part in qkv.forward(x)[0]
            )
            cos, sin = (table[:, None] for table in position_embeddings)
            queries = rotate(queries, cos, sin, self._scaling)
            mixed = self._attend(
                queries, rotate(keys, cos, sin), values, attention_mask, past_key_values
            )
            (update,), _ = output.forward(mixed.reshape(rows * tokens, -1))
            middle = h + update
            y = norm(middle, second.weight, second.variance_epsilon, self._dtype)[0]
            (left, right), _ = gate_up.forward(y)
            (update,), _ = down.forward(gate(left, right))
            return middle.add_(update).view(hidden_states.shape)

    def _attend(
        self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor, cache: Cache | None
    ) -> Tensor:
        """Return what is attended to, [rows, tokens, heads, head size]."""
        if cache is not None:
            layer = cache.layers[self._index] if self._index < len(cache.layers) else None
            if queries.shape[2] <= FEW and isinstance(layer, BufferedLayer):
                layer.append(keys, values)
                return attend_few(queries, layer, mask)
            keys, values = cache.update(keys, values, self._index)
        return attend_in_blocks(queries, keys, values, mask)
