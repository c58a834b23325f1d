"""Rule out what may not be written: repetitions, and an end that comes too soon."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    MinNewTokensLengthLogitsProcessor,
    PreTrainedTokenizerBase,
)

from nutgraf.config import GenerateConfig
from nutgraf.modeling.load import Device

SPACES = ("Ġ", "▁", "Ċ", "<0x0A>", " ", "\n")  # how vocabularies write white space before a word


@dataclass(frozen=True)
class WordStarts:
    """What tells where words begin, for each token of a vocabulary: bool [vocabulary].

    Words are what white space separates, and the ends of lines.

    Attributes:
        begins: Whether white space is before the token or is all of it.
        ends_line: Whether it ends a line, so that a word begins behind it.
        has_letter: Whether its first character but white space is a letter.
    """

    begins: torch.Tensor
    ends_line: torch.Tensor
    has_letter: torch.Tensor


@lru_cache(maxsize=4)
def word_starts(
    tokenizer: PreTrainedTokenizerBase, vocabulary: int, device: torch.device
) -> WordStarts:
    """Return where words begin in a model's vocabulary, which can have more ids than names."""
    flags = [(False, False, False)] * vocabulary
    for token, i in tokenizer.get_vocab().items():
        if i < vocabulary:
            text = str(tokenizer.convert_tokens_to_string([token]))
            begins, has_letter = token.startswith(SPACES), text.strip()[:1].isalpha()
            flags[i] = (begins, text.endswith("\n"), has_letter)
    return WordStarts(*torch.tensor(flags, device=device).T.contiguous())


class NoRepeatedNgram(LogitsProcessor):
    """Forbids each token that begins a word with which `n` words would appear twice in a summary.

    Paulus et al. (2018), "A Deep Reinforced Model for Abstractive Summarization", section 2.5, do
    so with three tokens of a vocabulary of words. Among pieces of words it would break a long name
    or a year at its second mention. So a piece inside a word is never forbidden, nor one without a
    letter, which begins a number or a quotation. transformers' NoRepeatNGramLogitsProcessor counts
    pieces, and those of the prompt too, and so forbids copying from the article.
    """

    def __init__(self, n: int, tokenizer: PreTrainedTokenizerBase, prompt_tokens: int = 0) -> None:
        self._n, self._tokenizer, self._prompt_tokens = n, tokenizer, prompt_tokens

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Return the scores [rows, vocabulary], changed in place, after input_ids [rows, tokens].

        Each row of input_ids begins with `prompt_tokens` tokens, padding included.
        """
        new = input_ids[:, self._prompt_tokens :]
        length = new.shape[1]
        if length < self._n:
            return scores
        starts = word_starts(self._tokenizer, scores.shape[-1], scores.device)
        begins = starts.begins[new]
        begins[:, 0] = True
        begins[:, 1:] |= starts.ends_line[new[:, :-1]]
        if self._n > 1:
            # The tokens of the last n - 1 words: those before which fewer words began.
            words_behind = begins.flip(1).cumsum(1)
            tail = ((words_behind < self._n - 1).sum(1) + 1).clamp(max=length)
        else:
            tail = new.new_zeros(len(new))
        before = torch.arange(length, device=new.device) - tail[:, None]  # [rows, places]
        repeats = begins & starts.has_letter[new] & (before >= 0)
        repeats &= begins.gather(1, before.clamp(min=0))
        for back in range(1, int(tail.max()) + 1):
            same = new[:, :-back] == new[:, length - back, None]
            repeats[:, back:] &= same | (back > tail)[:, None]
        rows, places = repeats.nonzero(as_tuple=True)
        scores[rows, new[rows, places]] = -torch.inf
        return scores


def repetition_rule(
    settings: GenerateConfig, tokenizer: PreTrainedTokenizerBase, prompt_tokens: int = 0
) -> LogitsProcessorList:
    """Return what forbids repetition behind so many tokens of a prompt, or nothing."""
    n = settings.no_repeat_ngram
    return LogitsProcessorList([NoRepeatedNgram(n, tokenizer, prompt_tokens)] if n else [])


def rules_for(
    settings: GenerateConfig,
    tokenizer: PreTrainedTokenizerBase,
    ends: Sequence[int],
    device: Device,
) -> LogitsProcessorList:
    """Return what changes scores [rows, vocabulary] after new tokens alone, without a prompt."""
    rules = repetition_rule(settings, tokenizer)
    if least := settings.min_new_tokens:
        rules.append(MinNewTokensLengthLogitsProcessor(0, least, list(ends), device.name))
    return rules
