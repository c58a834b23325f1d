"""Decode a batch token by token, greedily or by sampling, and drop the rows that have ended."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from transformers import Cache, LogitsProcessorList, PreTrainedModel

from nutgraf.config import GenerateConfig
from nutgraf.modeling.adapters import base_of

# Gets the index of a prompt and its next token, None at the end; returns whether to go on.
OnToken: TypeAlias = Callable[[int, int | None], bool]

# The batch is packed anew if at most this share of its rows goes on: that copies their cache, which
# takes about as long as one step.
PACKED_SHARE = 0.8
NUCLEUS = 256  # the likeliest tokens, among which a sample is


@dataclass(frozen=True)
class Sampling:
    """How several summaries of each prompt are drawn: the first greedily, the others at random.

    A token is drawn from the most likely ones that have `top_p` of the probability together
    (nucleus sampling: Holtzman et al. 2020, arXiv:1904.09751), after division of the scores by
    `temperature`. `uniforms` are numbers from 0 to 1, [prompts * copies, limit of tokens], one for
    each token: they come from a prompt's own seed, so that others in its batch change nothing.
    """

    copies: int
    temperature: float
    top_p: float
    uniforms: torch.Tensor

    @classmethod
    def seeded(cls, prompts: Sequence[Sequence[int]], settings: GenerateConfig) -> Sampling:
        """Return the sampling of `prompts`, each with a seed of its own."""
        copies, rows = settings.candidates, []
        for ids in prompts:
            digest = hashlib.sha256(repr((settings.seed, list(ids))).encode()).digest()
            draw = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big", signed=True))
            uniforms = torch.rand(copies, settings.max_new_tokens, generator=draw)
            uniforms[0] = 0.0  # the likeliest token
            rows.append(uniforms)
        return cls(copies, settings.temperature, settings.top_p, torch.cat(rows))

    def draw(self, scores: torch.Tensor, rows: Sequence[int], step: int) -> torch.Tensor:
        """Return a token for each of `rows` from its scores [rows, vocabulary]."""
        uniforms = self.uniforms[list(rows), step].to(scores.device)[:, None]
        scores = scores / self.temperature
        best, tokens = scores.topk(min(NUCLEUS, scores.shape[1]))
        shares = torch.exp(best - scores.logsumexp(-1, keepdim=True))
        reached = shares.cumsum(-1)
        in_nucleus = reached - shares < self.top_p
        mass = (shares * in_nucleus).sum(-1, keepdim=True)
        places = (in_nucleus & (reached <= uniforms * mass)).sum(-1, keepdim=True)
        places = places.minimum(in_nucleus.sum(-1, keepdim=True) - 1)
        return tokens.gather(1, places)[:, 0]


def decode_rows(
    model: PreTrainedModel,
    prompts: tuple[torch.Tensor, torch.Tensor],
    cache: Cache,
    limit: int,
    rules: LogitsProcessorList,
    ends: Sequence[int],
    on_token: OnToken | None = None,
    sampling: Sampling | None = None,
) -> list[list[int]]:
    """Return the new tokens of each row, the one that ends it included.

    With `sampling`, several rows go on from each prompt, and those of a prompt stand together.

    Args:
        model: The base, with or without an adapter, in the context of `FastInference.used`.
        prompts: Token ids and mask of the prompts, padded on the left, [rows, longest].
        cache: Keys and values of the first tokens of all prompts, or of none; not of the last.
        limit: New tokens after which a row is cut.
        rules: Change the scores [rows, vocabulary] after the new tokens [rows, tokens].
        ends: Tokens that end a row.
        on_token: Called at each step for each row that goes on; without its consent the row ends.
        sampling: How tokens are drawn; None takes the best one each time.
    """
    ids, mask = prompts
    copies = sampling.copies if sampling else 1
    unread = ids[:, cache.get_seq_length() :]
    read_positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -unread.shape[1] :]
    rows = list(range(len(ids) * copies))
    takes_positions = "position_ids" in inspect.signature(base_of(model).forward).parameters
    open_rows, texts = set(rows), [list[int]() for _ in rows]
    new = ids.new_empty(len(rows), 0)
    while True:
        logits = model(
            input_ids=unread,
            attention_mask=mask,
            **({"position_ids": read_positions} if takes_positions else {}),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        if copies > 1 and new.shape[1] == 0:
            cache.batch_repeat_interleave(copies)
            logits, mask = (part.repeat_interleave(copies, 0) for part in (logits, mask))
        scores = rules(new, logits.to(torch.float32, copy=True))  # type: ignore[arg-type]
        tokens = sampling.draw(scores, rows, new.shape[1]) if sampling else scores.argmax(-1)
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
            new, mask = new[packed], mask[packed]
        unread, read_positions = new[:, -1:], mask.sum(1, keepdim=True)
        mask = torch.cat([mask, torch.ones_like(unread)], 1)
