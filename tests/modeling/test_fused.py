"""Fused layers: losses and gradients are those of transformers and peft."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM

from nutgraf.config import LoraSettings, ModelConfig
from nutgraf.modeling.adapters import fresh_adapter
from nutgraf.modeling.fused.model import FusedModel
from nutgraf.modeling.load import Device, load_base

FP32, BF16 = Device("cpu", torch.float32), Device("cpu", torch.bfloat16)
TOKENS = 150  # two blocks of queries
LORA = LoraSettings(r=4, alpha=8)


def base(**changes: Any) -> LlamaForCausalLM:
    """A Llama of two small layers in which three query heads share keys and values."""
    torch.manual_seed(0)
    shape: dict[str, Any] = {
        "vocab_size": 200, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 2,
        "num_attention_heads": 6, "num_key_value_heads": 2, "initializer_range": 0.2,
    }  # fmt: skip
    return LlamaForCausalLM(LlamaConfig(**shape | changes)).requires_grad_(False)


def batch(lengths: tuple[int, ...] = (TOKENS, TOKENS - 40)) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids, padded on the right, and each position's next token if it is a summary's."""
    draw = torch.Generator().manual_seed(1)
    ids = torch.randint(3, 200, (len(lengths), max(lengths)), generator=draw)
    targets = torch.full_like(ids, -100)
    for row, length in enumerate(lengths):
        targets[row, length - 30 : length - 1] = ids[row, length - 29 : length]
    return ids, targets


def adapted(model: Any) -> Any:
    """The model in training with an adapter that changes something: B is not zero."""
    for name, weight in model.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.normal_(weight, std=0.2)
    return model.train()


def gradients(
    model: Any, nll: torch.Tensor, ids: torch.Tensor
) -> tuple[float, dict[str, torch.Tensor]]:
    """The losses [rows] of a batch, each with a weight of its row's own, and their gradients."""
    model.zero_grad()
    weighted = (nll * (1 + ids[:, 0] % 3)).sum()
    weighted.backward()
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    return weighted.item(), {name: p.grad.clone() for name, p in trained}


def reference(model: Any, ids: torch.Tensor, targets: torch.Tensor, device: Device) -> Any:
    """Loss and gradients of transformers and peft."""
    with device.autocast():
        logits = model(input_ids=ids, use_cache=False).logits.float()
    nll = functional.cross_entropy(logits.transpose(1, 2), targets, reduction="none")
    return gradients(model, nll.sum(1), ids)


def fused(
    model: Any, ids: torch.Tensor, targets: torch.Tensor, device: Device, tokens: int = TOKENS
) -> Any:
    layers = FusedModel.of(model, device, len(ids), tokens)
    assert layers
    with device.autocast():
        return gradients(model, layers.nll(model, ids, targets), ids)


def assert_close(ours: Any, wanted: Any, tolerance: float) -> None:
    """Compare losses, and each gradient by the norm of its error."""
    assert ours[0] == pytest.approx(wanted[0], rel=tolerance)
    assert ours[1].keys() == wanted[1].keys()
    for name, gradient in wanted[1].items():
        error = (ours[1][name] - gradient).norm() / gradient.norm()
        assert error < tolerance, name


@pytest.mark.parametrize("names", ["all-linear", ("q_proj", "v_proj"), ("o_proj", "up_proj")])
@pytest.mark.parametrize("tied", [True, False])
def test_gradients_are_those_of_transformers_and_peft(names: Any, tied: bool) -> None:
    lora = LoraSettings(r=4, alpha=8, target_modules=names)
    with fresh_adapter(base(tie_word_embeddings=tied), lora, seed=0) as model:
        adapted(model)
        wanted = reference(model, *batch(), FP32)
        assert_close(fused(model, *batch(), FP32), wanted, 1e-5)
        # If there is little memory for scores, they are computed twice.
        assert_close(fused(model, *batch(), FP32, tokens=10**6), wanted, 1e-5)


def test_in_bf16_the_error_is_no_larger_than_that_of_transformers_and_peft() -> None:
    with fresh_adapter(base(), LORA, seed=0) as model:
        adapted(model)
        exact = reference(model, *batch(), FP32)
        for layer in model.modules():
            if type(layer) is torch.nn.Linear and not layer.weight.requires_grad:
                layer.to(torch.bfloat16)

        def error(of: Any) -> float:
            return sum((of[1][n] - g).square().sum().item() for n, g in exact[1].items()) ** 0.5

        ours, theirs = fused(model, *batch(), BF16), reference(model, *batch(), BF16)
    assert ours[0] == pytest.approx(exact[0], rel=1e-3)
    assert error(ours) < 1.1 * error(theirs)


def test_on_a_base_of_four_bits(tiny_base: Path) -> None:
    config = ModelConfig(base=str(tiny_base), device="cpu", dtype="fp32", quantization="nf4")
    with fresh_adapter(load_base(config), LORA, seed=0) as model:
        adapted(model)
        assert_close(fused(model, *batch(), FP32), reference(model, *batch(), FP32), 1e-5)
    load_base.cache_clear()


def test_rows_together_are_the_rows_alone() -> None:
    lengths = (TOKENS, 139, 64, 40)
    ids, targets = batch(lengths)
    with fresh_adapter(base(), LORA, seed=0) as model:
        adapted(model)
        together = fused(model, ids, targets, FP32)
        alone = [
            fused(model, ids[i : i + 1, :length], targets[i : i + 1, :length], FP32)
            for i, length in enumerate(lengths)
        ]
    total = {name: sum(one[1][name] for one in alone) for name in together[1]}
    assert_close(together, (sum(one[0] for one in alone), total), 1e-5)


def test_lengths_that_are_alike_are_computed_in_the_same_shapes() -> None:
    shapes: list[tuple[int, ...]] = []
    with fresh_adapter(base(), LORA, seed=0) as model:
        adapted(model)
        for part in (model.get_input_embeddings(), model.get_output_embeddings()):
            part.register_forward_hook(lambda *args: shapes.append(tuple(args[2].shape)))
        for lengths in ((TOKENS, 110), (TOKENS + 1, 140)):
            fused(model, *batch(lengths), FP32)
    assert shapes == 2 * [(2, 160, 48), (1, 64, 48)]


def test_activations_computed_twice_give_the_same_gradients() -> None:
    with fresh_adapter(base(), LORA, seed=0) as model:
        adapted(model)
        wanted = fused(model, *batch(), FP32)
        model.gradient_checkpointing_enable({"use_reentrant": False})
        assert_close(fused(model, *batch(), FP32), wanted, 1e-6)


def test_other_layers_stay_as_they_are() -> None:
    def used(model: Any, lora: LoraSettings) -> bool:
        with fresh_adapter(model, lora, seed=0) as adapted_model:
            return FusedModel.of(adapted_model, FP32, 1, 10) is not None

    assert used(base(), LORA)
    assert not used(base(), LoraSettings(r=4, dropout=0.1))
    assert not used(base(attention_bias=True), LORA)
    assert not used(base(attention_dropout=0.1), LORA)
    assert not used(base(hidden_act="gelu"), LORA)
