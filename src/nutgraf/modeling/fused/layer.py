"""Compute a decoder layer of the Llama family with LoRA adapters as one autograd function.

The backward pass is derived by hand, as Unsloth does for GPUs (github.com/unslothai/unsloth):
little is stored, sums of gradients are formed in the products, and frozen weights get none.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from torch import nn

from nutgraf.modeling.adapters import LoraLinear
from nutgraf.modeling.fused.attention import attend, attend_backward
from nutgraf.modeling.fused.passes import gate, gate_backward, norm, norm_backward, rotate

Tensor = torch.Tensor


class Group:
    """Linear layers with the same input, [tokens, width], and the adapters on them."""

    def __init__(self, modules: Sequence[nn.Module], dtype: torch.dtype) -> None:
        self.linears = [cast(LoraLinear, LoraLinear.of(module)) for module in modules]
        self.dtype = dtype
        self.down = torch.empty(0, self.linears[0].weight.shape[1], dtype=dtype)  # all A
        self.ups: list[Tensor | None] = []  # of each layer, times its scaling

    @torch.no_grad()
    def load(self) -> list[nn.Parameter]:
        """Take over the adapters' weights as they are now, and return them: A, B, A, B."""
        adapters = [linear.adapter for linear in self.linears]
        weights = [weight for pair in adapters if pair for weight in pair]
        self.down = torch.cat([self.down[:0], *(down.to(self.dtype) for down in weights[::2])])
        self.ups = [
            (linear.adapter[1] * linear.scaling).to(self.dtype) if linear.adapter else None
            for linear in self.linears
        ]
        return weights

    def forward(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return each layer's x W' + s (x A') B', [tokens, out], and all x A', [tokens, ranks]."""
        inner = x @ self.down.T
        outs = [x @ linear.weight.T for linear in self.linears]
        for out, up, columns in self._adapted(outs):
            out.addmm_(inner[:, columns], up.T)
        return outs, inner

    def input_gradient(self, grads: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return the gradients of x and of all x A' from those of the layers' outputs."""
        of_inner = grads[0].new_empty(len(grads[0]), len(self.down))
        for grad, up, columns in self._adapted(grads):
            of_inner[:, columns] = grad @ up
        of_x = of_inner @ self.down
        for grad, linear in zip(grads, self.linears, strict=True):
            of_x.addmm_(grad, linear.weight)
        return of_x, of_inner

    def weight_gradients(
        self, grads: Sequence[Tensor], of_inner: Tensor, x: Tensor, inner: Tensor
    ) -> list[Tensor]:
        """Return the gradients of what `load` returns."""
        of_down = of_inner.T @ x
        scalings = [linear.scaling for linear in self.linears if linear.adapter]
        gradients = []
        for (grad, _, columns), scaling in zip(self._adapted(grads), scalings, strict=True):
            gradients += [of_down[columns].float(), (grad.T @ inner[:, columns]).float() * scaling]
        return gradients

    def _adapted(self, outs: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor, slice]]:
        """Yield, for layers with an adapter, output, B and the adapter's place in `down`."""
        start = 0
        for out, up in zip(outs, self.ups, strict=True):
            if up is not None:
                yield out, up, slice(start, start + up.shape[1])
                start += up.shape[1]


class FusedLayer:
    """Computes a decoder layer in training, forward and backward."""

    def __init__(self, layer: Any, dtype: torch.dtype, keep_weights: bool) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self.qkv = Group([attention.q_proj, attention.k_proj, attention.v_proj], dtype)
        self.output = Group([attention.o_proj], dtype)
        self.gate_up = Group([mlp.gate_proj, mlp.up_proj], dtype)
        self.down = Group([mlp.down_proj], dtype)
        self.norms = layer.input_layernorm, layer.post_attention_layernorm
        self.size, self.scaling = attention.head_dim, attention.scaling
        self.dtype, self.keep_weights = dtype, keep_weights

    @property
    def groups(self) -> tuple[Group, Group, Group, Group]:
        """The linear layers in the order of their use."""
        return self.qkv, self.output, self.gate_up, self.down

    def __call__(
        self, hidden: Tensor, cos: Tensor, sin: Tensor, positions: Tensor | None = None
    ) -> Tensor:
        """Return the output for [rows, tokens, width]; `cos` and `sin` are [tokens, head size].

        Attention is causal and nothing is masked: padding is on the right. With `positions`, places
        among all tokens, the output has these alone, [1, positions, width].
        """
        weights = [weight for group in self.groups for weight in group.load()]
        out: Tensor = _Layer.apply(hidden, cos, sin, positions, self, *weights)
        return out


class _Layer(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        cos: Tensor,
        sin: Tensor,
        positions: Tensor | None,
        layer: FusedLayer,
        *_: Tensor,
    ) -> Tensor:
        rows, tokens, width = hidden.shape
        h, dtype = hidden.reshape(-1, width), layer.dtype
        first, second = layer.norms
        with torch.autocast("cpu", enabled=False):
            x, scale = norm(h, first.weight, first.variance_epsilon, dtype)
            qkv, inner = layer.qkv.forward(x)
            queries, keys, values = (
                part.view(rows, tokens, -1, layer.size).transpose(1, 2) for part in qkv
            )
            mixed, attended = attend(
                rotate(queries, cos, sin, layer.scaling),
                rotate(keys, cos, sin),
                values,
                layer.keep_weights,
            )
            middle = h if positions is None else h[positions]
            if positions is not None:
                mixed = mixed[positions]
            (update,), inner_output = layer.output.forward(mixed)
            middle = middle + update
            y, middle_scale = norm(middle, second.weight, second.variance_epsilon, dtype)
            (left, right), inner_gate = layer.gate_up.forward(y)
            (update,), inner_down = layer.down.forward(gate(left, right))
            out = middle + update
        ctx.layer, ctx.rows, ctx.positions = layer, rows, positions
        ctx.save_for_backward(
            h, x, scale, inner, cos, sin, mixed, inner_output, middle, y, middle_scale,
            left, right, inner_gate, inner_down, *attended,
        )  # fmt: skip
        return out.view(hidden.shape if positions is None else (1, *out.shape))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        layer, (first, second) = ctx.layer, ctx.layer.norms
        (
            h, x, scale, inner, cos, sin, mixed, inner_output, middle, y, middle_scale,
            left, right, inner_gate, inner_down, *attended,
        ) = ctx.saved_tensors  # fmt: skip
        qkv, output, gate_up, down = layer.groups
        total = grad.reshape(middle.shape)
        of_update = [total.to(layer.dtype)]
        of_gated, of_inner = down.input_gradient(of_update)
        gated, *of_gate = gate_backward(left, right, of_gated)
        of_down = down.weight_gradients(of_update, of_inner, gated, inner_down)
        of_y, of_inner = gate_up.input_gradient(of_gate)
        of_gate_up = gate_up.weight_gradients(of_gate, of_inner, y, inner_gate)
        total = norm_backward(of_y, middle, second.weight, middle_scale, total)
        of_update = [total.to(layer.dtype)]
        of_mixed, of_inner = output.input_gradient(of_update)
        of_output = output.weight_gradients(of_update, of_inner, mixed, inner_output)
        if ctx.positions is not None:
            total, of_mixed = (
                part.new_zeros(len(h), part.shape[1]).index_copy_(0, ctx.positions, part)
                for part in (total, of_mixed)
            )
        queries, keys, values = attend_backward(of_mixed, attended, ctx.rows)
        turned = rotate(queries, cos, -sin, layer.scaling), rotate(keys, cos, -sin), values
        of_wide = [part.transpose(1, 2).reshape(len(h), -1) for part in turned]
        of_x, of_inner = qkv.input_gradient(of_wide)
        of_qkv = qkv.weight_gradients(of_wide, of_inner, x, inner)
        if ctx.needs_input_grad[0]:  # a frozen embedding needs none
            total = norm_backward(of_x, h, first.weight, scale, total)
        total = total.view(ctx.rows, -1, total.shape[1])
        return total, *[None] * 4, *of_qkv, *of_output, *of_gate_up, *of_down
