"""Fast inference on a CPU gives what transformers' own attention and cache give."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import torch
from transformers import DynamicCache, PreTrainedModel

from nutgraf.config import ModelConfig
from nutgraf.modeling import attention, inference
from nutgraf.modeling.load import choose_device, load_base
from nutgraf.modeling.losses import pad_left

LENGTHS = (2 * attention.BLOCK + 7, 40)  # the first of three blocks; the second is padded


@pytest.fixture
def config(tiny_base: Path) -> ModelConfig:
    return ModelConfig(base=str(tiny_base), dtype="fp32", device="cpu")


@pytest.fixture
def inputs(config: ModelConfig) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    rows = [torch.randint(3, 250, (n,), generator=draw).tolist() for n in LENGTHS]
    ids, mask = pad_left(rows, 2, choose_device(config))
    return {"input_ids": ids, "attention_mask": mask}


def test_logits_are_those_of_the_fused_attention(
    config: ModelConfig, inputs: dict[str, torch.Tensor]
) -> None:
    model, device = load_base(config), choose_device(config)
    positions = (inputs["attention_mask"].cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        expected = model(**inputs, position_ids=positions).logits
        with inference.fast_inference(model, device) as cache:
            assert cache is not None
            logits = model(**inputs, position_ids=positions).logits
    seen = inputs["attention_mask"].bool()
    torch.testing.assert_close(logits[seen], expected[seen], rtol=1e-4, atol=1e-5)
    assert model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("beams", [1, 3])
def test_the_same_tokens_are_written(
    config: ModelConfig,
    inputs: dict[str, torch.Tensor],
    beams: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, device = load_base(config), choose_device(config)
    monkeypatch.setattr(inference, "ROOM", 4)  # a buffer grows several times
    limits: dict[str, Any] = {"max_new_tokens": 16, "num_beams": beams}
    greedy: dict[str, Any] = {**limits, "do_sample": False, "eos_token_id": None}
    expected = cast(Any, model).generate(**inputs, **greedy, past_key_values=DynamicCache())
    with inference.fast_inference(model, device) as cache:
        tokens = cast(Any, model).generate(**inputs, **greedy, past_key_values=cache)
    assert tokens.tolist() == expected.tolist()


def test_tokens_that_are_cropped_are_forgotten(
    config: ModelConfig, inputs: dict[str, torch.Tensor]
) -> None:
    model, device = load_base(config), choose_device(config)
    ids = inputs["input_ids"][:1]
    with torch.no_grad(), inference.fast_inference(model, device) as cache:
        assert cache is not None
        whole = _logits(model, ids, None)
        _logits(model, ids[:, :200], cache)
        _logits(model, ids[:, :5], cache)  # a guess that fails
        cache.crop(-5)
        assert cache.get_seq_length() == 200
        rest = _logits(model, ids[:, 200:], cache)
    torch.testing.assert_close(rest, whole[:, 200:], rtol=1e-4, atol=1e-5)


def _logits(model: PreTrainedModel, ids: torch.Tensor, cache: Any) -> torch.Tensor:
    logits: torch.Tensor = model(input_ids=ids, past_key_values=cache).logits
    return logits


def test_a_model_with_another_attention_keeps_it(config: ModelConfig) -> None:
    model, device = load_base(config), choose_device(config)
    cast(Any, model).set_attn_implementation("eager")
    try:
        with inference.fast_inference(model, device) as cache:
            assert cache is None
            assert model.config._attn_implementation == "eager"
    finally:
        cast(Any, model).set_attn_implementation("sdpa")
