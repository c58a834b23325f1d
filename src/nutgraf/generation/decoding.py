"""Decode summaries from prompts, in batches or as a stream."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from transformers import (
    DynamicCache,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StoppingCriteriaList,
)

from nutgraf.config import GenerateConfig, PromptConfig
from nutgraf.data.prompts import Frame, Renderer
from nutgraf.generation import lookup
from nutgraf.generation.decode_loop import OnToken, Sampling, decode_rows
from nutgraf.generation.rules import repetition_rule, rules_for
from nutgraf.modeling.batching import length_batches
from nutgraf.modeling.inference import FastInference
from nutgraf.modeling.load import Device
from nutgraf.modeling.losses import RowLoss, guard_memory, losses_after, pad_left


@dataclass(frozen=True)
class Generated:
    """The new tokens for one prompt, without the end of sequence.

    `finish_reason` is `stop` if the model ended the summary itself, `length` if it was cut.
    """

    ids: list[int]
    finish_reason: str


@dataclass(frozen=True)
class Candidates:
    """What was written for one prompt, the greedy summary first.

    `reference_loss` is the loss of the reference that was given with the prompt, None if there was
    none, or if it is left to `batch_losses`. `seconds` are the prompt's share of the batch's wall
    time, in which a `reference_loss` was computed too.
    """

    written: tuple[Generated, ...]
    reference_loss: RowLoss | None
    seconds: float = field(compare=False)


def generation_config(
    tokenizer: PreTrainedTokenizerBase, settings: GenerateConfig, ends: Sequence[int]
) -> GenerationConfig:
    """Return how summaries are decoded, in the form that transformers reads.

    `ends` are the tokens that end one, as `load.end_tokens` returns them. It has no form for
    `no_repeat_ngram`, which `NoRepeatedNgram` sees to.
    """
    return GenerationConfig(
        max_new_tokens=settings.max_new_tokens,
        min_new_tokens=settings.min_new_tokens or None,
        num_beams=settings.num_beams,
        length_penalty=settings.length_penalty if settings.num_beams > 1 else None,
        do_sample=False,
        use_cache=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=ends[0] if len(ends) == 1 else list(ends),
        pad_token_id=tokenizer.pad_token_id,
    )


def recipe(
    tokenizer: PreTrainedTokenizerBase,
    prompt: PromptConfig,
    ends: Sequence[int],
    frame: Frame | None = None,
) -> dict[str, Any]:
    """Return what another program needs to write the same summaries, for `nutgraf.json`.

    It is that of the prompts, and `ends`: the tokens that end a summary, as text with their ids.
    """
    return {
        **Renderer(tokenizer, prompt, frame).recipe(),
        "ends": {tokenizer.decode([token]): token for token in ends},
    }


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    settings: GenerateConfig,
    device: Device,
) -> Iterator[tuple[int, Candidates]]:
    """Yield (index of the prompt, its candidates) of all prompts, in batches of similar length.

    The longest come first, so that a batch that does not fit in memory fails at once. Arguments and
    errors are those of `generate_candidates`.
    """
    for batch in length_batches([len(ids) for ids in prompts], settings.batch_size):
        batch_prompts = [prompts[i] for i in batch]
        written = generate_candidates(model, tokenizer, batch_prompts, settings, device)
        yield from zip(batch, written, strict=True)


def generate_batch(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    settings: GenerateConfig,
    device: Device,
    on_token: OnToken | None = None,
) -> list[Generated]:
    """Decode one summary of each prompt of a batch, greedily or by beam search.

    Arguments and errors are those of `generate_candidates`.
    """
    one = settings.model_copy(update={"candidates": 1})
    rows = generate_candidates(model, tokenizer, prompts, one, device, on_token)
    return [row.written[0] for row in rows]


@torch.no_grad()
def generate_candidates(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    settings: GenerateConfig,
    device: Device,
    on_token: OnToken | None = None,
    references: Sequence[Sequence[int]] | None = None,
    by_lookup: bool = False,
) -> list[Candidates]:
    """Decode `settings.candidates` summaries of each prompt of a batch from one reading.

    Args:
        model: The base, with or without an adapter.
        tokenizer: The base's tokenizer.
        prompts: Token ids of each prompt.
        settings: Candidates or beams, the limits of new tokens, and what may not be repeated.
        device: Where to compute and in which number format.
        on_token: Called for each token of each candidate in order; one may get several before
            another gets its next. A beam search calls it with the tokens of a beam that may be
            dropped later, and not at the end.
        references: Token ids of a reference for each prompt, whose losses are wanted too. They cost
            little on a CPU without beams, which reads the prompts once for both. Otherwise they are
            left to `batch_losses`.
        by_lookup: Write a few prompts by prompt lookup, if the model's layers are fused. In bf16
            near ties can fall otherwise, so a study does without.

    Raises:
        DeviceMemoryError: if the device has no memory for the batch.
    """
    started = time.perf_counter()
    ids, mask = pad_left(prompts, tokenizer.pad_token_id, device)
    ends, copies = ends_of(model), settings.candidates
    knob = f"lower generate.batch_size (now {settings.batch_size})"
    if copies > 1:
        knob += f" or generate.candidates (now {copies})"
    losses: Sequence[RowLoss | None] = [None] * len(prompts)
    with (
        device.autocast(),
        guard_memory(len(prompts) * copies, ids.shape[1], knob),
        (fast := FastInference(model, device)).used(),
    ):
        cache = fast.cache()
        if references and cache is not None and settings.num_beams == 1:
            losses = losses_after(model, (ids, mask), references, cache)
        if cache is None and copies > 1:
            cache = DynamicCache(config=model.config)
        if cache is not None and settings.num_beams == 1:
            rules, limit = rules_for(settings, tokenizer, ends, device), settings.max_new_tokens
            sampling = Sampling.seeded(prompts, settings) if copies > 1 else None
            if by_lookup and copies == 1 and len(prompts) <= lookup.ROWS and fast.is_fused:
                decode = lookup.decode_few_rows
            else:
                decode = functools.partial(decode_rows, sampling=sampling)
            new = decode(model, (ids, mask), cache, limit, rules, ends, on_token)
        else:
            watch = [_Watch(len(prompts), ends, on_token)] if on_token else []
            out = cast(Any, model).generate(
                input_ids=ids,
                attention_mask=mask,
                generation_config=generation_config(tokenizer, settings, ends),
                logits_processor=repetition_rule(settings, tokenizer, ids.shape[1]),
                stopping_criteria=StoppingCriteriaList(watch),
                past_key_values=cache,
            )
            new = out[:, ids.shape[1] :].tolist()
    cut = [cut_at_end(row, ends) for row in new]
    seconds = (time.perf_counter() - started) / len(prompts)
    return [
        Candidates(tuple(cut[copies * i : copies * (i + 1)]), loss, seconds)
        for i, loss in enumerate(losses)
    ]


class _Watch(StoppingCriteria):
    """Hands each token on, and ends the summaries that are not wanted any more."""

    def __init__(self, n_prompts: int, ends: Sequence[int], on_token: OnToken) -> None:
        self._wanted = [True] * n_prompts
        self._ends, self._on_token = ends, on_token

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.BoolTensor:
        beams = len(input_ids) // len(self._wanted)
        for i, token in enumerate(input_ids[::beams, -1].tolist()):
            if self._wanted[i]:
                ended = beams == 1 and token in self._ends
                self._wanted[i] = self._on_token(i, None if ended else token) and not ended
        unwanted = torch.tensor([not wanted for wanted in self._wanted], device=input_ids.device)
        return cast(torch.BoolTensor, unwanted.repeat_interleave(beams))


@torch.no_grad()
def stream_tokens(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt: Sequence[int],
    settings: GenerateConfig,
    device: Device,
    guesses: int = lookup.TOKENS,
) -> Iterator[int]:
    """Decode one prompt greedily; yield its new tokens, without the end of sequence.

    Up to `guesses` tokens are guessed and checked at once, by prompt lookup. Raise
    DeviceMemoryError if there is no memory for them.
    """
    text, guess = list(prompt), list[int]()
    ends = ends_of(model)
    rules = rules_for(settings, tokenizer, ends, device)
    limit = len(prompt) + settings.max_new_tokens
    fast = FastInference(model, device)
    if (cache := fast.cache()) is None:
        cache = DynamicCache()
    while True:
        seen = cache.get_seq_length()
        unseen = torch.tensor([text[seen:] + guess], device=device.name)
        knob = "lower prompt.max_article_tokens, or set model.quantization to nf4"
        with (
            device.autocast(),
            guard_memory(1, unseen.shape[1], knob),
            fast.used(),
        ):
            logits = model(
                input_ids=unseen,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=len(guess) + 1,
            ).logits
        for i in range(len(guess) + 1):
            new = torch.tensor([text[len(prompt) :]], dtype=torch.long, device=device.name)
            token = int(rules(cast(Any, new), logits[:, i]).argmax())
            if token in ends:
                return
            text.append(token)
            yield token
            if len(text) == limit:
                return
            if guess[i : i + 1] != [token]:
                break
        cache.crop(len(text) - 1 - cache.get_seq_length())  # without the guesses that failed
        guess = lookup.guess(text, guesses)


def ends_of(model: PreTrainedModel) -> list[int]:
    """Return the tokens that end a summary of a model, which `load_base` has set."""
    ends = cast(Any, model.generation_config).eos_token_id
    return ends if isinstance(ends, list) else [ends]


def cut_at_end(tokens: list[int], ends: Sequence[int]) -> Generated:
    """Cut new tokens before the first that ends the summary."""
    for place, token in enumerate(tokens):
        if token in ends:
            return Generated(tokens[:place], "stop")
    return Generated(tokens, "length")
