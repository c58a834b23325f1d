"""Rules of decoding: what may not be repeated, and how short a summary may be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    MinNewTokensLengthLogitsProcessor,
)

from nutgraf.config import GenerateConfig
from nutgraf.modeling.load import Device


class NoRepeatedNgram(LogitsProcessor):
    """Forbids each token with which a sequence of `n` tokens would appear twice in a summary.

    Paulus et al. (2018), "A Deep Reinforced Model for Abstractive Summarization", section 2.5, do
    so with three. transformers' NoRepeatNGramLogitsProcessor counts the prompt too, and so forbids
    copying from the article. A token that ends a summary is not in it, so it stays allowed.
    """

    def __init__(self, n: int, prompt_tokens: int) -> None:
        self._n, self._prompt_tokens = n, prompt_tokens

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Return the scores [rows, vocabulary], changed in place, after input_ids [rows, tokens].

        Each row of input_ids begins with `prompt_tokens` tokens, padding included.
        """
        new = input_ids[:, self._prompt_tokens :]
        if new.shape[1] >= self._n:
            ngrams = new.unfold(1, self._n, 1)  # [rows, places, n]
            last = new[:, None, new.shape[1] - self._n + 1 :]
            rows, places = (ngrams[..., :-1] == last).all(-1).nonzero(as_tuple=True)
            scores[rows, ngrams[rows, places, -1]] = -torch.inf
        return scores


def repetition_rule(settings: GenerateConfig, prompt_tokens: int) -> LogitsProcessorList:
    """Return what forbids repetition behind so many tokens of a prompt, or nothing."""
    n = settings.no_repeat_ngram
    return LogitsProcessorList([NoRepeatedNgram(n, prompt_tokens)] if n else [])


def rules_for(settings: GenerateConfig, ends: Sequence[int], device: Device) -> LogitsProcessorList:
    """Return what changes scores after new tokens alone, without their prompt."""
    rules = repetition_rule(settings, 0)
    if least := settings.min_new_tokens:
        rules.append(MinNewTokensLengthLogitsProcessor(0, least, list(ends), device.name))
    return rules
