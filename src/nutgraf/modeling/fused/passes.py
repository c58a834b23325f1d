"""Compute a decoder layer's element-by-element passes, with as few fresh tensors as possible.

Activations are [tokens, width]. The residual stream and all sums are in fp32, what enters a product
is in the format of the products.
"""

from __future__ import annotations

import torch
from torch.nn import functional

Tensor = torch.Tensor


def norm(h: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return RMSNorm of h in `dtype`, and the reciprocal root mean squares, [tokens, 1].

    Zhang & Sennrich 2019, arXiv:1910.07467.
    """
    squares = torch.linalg.vector_norm(h, dim=-1, keepdim=True).square_()
    scale = squares.div_(h.shape[1]).add_(eps).rsqrt_()
    return (h * scale).mul_(weight).to(dtype), scale


def norm_backward(grad: Tensor, h: Tensor, weight: Tensor, scale: Tensor, past: Tensor) -> Tensor:
    """Return the gradient of h; `past` is that of what went past the norm."""
    direct, normed = grad * weight, h * scale
    share = (direct * normed).mean(-1, keepdim=True)
    return direct.addcmul_(normed, share, value=-1).mul_(scale).add_(past)


def gate(left: Tensor, right: Tensor) -> Tensor:
    """Return SiLU(left) times right (SwiGLU: Shazeer 2020, arXiv:2002.05202)."""
    return functional.silu(left).mul_(right)


def gate_backward(left: Tensor, right: Tensor, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return what `gate` returned, and the gradients of left and right; `grad` is overwritten."""
    silu = functional.silu(left)
    of_silu = grad * right
    of_left = torch.ops.aten.silu_backward.grad_input(of_silu, left, grad_input=of_silu)
    return silu * right, of_left, grad.mul_(silu)


def rotate(x: Tensor, cos: Tensor, sin: Tensor, scale: float = 1.0) -> Tensor:
    """Rotate [..., tokens, size] by its positions and scale it: Su et al. 2021, arXiv:2104.09864.

    `cos` and `sin` are [..., tokens, size], with equal halves. With -sin it is the backward pass.
    """
    left, right = x.float().mul_(scale).chunk(2, -1)
    cos, sin = (table[..., : left.shape[-1]] for table in (cos, sin))
    turned = torch.cat([left * cos, right * cos], -1)
    turned[..., : left.shape[-1]].addcmul_(right, sin, value=-1)
    turned[..., left.shape[-1] :].addcmul_(left, sin)
    return turned.to(x.dtype)
