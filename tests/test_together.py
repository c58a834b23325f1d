"""Trainings together over one base: each is the training that fit() does alone."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file

from nutgraf.history import Fit
from nutgraf.member import Job
from nutgraf.members import Members, fit_together
from nutgraf.model import choose_device, fresh_adapter, load_base, load_tokenizer
from nutgraf.prompts import Renderer
from nutgraf.settings import LoraSettings, ModelConfig, PromptConfig, TrainConfig
from nutgraf.trainer import fit

pytestmark = pytest.mark.usefixtures("quick_trainings")

COMMON: dict[str, Any] = {"max_examples": None, "eval_every": 100, "eval_examples": 8}
# Fifty steps each, and nothing else in common.
FOUR: list[tuple[dict[str, Any], LoraSettings]] = [
    (
        {"micro_batch_size": 2, "gradient_accumulation_steps": 2, "learning_rate": 3e-3},
        LoraSettings(r=4, alpha=8, dropout=0.1),
    ),
    (
        {"micro_batch_size": 2, "gradient_accumulation_steps": 1, "learning_rate": 1e-2,
         "weight_decay": 0.1, "seeds": (2,), "schedule": "cosine"},
        LoraSettings(r=8, alpha=4),
    ),
    (
        {"micro_batch_size": 1, "gradient_accumulation_steps": 3, "learning_rate": 1e-3,
         "seeds": (3,), "warmup_steps": 5},
        LoraSettings(r=2, alpha=8, dropout=0.3, target_modules=("q_proj", "v_proj")),
    ),
    (
        {"micro_batch_size": 4, "gradient_accumulation_steps": 1, "learning_rate": 2e-3,
         "max_grad_norm": 0.1, "schedule": "constant"},
        LoraSettings(r=1, alpha=1),
    ),
]  # fmt: skip


class Bench:
    """A base on the CPU, rows, and trainings over them alone and together."""

    def __init__(self, config: ModelConfig) -> None:
        self.base, self.tokenizer = load_base(config), load_tokenizer(config)
        self.device = choose_device(config)
        self.pad = self.tokenizer.pad_token_id
        renderer = Renderer(self.tokenizer, PromptConfig(max_tokens=120, max_article_tokens=60))
        story = "On day {0} town {0} spoke of {1}. "
        rows = [
            renderer.example(story.format(n, "roads" * (1 + n % 4)), f"Town {n} talks.")
            for n in range(40)
        ]
        self.train, self.validation = rows[8:], rows[:8]

    def job(self, out: Path, settings: TrainConfig, lora: LoraSettings, **more: Any) -> Job:
        adapted = functools.partial(fresh_adapter, self.base, lora, settings.seed)
        return Job(adapted, settings, out, **more)

    def alone(self, job: Job) -> Fit:
        with job.adapted() as model:
            return fit(
                model, self.tokenizer, self.train, self.validation, job.settings, self.device,
                job.out, job.on_eval, job.on_step,
            )  # fmt: skip

    def together(self, jobs: list[Job], most: int | None = None) -> list[Fit | Exception]:
        return fit_together(
            self.base, self.pad, self.train, self.validation, jobs, self.device, most
        )

    def members(self) -> Members:
        return Members(self.base, self.pad, self.train, self.validation, self.device)


@pytest.fixture(scope="module")
def bench(tiny_base: Path) -> Bench:
    return Bench(ModelConfig(base=str(tiny_base), dtype="fp32", device="cpu"))


def four(bench: Bench, out: Path, steps: int = 50, **changes: Any) -> list[Job]:
    return [
        bench.job(
            out / str(n),
            TrainConfig.model_validate({**COMMON, **own, "max_steps": steps, **changes}),
            lora,
        )
        for n, (own, lora) in enumerate(FOUR)
    ]


def curve(done: Fit | Exception) -> list[float]:
    """Training and validation losses, in their order."""
    assert isinstance(done, Fit), done
    found = [r.validation_loss if r.train_loss is None else r.train_loss for r in done.history]
    return cast(list[float], found)


def weights(job: Job) -> dict[str, torch.Tensor]:
    return load_file(job.out / "adapter_model.safetensors")


def assert_close(one: Job, other: Job, within: float = 1e-4) -> None:
    a, b = weights(one), weights(other)
    assert a.keys() == b.keys()
    assert max(float((a[k] - b[k]).abs().max()) for k in a) < within


@pytest.fixture(scope="module")
def alone(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Job, Fit]]:
    jobs = four(bench, tmp_path_factory.mktemp("alone"))
    return [(job, bench.alone(job)) for job in jobs]


def test_four_together_are_the_four_alone(
    bench: Bench, alone: list[tuple[Job, Fit]], tmp_path: Path
) -> None:
    """Ranks, rates, batches, seeds, schedules, clipping, layers and dropout differ."""
    jobs = four(bench, tmp_path)
    for job, done, (one, wanted) in zip(jobs, bench.together(jobs), alone, strict=True):
        assert curve(done) == pytest.approx(curve(wanted), abs=1e-4)
        assert_close(job, one)
