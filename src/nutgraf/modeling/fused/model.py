"""Compute the loss of a training with fused layers, if the base is one that they can compute."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.models.llama.modeling_llama import LlamaForCausalLM

from nutgraf.data.examples import IGNORED
from nutgraf.modeling.adapters import LoraLinear, base_of
from nutgraf.modeling.dims import (
    ATTENTION_SCORE_LIMIT,
    LENGTH_MULTIPLE,
    fused_score_bytes,
)
from nutgraf.modeling.fused.layer import FusedLayer
from nutgraf.modeling.fused.loss import summary_nll
from nutgraf.modeling.load import Device


class FusedModel:
    """A base of the Llama family with adapters, whose layers are computed fused in training."""

    def __init__(self, base: LlamaForCausalLM, device: Device, rows: int, tokens: int) -> None:
        """Prepare for micro-batches of [rows, tokens]."""
        config: Any = base.config
        layers, heads = config.num_hidden_layers, config.num_attention_heads
        scores = fused_score_bytes(layers, heads, rows, tokens, device.dtype.itemsize)
        keep = scores <= ATTENTION_SCORE_LIMIT
        self.layers = cast(list[nn.Module], list(base.model.layers))
        self.fused = [FusedLayer(layer, device.dtype, keep) for layer in self.layers]
        self.output = base.lm_head
        self.weight = base.lm_head.weight.detach().to(device.dtype)

    @classmethod
    def of(
        cls, model: PreTrainedModel, device: Device, rows: int, tokens: int
    ) -> FusedModel | None:
        """Return the fused model of `model`, or None if it does not fit or the device is no CPU."""
        fits = device.name == "cpu" and fits_fused(model)
        return cls(cast(Any, base_of(model)), device, rows, tokens) if fits else None

    def nll(self, model: Any, ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the nats of each row's `targets` that are tokens, not below 0: [rows].

        `model` is the model as its trainer calls it. Both tensors are [rows, tokens], padded on the
        right: attention is causal, so nothing is masked. Rows, and the positions that get logits,
        are made longer to a multiple, since oneDNN compiles its products anew for each length.
        """
        ids, targets = _lengthened(ids, 0), _lengthened(targets, IGNORED)
        counted = targets.flatten() >= 0
        summaries, others = (part.nonzero()[:, 0] for part in (counted, ~counted))
        positions = torch.cat([summaries, others[: -len(summaries) % LENGTH_MULTIPLE]])
        *_, last = self.fused
        for layer, fused in zip(self.layers, self.fused, strict=True):
            layer.forward = _forward(layer, fused, positions if fused is last else None)
        self.output.forward = lambda hidden: hidden
        try:
            hidden = model(input_ids=ids, use_cache=False).logits
        finally:
            for module in (*self.layers, self.output):
                del module.forward
        nll = summary_nll(hidden[0], self.weight, targets.flatten()[positions].clamp(min=0))
        rows = summaries // ids.shape[1]
        return nll.new_zeros(len(ids)).index_add(0, rows, nll[: len(rows)])


def _lengthened(x: torch.Tensor, value: int) -> torch.Tensor:
    """Return [rows, tokens] with as much of `value` on the right as makes a multiple of tokens."""
    return functional.pad(x, (0, -x.shape[1] % LENGTH_MULTIPLE), value=value)


def _forward(layer: Any, fused: FusedLayer, positions: torch.Tensor | None) -> Any:
    """Return the forward pass of a decoder layer, from which that of `positions` is needed."""

    def forward(hidden_states: torch.Tensor, position_embeddings: Any, **others: Any) -> Any:
        cos, sin = (table[0] for table in position_embeddings)  # the same for all rows
        if layer.gradient_checkpointing:
            return layer._gradient_checkpointing_func(fused, hidden_states, cos, sin, positions)
        return fused(hidden_states, cos, sin, positions)

    return forward


def fits_fused(model: PreTrainedModel) -> bool:
    """Return whether a base with an adapter can be trained by fused layers: without dropout.

    Masks of dropout would differ from those of trainings done together.
    """
    base: Any = base_of(model)
    if not has_fused_layers(base) or any(
        layer.self_attn.attention_dropout for layer in base.model.layers
    ):
        return False
    linears = [LoraLinear.of(linear) for linear in _linears(base)]
    output = LoraLinear.of(base.lm_head)
    plain = all(linear is not None and not linear.dropout for linear in linears)
    usual = base.config._attn_implementation == "sdpa"
    return plain and usual and output is not None and not output.adapter


def has_fused_layers(base: Any) -> bool:
    """Return whether a base is a Llama whose linear layers are plain, with LoRA or without."""
    if type(base) is not LlamaForCausalLM or base.config.hidden_act != "silu":
        return False
    return all(LoraLinear.of(linear) is not None for linear in _linears(base))


def _linears(base: Any) -> list[Any]:
    return [
        linear
        for layer in base.model.layers
        for part in (layer.self_attn, layer.mlp)
        for linear in part.children()
        if linear is not layer.mlp.act_fn
    ]
