"""Training on a 4-bit base on a CPU: what looks at the model in between changes nothing.

Left to itself bitsandbytes packs 4-bit weights for a fused kernel at the first product in eval
mode, with scales rounded to bf16, and they stay packed: no gradient goes through them any more.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from nutgraf.config import (
    Config,
    GenerateConfig,
    LoraSettings,
    ModelConfig,
    PromptConfig,
    TrainConfig,
)
from nutgraf.data.examples import Example
from nutgraf.data.prompts import Renderer
from nutgraf.generation.decoding import generate
from nutgraf.modeling import four_bits
from nutgraf.modeling.adapters import with_adapter
from nutgraf.modeling.load import choose_device, load_base, load_tokenizer
from nutgraf.modeling.losses import mean_loss, summary_losses
from nutgraf.training.fit import fit_adapter
from nutgraf.training.job import TrainingJob


@pytest.fixture
def config(tiny_base: Path) -> ModelConfig:
    return ModelConfig(base=str(tiny_base), device="cpu", quantization="nf4")


@pytest.fixture
def rows(config: ModelConfig) -> list[Example]:
    renderer = Renderer(
        load_tokenizer(config), PromptConfig(max_tokens=200, max_article_tokens=120)
    )
    story = "On day {0} the council of town {0} met. " + "It went on. " * 6
    return [renderer.example(story.format(n), f"Town {n} talks.") for n in range(24)]


def train(config: ModelConfig, rows: list[Example], out: Path, eval_every: int) -> float:
    settings = TrainConfig(
        max_examples=32, eval_every=eval_every, eval_examples=8, learning_rate=5e-3
    )
    lora = LoraSettings(r=4, alpha=8, dropout=0.1)
    study = Config(model=config, lora=lora, train=settings)
    return fit_adapter(TrainingJob(study, rows, rows[:8], out)).best.loss


def test_evaluations_in_between_leave_the_training_as_it_is(
    config: ModelConfig, rows: list[Example], tmp_path: Path
) -> None:
    train(config, rows, tmp_path / "once", eval_every=32)
    base = load_base(config)
    pad, device = load_tokenizer(config).pad_token_id, choose_device(config)
    before = summary_losses(base, rows[:4], pad, device)
    # Lowest at the end, so that both save the adapter of the last step.
    lowest = train(config, rows, tmp_path / "often", eval_every=8)
    once, often = (
        load_file(tmp_path / name / "adapter_model.safetensors") for name in ("once", "often")
    )
    assert once.keys() == often.keys()
    assert all(torch.equal(once[name], often[name]) for name in once)
    assert summary_losses(base, rows[:4], pad, device) == before

    load_base.cache_clear()
    with with_adapter(load_base(config), tmp_path / "often") as model:
        loss = mean_loss(summary_losses(model, rows[:8], pad, device))
        assert loss == pytest.approx(lowest, 1e-4)  # another attention than in training
        prompts = [row.input_ids[: row.prompt_tokens] for row in rows[:2]]
        tokenizer = load_tokenizer(config)
        settings = GenerateConfig(max_new_tokens=4)
        assert len(dict(generate(model, tokenizer, prompts, settings, device))) == 2
    load_base.cache_clear()


def test_torch_s_compiler_is_not_loaded_with_bitsandbytes() -> None:
    code = "import sys, nutgraf.modeling.adapters, bitsandbytes.backends.default.ops\n"
    code += "print([name for name in sys.modules if name == 'torch._inductor.compile_fx'])"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout == "[]\n"


def test_what_was_to_be_compiled_is_compiled_when_it_is_called(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compiled: list[tuple[str, bool]] = []

    def compile_now(function: Callable[[int], int], dynamic: bool) -> Callable[[int], int]:
        compiled.append((function.__name__, dynamic))
        return lambda number: 10 * function(number)

    def twice(number: int) -> int:
        return 2 * number

    monkeypatch.setattr(torch, "compile", compile_now)
    with four_bits.compile_later():
        later: Any = torch.compile(twice, dynamic=False)  # type: ignore[call-overload]
    assert torch.compile is compile_now
    assert compiled == []
    assert [later(1), later(number=1)] == [20, 20]
    assert compiled == [("twice", False)]
