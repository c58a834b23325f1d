"""Keys and values that are not copied at each step.

transformers' cache is copied at every step, and its keys are cast in every layer, since they leave
the rotary embedding in fp32 (docs/log.md).
"""

from __future__ import annotations

from typing import Any

import torch
from transformers.cache_utils import DynamicLayer

ROOM = 128  # tokens for which a buffer is enlarged


class BufferedLayer(DynamicLayer):
    """Hold keys and values [batch, heads, tokens, d] of one layer in buffers with room for more.

    `buffers` are the two, [batch, heads, room, d]; zeros or tokens that were cropped come last.
    """

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Take the format of the products, that of the values, for both."""
        super().lazy_initialization(value_states, value_states)
        shape = (*key_states.shape[:2], 0, key_states.shape[3])
        self.buffers = [value_states.new_zeros(shape) for _ in range(2)]
        self._show(0)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add the states of new tokens; return those of all, as views of the buffers."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start, end = self._tokens, self._tokens + key_states.shape[2]
        for i, states in enumerate((key_states, value_states)):
            if end > self.buffers[i].shape[2]:
                old = self.buffers[i]
                self.buffers[i] = old.new_zeros((*old.shape[:2], end + ROOM, old.shape[3]))
                self.buffers[i][:, :, :start] = old[:, :, :start]
            self.buffers[i][:, :, start:end] = states
        return self._show(end)

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last tokens; their number is negative, as in transformers."""
        if self.is_initialized:
            self._show(self._tokens + tokens_to_remove)

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep these rows of the batch, in this order."""
        if self.is_initialized:
            self.buffers = [buffer.index_select(0, indices) for buffer in self.buffers]
            self._show(self._tokens)

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Keep the beams that go on."""
        self.batch_select_indices(beam_idx)

    def _show(self, tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
        self._tokens = tokens
        keys, values = (buffer[:, :, :tokens] for buffer in self.buffers)
        self.keys, self.values = keys, values
        return keys, values
