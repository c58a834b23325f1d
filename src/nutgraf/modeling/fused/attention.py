"""Attend in blocks of queries: products and a softmax, none of it beyond the diagonal.

The heads that share keys and values are rows of one product. Of each block the attention weights
are stored for the backward pass, two bytes a score, or computed again.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from nutgraf.modeling.dims import ATTENTION_BLOCK

Tensor = torch.Tensor


def blocks(tokens: int) -> list[tuple[int, int]]:
    """Return the first query of each block and the one after its last, in nearly equal blocks."""
    count = -(-tokens // ATTENTION_BLOCK)
    size = -(-tokens // count)
    return [(start, min(start + size, tokens)) for start in range(0, tokens, size)]


def attend(
    queries: Tensor, keys: Tensor, values: Tensor, keep: bool
) -> tuple[Tensor, list[Tensor]]:
    """Attend from scaled queries [rows, heads, n, size] to keys and values [rows, fewer, n, size].

    Returns [rows * n, heads * size], and what `attend_backward` needs: all attention weights too
    if it is to `keep` them.
    """
    rows, heads, tokens, size = queries.shape
    groups = rows * keys.shape[1]
    keys, values = (part.reshape(groups, tokens, size) for part in (keys, values))
    out = queries.new_empty(rows, tokens, heads, size)
    all_queries, all_weights = [], []
    for start, end in blocks(tokens):
        block = queries[:, :, start:end].reshape(groups, -1, size)
        weights = _weights(block, keys, start, end)
        part = torch.bmm(weights, values[:, :end]).view(rows, heads, -1, size)
        out[:, start:end] = part.transpose(1, 2)
        all_queries.append(block)
        if keep:
            all_weights.append(weights)
    saved = [keys, values, *all_queries, *all_weights]
    return out.view(rows * tokens, heads * size), saved


def attend_backward(
    grad: Tensor, saved: Sequence[Tensor], rows: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of queries, keys and values, shaped as `attend` takes them."""
    keys, values, *others = saved
    groups, tokens, size = keys.shape
    grad = grad.view(rows, tokens, -1, size)
    heads = grad.shape[2]
    of_queries = grad.new_empty(rows, heads, tokens, size)
    of_keys, of_values = torch.empty_like(keys), torch.empty_like(values)
    bounds = blocks(tokens)
    all_queries, all_weights = others[: len(bounds)], others[len(bounds) :]
    for place, (start, end) in reversed(list(enumerate(bounds))):
        block = all_queries[place]
        weights = all_weights[place] if all_weights else _weights(block, keys, start, end)
        upstream = grad[:, start:end].transpose(1, 2).reshape(block.shape)
        of_scores = torch.bmm(upstream, values[:, :end].transpose(1, 2))
        of_scores = torch._softmax_backward_data(of_scores, weights, -1, weights.dtype)
        part = torch.bmm(of_scores, keys[:, :end]).view(rows, heads, -1, size)
        of_queries[:, :, start:end] = part
        if end == tokens:  # the last block comes first, and sees all keys
            torch.bmm(weights.transpose(1, 2), upstream, out=of_values)
            torch.bmm(of_scores.transpose(1, 2), block, out=of_keys)
        else:
            of_values[:, :end].baddbmm_(weights.transpose(1, 2), upstream)
            of_keys[:, :end].baddbmm_(of_scores.transpose(1, 2), block)
    key_shape = (rows, groups // rows, tokens, size)
    return of_queries, of_keys.view(key_shape), of_values.view(key_shape)


def _weights(block: Tensor, keys: Tensor, start: int, end: int) -> Tensor:
    """Return the attention weights of a block's queries, those of each head one after another."""
    scores = torch.bmm(block, keys[:, :end].transpose(1, 2))
    own = scores.view(len(scores), -1, end - start, end)[..., start:]
    own += torch.full((end - start, end - start), float("-inf"), dtype=own.dtype).triu(1)
    return torch.softmax(scores, -1)
