"""Dimensions of a model that decide how much memory it takes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ModelDims:
    """What time and memory of a causal language model depend on, known without its weights."""

    layers: int
    width: int
    """Numbers that stand for a token between layers."""
    inner: int
    """Numbers inside a layer's feed-forward part."""
    heads: int
    query_width: int
    """Numbers of all attention heads together."""
    key_width: int
    """Numbers of all key heads together; values have as many."""
    vocabulary: int
    positions: int
    """The longest text it was made for, in tokens."""
    linear: int
    """Weights of the layers' matrices, which can be held in 4 bits."""
    other: int
    """All other weights: embeddings, output layer, norms."""
    adapter: int
    """Weights of one LoRA adapter with the configuration's settings."""


ATTENTION_SCORE_LIMIT = (
    2**30
)  # bytes; beyond it a CPU trains with torch's fused attention (attention.py)
EVAL_BATCH_SIZE = 16  # rows in a batch of losses (inference.summary_losses)


def attention_score_bytes(layers: int, heads: int, rows: int, tokens: int, number: int) -> int:
    """Bytes of the attention scores of [rows, tokens] where a training keeps them all, as plain
    products in `number` bytes each (attention.py)."""
    return layers * heads * rows * tokens**2 * number
