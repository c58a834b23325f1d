"""Compute cross-entropy at the output layer; its logits are not kept for the backward pass."""

from __future__ import annotations

from typing import Any

import torch

Tensor = torch.Tensor
CHUNK = 512  # positions; their logits are in memory together


def summary_nll(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Return the negative log-likelihood of each position's target, in nats: [positions].

    `hidden` is [positions, width]; `weight` [vocabulary, width] is frozen, and in the format of
    the product. The gradient is computed with the loss, since it is small and the logits are not,
    as Liger does (arXiv:2410.10989).
    """
    nll: Tensor = _Nll.apply(hidden, weight, targets)
    return nll


class _Nll(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        gradient = torch.empty_like(hidden)
        nll = torch.empty(len(hidden))
        with torch.autocast("cpu", enabled=False):
            for start in range(0, len(hidden), CHUNK):
                part = slice(start, start + CHUNK)
                wanted = targets[part, None]
                logits = hidden[part].to(weight.dtype) @ weight.T
                log_shares = torch.log_softmax(logits, -1, dtype=torch.float32)
                nll[part] = -log_shares.gather(1, wanted)[:, 0]
                of_logits = torch.exp(log_shares, out=log_shares)
                of_logits.scatter_add_(1, wanted, torch.full_like(wanted, -1, dtype=torch.float32))
                gradient[part] = of_logits.to(weight.dtype) @ weight
        ctx.save_for_backward(gradient)
        return nll

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * grad[:, None], None, None
