"""Decode a batch greedily, token by token, and drop the rows that have ended."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from transformers import Cache, LogitsProcessorList, PreTrainedModel

# Gets the index of a prompt and its next token, None at the end; returns whether to go on.
OnToken: TypeAlias = Callable[[int, int | None], bool]

# The batch is packed anew if at most this share of its rows goes on: that copies their cache, which
# takes about as long as one step.
PACKED_SHARE = 0.8


def decode_rows(
    model: PreTrainedModel,
    prompts: tuple[torch.Tensor, torch.Tensor],
    cache: Cache,
    limit: int,
    rules: LogitsProcessorList,
    ends: Sequence[int],
    on_token: OnToken | None = None,
) -> list[list[int]]:
    """Return the new tokens of each row, the one that ends it included.

    Args:
        model: The base, with or without an adapter, in the context of `FastInference.used`.
        prompts: Token ids and mask of the prompts, padded on the left, [rows, longest].
        cache: Keys and values of the first tokens of all prompts, or of none; not of the last.
        limit: New tokens after which a row is cut.
        rules: Change the scores [rows, vocabulary] after the new tokens [rows, tokens].
        ends: Tokens that end a row.
        on_token: Called at each step for each row that goes on; without its consent the row ends.
    """
    ids, mask = prompts
    unread = ids[:, cache.get_seq_length() :]
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    lengths = mask.sum(1, keepdim=True)
    rows, open_rows = list(range(len(ids))), set(range(len(ids)))
    new = ids[:, :0]
    texts: list[list[int]] = [[] for _ in rows]
    read_positions = positions[:, -unread.shape[1] :]
    while True:
        logits = model(
            input_ids=unread,
            attention_mask=mask,
            position_ids=read_positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        scores = rules(new, logits.to(torch.float32, copy=True))  # type: ignore[arg-type]
        tokens = scores.argmax(-1)
        for row, token in zip(rows, tokens.tolist(), strict=True):
            if row in open_rows:
                texts[row].append(token)
                ended = token in ends
                wanted = on_token is None or on_token(row, None if ended else token)
                if ended or not wanted:
                    open_rows.remove(row)
        new = torch.cat([new, tokens[:, None]], 1)
        if not open_rows or new.shape[1] == limit:
            return texts
        if len(open_rows) <= PACKED_SHARE * len(rows):
            places = [place for place, row in enumerate(rows) if row in open_rows]
            rows, packed = [rows[place] for place in places], ids.new_tensor(places)
            cache.batch_select_indices(packed)
            new, mask, lengths = new[packed], mask[packed], lengths[packed]
        unread, read_positions = new[:, -1:], lengths + new.shape[1] - 1
        mask = torch.cat([mask, torch.ones_like(unread)], 1)
