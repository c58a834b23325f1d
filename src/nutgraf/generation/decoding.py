"""Decode summaries from prompts, in batches or as a stream."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from transformers import DynamicCache, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from nutgraf.config import GenerateConfig
from nutgraf.modeling.batching import length_batches
from nutgraf.modeling.load import Device
from nutgraf.modeling.losses import guard_memory, pad_left

PROMPT_LOOKUP_TOKENS = 8  # tokens checked at once in the stream of one summary (docs/benchmarks.md)


@dataclass(frozen=True)
class Generated:
    """The new tokens for one prompt, without the end of sequence.

    `finish_reason` is `stop` where the model ended the summary itself, `length` where it was cut.
    """

    ids: list[int]
    finish_reason: str


def generation_config(
    tokenizer: PreTrainedTokenizerBase, settings: GenerateConfig
) -> GenerationConfig:
    """How summaries are decoded, in the form that `transformers` and other programs read."""
    return GenerationConfig(
        max_new_tokens=settings.max_new_tokens,
        num_beams=settings.num_beams,
        do_sample=False,
        use_cache=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    settings: GenerateConfig,
    device: Device,
) -> Iterator[tuple[int, Generated]]:
    """Summaries as (index of the prompt, its summary), in the order of `generate_batches`."""
    for batch in generate_batches(model, tokenizer, prompts, settings, device):
        yield from batch.items()


@torch.no_grad()
def generate_batches(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    settings: GenerateConfig,
    device: Device,
    done: Container[int] = (),
) -> Iterator[dict[int, Generated]]:
    """Summaries of prompts, {index of the prompt: its summary}, batch by batch as they finish.

    Prompts of similar length are decoded together, longest first, so that a batch that does not
    fit in memory fails at once. A batch whose prompts are all `done` is left out; another is made
    whole, since near ties depend on what is decoded together. Decoding is deterministic: greedy,
    or beam search. Raises DeviceMemoryError if the device has none for a batch.
    """
    for batch in length_batches([len(ids) for ids in prompts], settings.batch_size, done):
        ids, mask = pad_left([prompts[i] for i in batch], tokenizer.pad_token_id, device)
        knob = f"lower generate.batch_size (now {settings.batch_size})"
        with device.autocast(), guard_memory(len(batch), ids.shape[1], knob):
            out = cast(Any, model).generate(
                input_ids=ids,
                attention_mask=mask,
                generation_config=generation_config(tokenizer, settings),
            )
        yield {
            index: _ended(tokens, tokenizer.eos_token_id)
            for index, tokens in zip(batch, out[:, ids.shape[1] :].tolist(), strict=True)
        }


@torch.no_grad()
def stream_tokens(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt: Sequence[int],
    settings: GenerateConfig,
    device: Device,
    guesses: int = PROMPT_LOOKUP_TOKENS,
) -> Iterator[int]:
    """The new tokens for one prompt as they are decoded greedily, without the end of sequence.

    Where the last two tokens stood before in the article, those that followed there are guessed to
    follow again, up to `guesses` of them, and one forward pass checks them all: prompt lookup
    (Saxena 2023, github.com/apoorvumang/prompt-lookup-decoding). Only tokens that plain greedy
    decoding would choose are kept. It ends by itself where the model ended the summary, and after
    `max_new_tokens`. Raises DeviceMemoryError if the device has none for the prompt.
    """
    text, guess, cache = list(prompt), list[int](), DynamicCache()
    limit = len(prompt) + settings.max_new_tokens
    while True:
        unseen = torch.tensor([text[cache.get_seq_length() :] + guess], device=device.name)
        knob = "lower prompt.max_article_tokens, or set model.quantization to nf4"
        with device.autocast(), guard_memory(1, unseen.shape[1], knob):
            logits = model(
                input_ids=unseen,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=len(guess) + 1,
            ).logits
        for place, token in enumerate(logits[0].argmax(-1).tolist()):
            if token == tokenizer.eos_token_id:
                return
            text.append(token)
            yield token
            if len(text) == limit:
                return
            if guess[place : place + 1] != [token]:
                break
        cache.crop(len(text) - 1 - cache.get_seq_length())  # off with the guesses that failed
        guess = _repetition(text, guesses)


def _repetition(text: list[int], most: int) -> list[int]:
    """Up to `most` tokens that followed the latest earlier place of the last two."""
    if most == 0:
        return []
    end = text[-2:]
    for start in range(len(text) - 3, -1, -1):
        if text[start] == end[0] and text[start + 1] == end[1]:
            return text[start + 2 : start + 2 + most]
    return []


def _ended(tokens: list[int], eos: int) -> Generated:
    if eos in tokens:
        return Generated(tokens[: tokens.index(eos)], "stop")
    return Generated(tokens, "length")
