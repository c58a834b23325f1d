"""Decode a few prompts together by prompt lookup: tokens guessed from the text, checked at once.

If the last two tokens stand earlier in the text, the tokens that followed them there are guessed to
follow again, and one forward pass checks all of them (Saxena 2023,
github.com/apoorvumang/prompt-lookup-decoding). Only tokens that plain greedy decoding would choose
are accepted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import Cache, LogitsProcessorList, PreTrainedModel

from nutgraf.generation.decode_loop import OnToken

TOKENS = 8  # guessed and checked at once (docs/benchmarks.md)
ROWS = 8  # written so together: 1.2 times as fast with 8, twice with one (docs/benchmarks.md)


def guess(text: Sequence[int], limit: int) -> list[int]:
    """Return up to `limit` tokens that followed the latest earlier place of the last two."""
    for start in range(len(text) - 3, -1, -1):
        if text[start] == text[-2] and text[start + 1] == text[-1]:
            return list(text[start + 2 : start + 2 + limit])
    return []


@dataclass
class _Row:
    """A summary that is written: its place among all, its prompt, new tokens and guessed ones."""

    index: int
    prompt: list[int]
    new: list[int]
    guessed: list[int]


def decode_few_rows(
    model: PreTrainedModel,
    prompts: tuple[torch.Tensor, torch.Tensor],
    cache: Cache,
    limit: int,
    rules: LogitsProcessorList,
    ends: Sequence[int],
    on_token: OnToken | None = None,
) -> list[list[int]]:
    """Return the new tokens of each row, as `decode_rows` does greedily, with fewer passes.

    Arguments are those of `decode_rows`; `on_token` may get several tokens of a row in turn. The
    model is of the Llama family. What was guessed wrong stays in the cache, masked, if another row
    guessed as far rightly.
    """
    ids, mask = prompts
    rows = [_Row(i, ids[i][mask[i].bool()].tolist(), [], []) for i in range(len(ids))]
    texts = [row.new for row in rows]
    unread = ids[:, cache.get_seq_length() :]
    positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -unread.shape[1] :]
    is_valid, attention_mask = mask.bool(), mask  # is_valid: [rows, columns of the cache]
    while True:
        width = max(len(row.guessed) for row in rows) + 1
        logits = model(
            input_ids=unread,
            attention_mask=attention_mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=width,
        ).logits
        n_right = [
            _accept(row, scores, limit, rules, ends, on_token)
            for row, scores in zip(rows, logits, strict=True)
        ]
        places = [place for place, n in enumerate(n_right) if n]
        if not places:
            return texts
        if is_valid.shape[1] < cache.get_seq_length():  # the prompts are read, and guesses checked
            longest = max(n_right)
            cache.crop(longest - width)
            counts = torch.tensor(n_right)[:, None]
            is_valid = torch.cat([is_valid, torch.arange(longest) < counts], 1)
        if len(places) < len(rows):
            packed = ids.new_tensor(places)
            cache.batch_select_indices(packed)
            rows, is_valid = [rows[place] for place in places], is_valid[packed]
        for row in rows:
            row.guessed = guess(row.prompt + row.new, min(TOKENS, limit - len(row.new) - 1))
        unread, positions, attention_mask = _next_pass(rows, is_valid, logits.dtype)


def _accept(
    row: _Row,
    logits: torch.Tensor,
    limit: int,
    rules: LogitsProcessorList,
    ends: Sequence[int],
    on_token: OnToken | None,
) -> int:
    """Take over the tokens that the scores [guessed and one more, vocabulary] choose.

    Return how many of the pass's tokens were right, or 0 if the row ends.
    """
    for i in range(len(row.guessed) + 1):
        new = cast(Any, torch.tensor([row.new], dtype=torch.long))
        token = int(rules(new, cast(Any, logits[i : i + 1].to(torch.float32, copy=True))).argmax())
        row.new.append(token)
        ended = token in ends
        wanted = on_token is None or on_token(row.index, None if ended else token)
        if ended or not wanted or len(row.new) == limit:
            return 0
        if row.guessed[i : i + 1] != [token]:
            break
    return i + 1


def _next_pass(
    rows: Sequence[_Row], is_valid: torch.Tensor, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return token ids and positions [rows, tokens] of each row's last token and guesses.

    The third is what is added to scores, [rows, 1, tokens, columns of the cache and these].
    """
    texts = [torch.tensor([row.new[-1], *row.guessed]) for row in rows]
    unread = pad_sequence(texts, batch_first=True)
    width = unread.shape[1]
    first = torch.tensor([len(row.prompt) + len(row.new) - 1 for row in rows])[:, None]
    seen = torch.cat(
        [
            is_valid[:, None].expand(-1, width, -1),
            torch.ones(width, width, dtype=torch.bool).tril().expand(len(rows), -1, -1),
        ],
        2,
    )
    added = torch.zeros(seen.shape, dtype=dtype).masked_fill_(~seen, -torch.inf)
    return unread, first + torch.arange(width), added[:, None]
