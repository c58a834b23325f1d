"""Define what writes summaries from token ids: an engine, of which transformers is one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol, cast

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from nutgraf.config import GenerateConfig
from nutgraf.data.examples import Example
from nutgraf.generation.decode_loop import OnToken
from nutgraf.generation.decoding import Candidates, generate_candidates, stream_tokens
from nutgraf.modeling.load import Device
from nutgraf.modeling.losses import mean_loss, summary_losses


class Engine(Protocol):
    """Writes summaries of prompts."""

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        settings: GenerateConfig,
        on_token: OnToken | None = None,
    ) -> list[Candidates]:
        """Return what is written for each prompt, as `generate_candidates` does."""

    def stream(self, prompt: Sequence[int], settings: GenerateConfig) -> Iterator[int]:
        """Yield the new tokens of one prompt, without the end of sequence, as `stream_tokens`."""


class Transformers:
    """A model that transformers has loaded."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        device: Device,
        ends: Sequence[int] = (),
    ) -> None:
        """Take a model; `ends` are the tokens that end its summaries, if not its base's of now."""
        self._model, self._tokenizer, self._device = model, tokenizer, device
        if ends:
            cast(Any, model.generation_config).eos_token_id = list(ends)

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        settings: GenerateConfig,
        on_token: OnToken | None = None,
    ) -> list[Candidates]:
        """Return what is written for each prompt, of a few by prompt lookup."""
        return generate_candidates(
            self._model, self._tokenizer, prompts, settings, self._device, on_token, by_lookup=True
        )

    def stream(self, prompt: Sequence[int], settings: GenerateConfig) -> Iterator[int]:
        """Yield the new tokens of one prompt, without the end of sequence."""
        return stream_tokens(self._model, self._tokenizer, prompt, settings, self._device)

    def mean_loss(self, examples: Sequence[Example], batch_size: int) -> float:
        """Return the mean loss of summaries, in nats per token."""
        pad = self._tokenizer.pad_token_id
        return mean_loss(summary_losses(self._model, examples, pad, self._device, batch_size))
