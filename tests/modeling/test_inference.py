"""Fast inference on a CPU gives what transformers' own attention and cache give."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from transformers import DynamicCache, GPT2Config, GPT2LMHeadModel, PreTrainedModel

from nutgraf.config import LoraSettings, ModelConfig
from nutgraf.modeling import attention, cache, inference
from nutgraf.modeling.adapters import fresh_adapter
from nutgraf.modeling.fused.inference import FusedInference
from nutgraf.modeling.load import Device, choose_device, load_base
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
        with inference.fast_inference(model, device) as empty:
            assert empty is not None
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
    monkeypatch.setattr(cache, "ROOM", 4)  # a buffer grows several times
    limits: dict[str, Any] = {"max_new_tokens": 16, "num_beams": beams}
    greedy: dict[str, Any] = {**limits, "do_sample": False, "eos_token_id": None}
    expected = cast(Any, model).generate(**inputs, **greedy, past_key_values=DynamicCache())
    with inference.fast_inference(model, device) as empty:
        tokens = cast(Any, model).generate(**inputs, **greedy, past_key_values=empty)
    assert tokens.tolist() == expected.tolist()


def test_tokens_that_are_cropped_are_forgotten(
    config: ModelConfig, inputs: dict[str, torch.Tensor]
) -> None:
    model, device = load_base(config), choose_device(config)
    ids = inputs["input_ids"][:1]
    with torch.no_grad(), inference.fast_inference(model, device) as empty:
        assert empty is not None
        whole = _logits(model, ids, None)
        _logits(model, ids[:, :200], empty)
        _logits(model, ids[:, :5], empty)  # a guess that fails
        empty.crop(-5)
        assert empty.get_seq_length() == 200
        rest = _logits(model, ids[:, 200:], empty)
    torch.testing.assert_close(rest, whole[:, 200:], rtol=1e-4, atol=1e-5)


def _logits(model: PreTrainedModel, ids: torch.Tensor, cache: Any) -> torch.Tensor:
    logits: torch.Tensor = model(input_ids=ids, past_key_values=cache).logits
    return logits


def test_a_model_with_another_attention_keeps_it(config: ModelConfig) -> None:
    model, device = load_base(config), choose_device(config)
    cast(Any, model).set_attn_implementation("eager")
    try:
        with inference.fast_inference(model, device) as empty:
            assert empty is None
            assert model.config._attn_implementation == "eager"
    finally:
        cast(Any, model).set_attn_implementation("sdpa")


@pytest.mark.parametrize("use", ["trained", "disabled"])
def test_logits_with_an_adapter_are_those_of_peft(
    config: ModelConfig, inputs: dict[str, torch.Tensor], use: str
) -> None:
    device = choose_device(config)
    with fresh_adapter(load_base(config), LoraSettings(r=4, alpha=16), seed=3) as model:
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=0.05)
        adapted: Any = model.eval()
        with torch.no_grad(), adapted.disable_adapter() if use == "disabled" else nullcontext():
            expected = adapted(**inputs).logits
            with inference.fast_inference(model, device):
                assert FusedInference.of(model, device) is not None
                logits = adapted(**inputs).logits
            again = adapted(**inputs).logits
    seen = inputs["attention_mask"].bool()
    torch.testing.assert_close(logits[seen], expected[seen], rtol=1e-4, atol=1e-5)
    assert torch.equal(again, expected)


def test_layers_of_another_family_are_not_fused() -> None:
    gpt2 = GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=16, n_head=2, vocab_size=50))
    assert FusedInference.of(gpt2, Device("cpu", torch.float32)) is None
