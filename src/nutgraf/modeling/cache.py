"""Keep keys and values without copying them at each step.

transformers' cache is copied at every step, and its keys are cast in every layer, since they leave
the rotary embedding in fp32 (docs/log.md).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from transformers.cache_utils import DynamicLayer

ROOM = 128  # tokens for which a buffer is enlarged


@dataclass(frozen=True)
class SharedPrompts:
    """Keys and values of prompts that several rows go on from.

    `keys` and `values` are [prompts, heads, tokens, d]. Row i goes on from prompt
    `slots[i] // copies`; no two rows have the same slot, and there are `copies` to a prompt.
    """

    keys: torch.Tensor
    values: torch.Tensor
    slots: torch.Tensor
    copies: int

    @property
    def tokens(self) -> int:
        """Return the tokens of each prompt, padding included."""
        return self.keys.shape[2]

    def select(self, rows: torch.Tensor) -> SharedPrompts:
        """Return the prompts with these rows of those that go on, with as few slots as possible."""
        prompts = self.slots[rows] // self.copies
        counts = torch.bincount(prompts)
        copies = int(counts.max())
        first = counts.cumsum(0) - counts  # rows of a prompt stand together
        ranks = torch.arange(len(prompts)) - first[prompts]
        return replace(self, slots=prompts * copies + ranks, copies=copies)

    def of_rows(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return keys and values for each row, copied."""
        prompts = self.slots // self.copies
        return self.keys[prompts], self.values[prompts]


class BufferedLayer(DynamicLayer):
    """Hold keys and values [rows, heads, tokens, d] of one layer in buffers with room for more.

    `buffers` are the two, [rows, heads, room, d]; zeros or tokens that were cropped come last. If
    several summaries are written of each prompt, `prompts` are apart from them.
    """

    prompts: SharedPrompts | None = None

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Take the format of the products, that of the values, for both."""
        super().lazy_initialization(value_states, value_states)
        shape = (*key_states.shape[:2], 0, key_states.shape[3])
        self.buffers = [value_states.new_zeros(shape) for _ in range(2)]
        self._show(0)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add the states of new tokens; return those of all, as views if no prompts are shared."""
        self.append(key_states, value_states)
        own = cast(tuple[torch.Tensor, torch.Tensor], (self.keys, self.values))
        if self.prompts is None:
            return own
        keys, values = (
            torch.cat(pair, 2) for pair in zip(self.prompts.of_rows(), own, strict=True)
        )
        return keys, values

    def append(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Add the states of new tokens."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start, end = self._tokens, self._tokens + key_states.shape[2]
        for i, states in enumerate((key_states, value_states)):
            if end > self.buffers[i].shape[2]:
                old = self.buffers[i]
                self.buffers[i] = old.new_zeros((*old.shape[:2], end + ROOM, old.shape[3]))
                self.buffers[i][:, :, :start] = old[:, :, :start]
            self.buffers[i][:, :, start:end] = states
        self._show(end)

    def get_seq_length(self) -> int:
        """Return the number of tokens so far, those of shared prompts included."""
        if not self.is_initialized:
            return 0
        return self._tokens + (self.prompts.tokens if self.prompts else 0)

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last tokens; their number is negative, as in transformers."""
        if self.is_initialized:
            self._show(self._tokens + tokens_to_remove)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Let so many rows go on from each one, which share what is there."""
        keys, values = (buffer[:, :, : self._tokens].contiguous() for buffer in self.buffers)
        self.prompts = SharedPrompts(keys, values, torch.arange(len(keys) * repeats), repeats)
        shape = (len(keys) * repeats, keys.shape[1], 0, keys.shape[3])
        self.buffers = [keys.new_zeros(shape) for _ in range(2)]
        self._show(0)

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep these rows of the batch, in this order; those of a shared prompt stay together."""
        if self.is_initialized:
            self.buffers = [buffer.index_select(0, indices) for buffer in self.buffers]
            self.prompts = self.prompts and self.prompts.select(indices)
            self._show(self._tokens)

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Keep the beams that go on."""
        self.batch_select_indices(beam_idx)

    def _show(self, tokens: int) -> None:
        self._tokens = tokens
        self.keys, self.values = (buffer[:, :, :tokens] for buffer in self.buffers)
