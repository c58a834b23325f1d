"""Prompts to summaries, and losses of given summaries, both batched."""

from __future__ import annotations

import contextlib
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch.nn import functional
from transformers import DynamicCache, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from nutgraf.budget import batches
from nutgraf.footprint import EVALUATED
from nutgraf.model import Device
from nutgraf.problems import Failure
from nutgraf.prompts import Example
from nutgraf.settings import GenerateConfig

GUESSES = 8  # tokens checked at once in the stream of one summary (docs/benchmarks.md)


class NoMemory(Failure):
    """The device has no memory for a batch."""


@dataclass(frozen=True)
class Generated:
    """The new tokens for one prompt, without the end of sequence.

    `finish_reason` is `stop` where the model ended the summary itself, `length` where it was cut.
    """

    ids: list[int]
    finish_reason: str


@dataclass(frozen=True)
class RowLoss:
    """Negative log-likelihood of one summary: sum over its tokens (nats) and their number."""

    nll: float
    tokens: int


def decoding(tokenizer: PreTrainedTokenizerBase, settings: GenerateConfig) -> GenerationConfig:
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
    or beam search. Raises NoMemory where the device has none for a batch.
    """
    for batch in batches([len(ids) for ids in prompts], settings.batch_size, done):
        ids, mask = _left_padded([prompts[i] for i in batch], tokenizer.pad_token_id, device)
        knob = f"lower generate.batch_size (now {settings.batch_size})"
        with device.autocast(), _memory(len(batch), ids.shape[1], knob):
            out = cast(Any, model).generate(
                input_ids=ids,
                attention_mask=mask,
                generation_config=decoding(tokenizer, settings),
            )
        yield {
            index: _ended(tokens, tokenizer.eos_token_id)
            for index, tokens in zip(batch, out[:, ids.shape[1] :].tolist(), strict=True)
        }


@torch.no_grad()
def stream(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt: Sequence[int],
    settings: GenerateConfig,
    device: Device,
    guesses: int = GUESSES,
) -> Iterator[int]:
    """The new tokens for one prompt as they are decoded greedily, without the end of sequence.

    Where the last two tokens stood before in the article, those that followed there are guessed to
    follow again, up to `guesses` of them, and one forward pass checks them all: prompt lookup
    (Saxena 2023, github.com/apoorvumang/prompt-lookup-decoding). Only tokens that plain greedy
    decoding would choose are kept. It ends by itself where the model ended the summary, and after
    `max_new_tokens`. Raises NoMemory where the device has none for the prompt.
    """
    text, guess, cache = list(prompt), list[int](), DynamicCache()
    limit = len(prompt) + settings.max_new_tokens
    while True:
        unseen = torch.tensor([text[cache.get_seq_length() :] + guess], device=device.name)
        knob = "lower prompt.max_article_tokens, or set model.quantization to nf4"
        with device.autocast(), _memory(1, unseen.shape[1], knob):
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


def summary_losses(
    model: PreTrainedModel,
    rows: Sequence[Example],
    pad: int,
    device: Device,
    batch_size: int = EVALUATED,
) -> list[RowLoss]:
    """Loss of each row's summary, end of sequence included, in the order of the rows."""
    found: dict[int, RowLoss] = {}
    for batch in loss_batches(model, rows, pad, device, batch_size):
        found |= batch
    return [found[i] for i in range(len(rows))]


@torch.no_grad()
def loss_batches(
    model: PreTrainedModel,
    rows: Sequence[Example],
    pad: int,
    device: Device,
    batch_size: int = EVALUATED,
    done: Container[int] = (),
) -> Iterator[dict[int, RowLoss]]:
    """Losses of the rows' summaries, {index of the row: its loss}, batch by batch, but the `done`.

    Rows are padded on the left, so that all summaries end together and logits are computed for
    the last positions only: [batch, longest summary + 1, vocabulary], never for the article.
    Raises NoMemory where the device has none for a batch.
    """
    for batch in batches([len(row.ids) for row in rows], batch_size, done):
        losses = batch_losses(model, [rows[i] for i in batch], pad, device)
        yield dict(zip(batch, losses, strict=True))


@torch.no_grad()
def batch_losses(
    model: PreTrainedModel, rows: Sequence[Example], pad: int, device: Device
) -> list[RowLoss]:
    """Losses of the rows' summaries, all in one batch. Raises NoMemory."""
    ids, mask = _left_padded([row.input_ids for row in rows], pad, device)
    labels = [row.ids[row.prompt_tokens :].tolist() for row in rows]
    knob = "lower prompt.max_tokens, or set model.quantization to nf4"
    with device.autocast(), _memory(len(rows), ids.shape[1], knob):
        logits = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=(mask.cumsum(1) - 1).clamp(min=0),
            logits_to_keep=max(map(len, labels)) + 1,
            use_cache=False,
        ).logits
    losses = []
    for wanted, scores in zip(labels, logits[:, :-1], strict=True):
        target = torch.tensor(wanted, device=scores.device)
        nll = functional.cross_entropy(scores[-len(wanted) :].float(), target, reduction="sum")
        losses.append(RowLoss(nll.item(), len(wanted)))
    return losses


def mean_loss(losses: Sequence[RowLoss]) -> float:
    """Nats per summary token over all rows together; its exponential is the perplexity."""
    return sum(row.nll for row in losses) / sum(row.tokens for row in losses)


@contextlib.contextmanager
def _memory(rows: int, tokens: int, knob: str) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        reason = " ".join(str(error).split())[:120]
        raise NoMemory(
            f"no memory on the device for {rows} rows of {tokens} tokens ({reason}): {knob}"
        ) from None


def _left_padded(
    rows: Sequence[Sequence[int]], pad: int, device: Device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and mask, [batch, longest], the rows at the right end."""
    longest = max(map(len, rows))
    ids = [[pad] * (longest - len(row)) + list(row) for row in rows]
    mask = [[0] * (longest - len(row)) + [1] * len(row) for row in rows]
    return torch.tensor(ids, device=device.name), torch.tensor(mask, device=device.name)
