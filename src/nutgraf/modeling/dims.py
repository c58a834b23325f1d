"""Describe a model's dimensions, which decide how much memory it takes."""

from __future__ import annotations

from dataclasses import dataclass

ATTENTION_SCORE_LIMIT = 2**30  # bytes; above it a CPU trains with torch's fused attention
ATTENTION_BLOCK = 128  # queries of fused attention (modeling.fused), which end at their own keys
LENGTH_MULTIPLE = 16  # tokens of a row in fused training (docs/log.md)
EVAL_BATCH_SIZE = 16  # rows in a batch of losses
LOGIT_POSITIONS = 1024  # tokens of references whose logits are in memory together
# Of sentences that are read behind passages: the rest of a longer text is not read.
READ_ROWS, PASSAGE_TOKENS, SENTENCE_TOKENS = 8, 320, 128


@dataclass(frozen=True)
class ModelDims:
    """Describe what time and memory of a causal language model depend on, without weights."""

    layers: int
    width: int  # numbers that stand for a token between layers
    inner: int  # numbers inside a layer's feed-forward part
    heads: int
    query_width: int  # numbers of all attention heads together
    key_width: int  # numbers of all key heads together; values have as many
    vocabulary: int
    positions: int  # the longest text that it was made for, in tokens
    linear: int  # weights of the layers' matrices, which can be held in 4 bits
    other: int  # all other weights: embeddings, output layer, norms
    adapter: int  # weights of one LoRA adapter with the settings of `lora`
    fused: bool = False  # a CPU trains it with fused layers (modeling.fused)


def attention_score_bytes(layers: int, heads: int, rows: int, tokens: int, itemsize: int) -> int:
    """Return the bytes of all attention scores of [rows, tokens], with `itemsize` bytes each."""
    return layers * heads * rows * tokens**2 * itemsize


def fused_score_bytes(layers: int, heads: int, rows: int, tokens: int, itemsize: int) -> int:
    """Return the bytes of what fused attention computes of these scores, up to the diagonal."""
    block = min(ATTENTION_BLOCK, tokens)
    return (
        attention_score_bytes(layers, heads, rows, tokens, itemsize)
        * (tokens + block)
        // (2 * tokens)
    )
