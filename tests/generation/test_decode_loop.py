"""Several summaries from one reading: they do not depend on what is decoded beside them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    GenerationConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LogitsProcessorList,
    MistralConfig,
    MistralForCausalLM,
)

from nutgraf.config import GenerateConfig, ModelConfig
from nutgraf.generation import decode_loop
from nutgraf.generation.decode_loop import Sampling, decode_rows
from nutgraf.generation.decoding import generate_candidates
from nutgraf.modeling.inference import FastInference
from nutgraf.modeling.load import Device, choose_device, load_base
from nutgraf.modeling.losses import pad_left

LIMIT = 24
ENDS = (5, 9)  # two frequent tokens of the tiny base, so that rows end at different steps


@pytest.fixture
def config(tiny_base: Path) -> ModelConfig:
    return ModelConfig(base=str(tiny_base), dtype="fp32", device="cpu")


@pytest.fixture
def prompts() -> list[list[int]]:
    draw = torch.Generator().manual_seed(4)
    return [torch.randint(3, 250, (n,), generator=draw).tolist() for n in (60, 41, 52, 33, 57)]


def decode(
    config: ModelConfig, prompts: list[list[int]], copies: int = 1, ends: Any = ENDS, **how: Any
) -> list[list[int]]:
    model, device = load_base(config), choose_device(config)
    fast = FastInference(model, device)
    sampling = None
    if copies > 1:
        how = {"temperature": 1.0, "top_p": 0.9, "seed": 7, **how}
        settings = GenerateConfig(candidates=copies, max_new_tokens=LIMIT, **how)
        sampling = Sampling.seeded(prompts, settings)
    cache = fast.cache()
    assert cache is not None
    with torch.no_grad(), fast.used():
        return decode_rows(
            model, pad_left(prompts, 2, device), cache, LIMIT, LogitsProcessorList(), ends,
            sampling=sampling,
        )  # fmt: skip


def test_greedy_rows_are_those_of_transformers(
    config: ModelConfig, prompts: list[list[int]]
) -> None:
    ids, mask = pad_left(prompts, 2, choose_device(config))
    how = GenerationConfig(
        max_new_tokens=LIMIT, do_sample=False, eos_token_id=list(ENDS), pad_token_id=2
    )
    model: Any = load_base(config)
    out = model.generate(input_ids=ids, attention_mask=mask, generation_config=how)
    expected = [_cut(row) for row in out[:, ids.shape[1] :].tolist()]
    assert [_cut(row) for row in decode(config, prompts)] == expected


def _cut(row: list[int]) -> list[int]:
    ends = [place for place, token in enumerate(row) if token in ENDS]
    return row[: ends[0] + 1] if ends else row


@pytest.mark.parametrize("packed_share", [0.0, 0.99])
def test_candidates_of_a_prompt_are_the_same_alone_and_in_a_batch(
    config: ModelConfig,
    prompts: list[list[int]],
    packed_share: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(decode_loop, "PACKED_SHARE", packed_share)
    together = decode(config, prompts, copies=4)
    alone = [row for prompt in prompts for row in decode(config, [prompt], copies=4)]
    assert together == alone
    assert {len(row) for row in together} > {LIMIT}  # some ended earlier, and left the batch
    greedy = decode(config, prompts)
    assert together[::4] == greedy
    assert len({tuple(row) for row in together}) > 2 * len(prompts)


def test_samples_have_the_distribution_of_the_nucleus() -> None:
    shares = torch.tensor([0.5, 0.3, 0.15, 0.05])
    n = 20_000
    uniforms = torch.rand(n, 1, generator=torch.Generator().manual_seed(1))
    sampling = Sampling(n, temperature=1.0, top_p=0.9, uniforms=uniforms)
    tokens = sampling.draw(shares.log().expand(n, 4), range(n), 0)
    drawn = torch.bincount(tokens, minlength=4) / n
    expected = torch.tensor([0.5, 0.3, 0.15, 0.0]) / 0.95
    torch.testing.assert_close(drawn, expected, atol=0.01, rtol=0)
    cold = Sampling(n, temperature=0.5, top_p=1.0, uniforms=uniforms)
    drawn = torch.bincount(cold.draw(shares.log().expand(n, 4), range(n), 0), minlength=4) / n
    torch.testing.assert_close(drawn, shares**2 / (shares**2).sum(), atol=0.01, rtol=0)


@pytest.mark.parametrize("family", ["GPT-2", "sliding windows", "BLOOM"])
def test_candidates_of_models_that_are_not_fused(
    prompts: list[list[int]], tmp_path: Path, family: str
) -> None:
    small = {"vocab_size": 256, "hidden_size": 32, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 48}
    model: Any = {
        "GPT-2": lambda: GPT2LMHeadModel(
            GPT2Config(vocab_size=256, n_embd=32, n_layer=2, n_head=4, n_positions=128)
        ),
        "sliding windows": lambda: MistralForCausalLM(
            MistralConfig(**small, **heads, sliding_window=16)
        ),
        "BLOOM": lambda: BloomForCausalLM(BloomConfig(**small | {"n_head": 4})),
    }[family]().eval()
    model.generation_config.eos_token_id = list(ENDS)
    settings = GenerateConfig(candidates=3, temperature=1.0, max_new_tokens=LIMIT)
    device, tokenizer = Device("cpu", torch.float32), SimpleNamespace(pad_token_id=2)
    together = generate_candidates(model, cast(Any, tokenizer), prompts, settings, device)
    for prompt, candidates in zip(prompts, together, strict=True):
        (alone,) = generate_candidates(model, cast(Any, tokenizer), [prompt], settings, device)
        assert alone == candidates
        out = model.generate(
            torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=LIMIT, do_sample=False, pad_token_id=2,
        )  # fmt: skip
        greedy = out[0, len(prompt) :].tolist()
        assert candidates.written[0].ids == [token for token in _cut(greedy) if token not in ENDS]
