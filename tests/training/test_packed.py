"""Trainings together over one base: each is the training that fit() does alone."""

from __future__ import annotations

import functools
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file

import nutgraf.modeling.adapters
from nutgraf.config import (
    Config,
    GenerateConfig,
    LoraSettings,
    ModelConfig,
    PromptConfig,
    TrainConfig,
    load,
)
from nutgraf.core import signals
from nutgraf.core.errors import Failure
from nutgraf.core.signals import Stopped
from nutgraf.data.prompts import Renderer, summary_text
from nutgraf.generation.decoding import generate_batch
from nutgraf.modeling.adapters import with_adapter
from nutgraf.modeling.load import choose_device, load_base, load_tokenizer
from nutgraf.modeling.losses import mean_loss, summary_losses
from nutgraf.training.fit import fit_adapter
from nutgraf.training.history import Evaluation, TrainingResult
from nutgraf.training.job import TrainingJob
from nutgraf.training.packed.loop import PackedTrainer, fit_packed

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
        self.config, self.base = config, load_base(config)
        self.tokenizer = load_tokenizer(config)
        self.device = choose_device(config)
        self.pad = self.tokenizer.pad_token_id
        renderer = Renderer(self.tokenizer, PromptConfig(max_tokens=120, max_article_tokens=60))
        story = "On day {0} town {0} spoke of {1}. "
        rows = [
            renderer.example(story.format(n, "roads" * (1 + n % 4)), f"Town {n} talks.")
            for n in range(40)
        ]
        self.train, self.validation = rows[8:], rows[:8]

    def job(self, out: Path, settings: TrainConfig, lora: LoraSettings) -> TrainingJob:
        few = GenerateConfig(max_new_tokens=12)
        config = Config(model=self.config, lora=lora, train=settings, generate=few)
        return TrainingJob(config, self.train, self.validation, out)

    def alone(self, job: TrainingJob) -> TrainingResult:
        return fit_adapter(job)

    def together(
        self, jobs: list[TrainingJob], max_packed: int | None = None
    ) -> list[TrainingResult | Exception]:
        return fit_packed(jobs, max_packed)

    def trainer(self) -> PackedTrainer:
        return PackedTrainer(self.base, self.pad, self.device)


@pytest.fixture(scope="module")
def bench(tiny_base: Path) -> Bench:
    return Bench(ModelConfig(base=str(tiny_base), dtype="fp32", device="cpu"))


def four(bench: Bench, out: Path, steps: int = 50, **changes: Any) -> list[TrainingJob]:
    return [
        bench.job(
            out / str(n),
            TrainConfig.model_validate({**COMMON, **own, "max_steps": steps, **changes}),
            lora,
        )
        for n, (own, lora) in enumerate(FOUR)
    ]


def curve(done: TrainingResult | Exception) -> list[float]:
    """Training and validation losses, in their order."""
    assert isinstance(done, TrainingResult), done
    losses = [
        r.validation_loss if r.train_loss is None else r.train_loss for r in done.history.rows
    ]
    return cast(list[float], losses)


def weights(job: TrainingJob) -> dict[str, torch.Tensor]:
    return load_file(job.out / "adapter_model.safetensors")


def assert_close(one: TrainingJob, other: TrainingJob, within: float = 1e-4) -> None:
    a, b = weights(one), weights(other)
    assert a.keys() == b.keys()
    assert max(float((a[k] - b[k]).abs().max()) for k in a) < within


@pytest.fixture(scope="module")
def alone(
    bench: Bench, tmp_path_factory: pytest.TempPathFactory
) -> list[tuple[TrainingJob, TrainingResult]]:
    jobs = four(bench, tmp_path_factory.mktemp("alone"))
    return [(job, bench.alone(job)) for job in jobs]


def test_four_together_are_the_four_alone(
    bench: Bench, alone: list[tuple[TrainingJob, TrainingResult]], tmp_path: Path
) -> None:
    """Ranks, rates, batches, seeds, schedules, clipping, layers and dropout differ."""
    jobs = four(bench, tmp_path)
    for job, done, (one, wanted) in zip(jobs, bench.together(jobs), alone, strict=True):
        assert curve(done) == pytest.approx(curve(wanted), abs=1e-4)
        assert_close(job, one)


def test_losses_rows_and_files_are_those_of_fit(
    bench: Bench, alone: list[tuple[TrainingJob, TrainingResult]], tmp_path: Path
) -> None:
    job, wanted = four(bench, tmp_path)[0], alone[0][1]
    steps: list[int] = []
    (done,) = bench.together(
        [replace(job, on_eval=lambda evaluation: steps.append(evaluation.step))]
    )
    assert isinstance(done, TrainingResult)
    assert steps == [row.step for row in wanted.history.rows if row.validation_loss is not None]
    for loss, row in zip(done.best.rows, wanted.best.rows, strict=True):
        assert loss.nll == pytest.approx(row.nll, abs=1e-3)
        assert loss.tokens == row.tokens
    assert done.model_copy(update={"history": wanted.history}) == wanted
    there, before = (sorted(p.name for p in j.out.iterdir()) for j in (job, alone[0][0]))
    assert there == before
    config = "adapter_config.json"
    assert (job.out / config).read_text() == (alone[0][0].out / config).read_text()


def test_twice_is_bit_identical(bench: Bench, tmp_path: Path) -> None:
    one, other = four(bench, tmp_path / "a", 4), four(bench, tmp_path / "b", 4, samples=2)
    first, second = bench.together(one), bench.together(other)
    for a, b in zip(first, second, strict=True):
        assert curve(a) == curve(b)
    for job, again in zip(one, other, strict=True):
        a, b = weights(job), weights(again)
        assert all(torch.equal(a[k], b[k]) for k in a)
    # One of them summarized two articles at each evaluation: what its own adapter writes of them.
    prompts = [row.input_ids[: row.prompt_tokens] for row in bench.validation[:2]]
    for job, done in zip(other, second, strict=True):
        assert isinstance(done, TrainingResult)
        with with_adapter(bench.base, job.out) as model:
            settings = job.config.generate
            new = generate_batch(model, bench.tokenizer, prompts, settings, bench.device)
        texts = [summary_text(bench.tokenizer, each.ids) for each in new]
        assert done.history.samples.evaluations[-1]["texts"] == texts


def test_a_run_does_not_depend_on_who_else_is_present(bench: Bench, tmp_path: Path) -> None:
    """Nor on how many go through in one pass."""
    lone = four(bench, tmp_path / "lone", 4)
    by_itself = [bench.together([job])[0] for job in lone]
    for name, limit in (("all", None), ("two", 2)):
        jobs = four(bench, tmp_path / name, 4)
        results = bench.together(jobs, limit)
        for job, done, other, wanted in zip(jobs, results, lone, by_itself, strict=True):
            assert curve(done) == pytest.approx(curve(wanted), abs=1e-4)
            assert_close(job, other)


def test_runs_join_and_leave_between_steps(bench: Bench, tmp_path: Path) -> None:
    """One comes late, one goes and comes back: it carries on from its checkpoint."""
    wanted = four(bench, tmp_path / "wanted", 8, eval_every=8)
    bench.together(wanted)
    trainer, jobs = bench.trainer(), four(bench, tmp_path / "a", 8, eval_every=8)
    first, second = trainer.add(jobs[0]), trainer.add(jobs[1])
    while second.step < 6:
        trainer.advance()
    trainer.remove(second)
    trainer.add(jobs[2])
    trainer.advance()
    back = trainer.add(jobs[1])
    assert 0 < back.step < 6
    while trainer.runs:
        trainer.advance()
    trainer.close()
    assert not trainer.errors
    assert first.result is not None
    for job, other in list(zip(jobs, wanted, strict=True))[:3]:
        assert_close(job, other)


def test_an_interrupted_one_ends_as_one_that_was_not(bench: Bench, tmp_path: Path) -> None:
    wanted = four(bench, tmp_path / "wanted", 6)
    undisturbed = bench.together(wanted)
    steps = 0

    def enough(_: int) -> None:
        nonlocal steps
        steps += 1
        if steps == 13:
            os.kill(os.getpid(), signal.SIGTERM)

    jobs = four(bench, tmp_path / "a", 6)
    with signals.stop_on_signals(), pytest.raises(Stopped):
        bench.together([replace(job, on_step=enough) for job in jobs])
    assert not any(job.out.exists() for job in jobs)
    for done, other in zip(bench.together(jobs), undisturbed, strict=True):
        assert curve(done) == pytest.approx(curve(other), abs=1e-6)
    for job, other_job in zip(jobs, wanted, strict=True):
        assert_close(job, other_job, 1e-6)
    # Once more: what is done is not done again.
    before = [job.out.stat().st_mtime_ns for job in jobs]
    assert [curve(d) for d in bench.together(jobs)] == [curve(d) for d in bench.together(jobs)]
    assert [job.out.stat().st_mtime_ns for job in jobs] == before


def test_what_happens_to_one_ends_that_one_alone(bench: Bench, tmp_path: Path) -> None:
    """A loss that is no number, and a caller that wants no more."""

    def no_more(evaluation: Evaluation) -> None:
        raise ValueError("no more")

    wanted, jobs = four(bench, tmp_path / "wanted", 4), four(bench, tmp_path / "a", 4)
    undisturbed = bench.together(wanted)
    wild = {"train.learning_rate": 1e30, "train.warmup_steps": 0}
    jobs[1] = replace(jobs[1], config=load.with_overrides(jobs[1].config, wild))
    jobs[2] = replace(jobs[2], on_eval=no_more)
    results = bench.together(jobs)
    assert isinstance(results[1], Failure)
    assert "lower train.learning_rate" in str(results[1])
    assert isinstance(results[2], ValueError)
    for n in (0, 3):
        assert curve(results[n]) == pytest.approx(curve(undisturbed[n]), abs=1e-4)
        assert_close(jobs[n], wanted[n])


def test_with_passes_computed_again(bench: Bench, tmp_path: Path) -> None:
    """The masks of dropout are the same at the second time."""
    one = four(bench, tmp_path / "a", 4)
    again = four(bench, tmp_path / "b", 4, activation_checkpointing=True)
    for a, b in zip(bench.together(one), bench.together(again), strict=True):
        assert curve(a) == pytest.approx(curve(b), abs=1e-5)
    for job, other in zip(one, again, strict=True):
        assert_close(job, other, 1e-5)


def test_fewer_at_a_time_where_memory_is_short(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device that holds three articles: two trainings at a time, one in smaller pieces."""
    logits = PackedTrainer._logits

    def small(self: PackedTrainer, ids: torch.Tensor, positions: list[int]) -> torch.Tensor:
        if len(ids) > 3:
            raise torch.OutOfMemoryError("tried to allocate too much")
        return logits(self, ids, positions)

    wanted = four(bench, tmp_path / "wanted", 5)
    plenty = bench.together(wanted)
    monkeypatch.setattr(PackedTrainer, "_logits", small)
    jobs = four(bench, tmp_path / "a", 5)
    results = bench.together(jobs)
    for n in (1, 3):  # without dropout, whose masks belong to micro-batches
        assert curve(results[n]) == pytest.approx(curve(plenty[n]), abs=1e-4)
        assert_close(jobs[n], wanted[n])
    sizes = [done.micro_batch_size for done in results if isinstance(done, TrainingResult)]
    assert sizes == [2, 2, 1, 2]


def test_it_leaves_as_an_adapter_of_peft(bench: Bench, tmp_path: Path) -> None:
    jobs = four(bench, tmp_path, 4)
    for job, done in zip(jobs, bench.together(jobs), strict=True):
        assert isinstance(done, TrainingResult)
        with with_adapter(bench.base, job.out) as model:
            rows = summary_losses(model, bench.validation, bench.pad, bench.device)
        assert mean_loss(rows) == pytest.approx(done.best.loss, abs=1e-5)
    assert not any(weight.requires_grad for weight in bench.base.parameters())


def test_rank_stabilized_scaling(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """alpha / sqrt(r) where peft is asked for it."""
    usual = four(bench, tmp_path / "usual", 4)[0]
    (plain,) = bench.together([usual])
    stabilized = functools.partial(nutgraf.modeling.adapters.LoraConfig, use_rslora=True)
    monkeypatch.setattr(nutgraf.modeling.adapters, "LoraConfig", stabilized)
    one, other = four(bench, tmp_path / "a", 4)[0], four(bench, tmp_path / "b", 4)[0]
    wanted, (done, _) = bench.alone(one), bench.together([other, four(bench, tmp_path, 4)[1]])
    assert curve(done) == pytest.approx(curve(wanted), abs=1e-4)
    assert curve(done) != pytest.approx(curve(plain), abs=1e-3)
    assert_close(one, other)


def test_on_a_base_of_four_bits_in_bf16(tiny_base: Path, tmp_path: Path) -> None:
    """Within what another seed of the same training changes."""
    bench = Bench(ModelConfig(base=str(tiny_base), dtype="bf16", device="cpu", quantization="nf4"))
    wanted = [bench.alone(job) for job in four(bench, tmp_path / "alone", 5)[:2]]
    seeds = (11, 12)
    other = bench.alone(four(bench, tmp_path / "seed", 5, seeds=seeds)[0])
    spread = abs(other.best.loss - wanted[0].best.loss)
    jobs = four(bench, tmp_path / "together", 5)[:2]
    for done, alone in zip(bench.together(jobs), wanted, strict=True):
        assert isinstance(done, TrainingResult)
        assert abs(done.best.loss - alone.best.loss) < spread


def test_what_is_not_trained_together_is_refused(bench: Bench, tmp_path: Path) -> None:
    lora = LoraSettings(target_modules=("q_proj", "embed_tokens"))
    job = bench.job(tmp_path / "a", TrainConfig(), lora)
    with pytest.raises(Failure, match=r"embed_tokens .*search\.together to off"):
        bench.trainer().add(job)
    attention = bench.base.model.layers[0].self_attn
    attention.attention_dropout = 0.1
    try:
        with pytest.raises(Failure, match=r"drops 0\.1 .*search\.together to off"):
            bench.trainer()
    finally:
        attention.attention_dropout = 0.0
