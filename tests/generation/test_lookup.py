"""A few summaries by prompt lookup: the tokens of plain greedy decoding, in fewer passes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LogitsProcessorList

from nutgraf.config import GenerateConfig, ModelConfig, PromptConfig
from nutgraf.data.prompts import Renderer
from nutgraf.generation.decode_loop import decode_rows
from nutgraf.generation.decoding import generate
from nutgraf.generation.engine import Transformers
from nutgraf.generation.lookup import decode_few_rows, guess
from nutgraf.generation.rules import NoRepeatedNgram
from nutgraf.modeling.inference import FastInference
from nutgraf.modeling.load import choose_device, load_base, load_tokenizer
from nutgraf.modeling.losses import pad_left
from nutgraf.pocket import newswire

LIMIT = 40


def decode(decoder: Any, config: ModelConfig, prompts: list[list[int]], **how: Any) -> Any:
    """Return the tokens of each row, and how many passes they took."""
    model, device, passes = load_base(config), choose_device(config), list[int]()
    fast = FastInference(model, device)
    assert fast.is_fused
    hook = model.register_forward_hook(lambda *_: passes.append(1))
    how = {"rules": LogitsProcessorList(), "ends": (), "limit": LIMIT} | how
    try:
        with torch.no_grad(), fast.used(), device.autocast():
            new = decoder(model, pad_left(prompts, 2, device), fast.cache(), **how)
    finally:
        hook.remove()
    return new, len(passes)


@pytest.mark.parametrize("rows", [1, 2, 5])
@pytest.mark.parametrize("ends", [(), (5, 9)])
def test_rows_are_those_of_a_decoding_without_guesses(
    tiny_base: Path, rows: int, ends: tuple[int, ...]
) -> None:
    """Of a random model, which soon repeats itself: some guesses hold and some do not."""
    config = ModelConfig(base=str(tiny_base), dtype="fp32", device="cpu")
    draw = torch.Generator().manual_seed(4)
    prompts = [torch.randint(3, 9, (n,), generator=draw).tolist() for n in (60, 41, 52, 33, 57)]
    expected, steps = decode(decode_rows, config, prompts[:rows], ends=ends)
    new, passes = decode(decode_few_rows, config, prompts[:rows], ends=ends)
    assert new == expected
    assert passes < steps


@pytest.mark.parametrize("limit", [1, 2, LIMIT])
def test_rules_hold_for_guesses_too(limit: int) -> None:
    """The untrained pocket model copies sentences, which the rule forbids to be said twice."""
    config = ModelConfig(dtype="fp32", device="cpu")
    tokenizer = load_tokenizer(config)
    renderer = Renderer(tokenizer, PromptConfig())
    prompts = [renderer.prompt(s.article).ids for s in newswire.stories("test", 4, seed=3)]
    how = {"rules": LogitsProcessorList([NoRepeatedNgram(2, tokenizer)]), "limit": limit}
    expected, steps = decode(decode_rows, config, prompts, **how)
    new, passes = decode(decode_few_rows, config, prompts, **how)
    assert new == expected
    assert {len(row) for row in new} == {limit}
    if limit == LIMIT:  # long enough to be forbidden something, and for guesses that hold
        assert expected != decode(decode_rows, config, prompts, limit=limit)[0]
        assert passes < steps


def test_a_server_writes_one_article_by_lookup_and_a_study_does_not() -> None:
    """A study's texts are those of its batches, and its plan counts passes."""
    config, settings = ModelConfig(device="cpu"), GenerateConfig(max_new_tokens=LIMIT)
    model, tokenizer, device = load_base(config), load_tokenizer(config), choose_device(config)
    renderer, passes = Renderer(tokenizer, PromptConfig()), list[int]()
    prompts = [renderer.prompt(s.article).ids for s in newswire.stories("test", 1, seed=3)]
    hook = model.register_forward_hook(lambda *_: passes.append(1))
    try:
        ((_, row),) = generate(model, tokenizer, prompts, settings, device)
        steps = len(passes)
        Transformers(model, tokenizer, device).generate(prompts, settings)
    finally:
        hook.remove()
    (written,) = row.written
    assert steps == len(written.ids) + (written.finish_reason == "stop")
    assert len(passes) - steps < steps


def test_a_guess_follows_the_latest_place_of_the_last_two_tokens() -> None:
    assert guess([1, 2, 3, 4, 1, 2, 5, 6, 1, 2], 3) == [5, 6, 1]
    assert guess([1, 2, 3, 1, 2], 8) == [3, 1, 2]
    assert guess([1, 2, 3, 1, 2], 0) == []
    assert guess([7, 7, 7], 8) == [7]
    assert guess([1, 2, 3], 8) == guess([4], 8) == []
