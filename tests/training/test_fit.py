"""fit(): what it trains on, what it leaves, and what its result must not depend on."""

from __future__ import annotations

import json
import math
from array import array
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import nutgraf.modeling.attention
from nutgraf.config import (
    Config,
    GenerateConfig,
    LoraSettings,
    ModelConfig,
    PromptConfig,
    TrainConfig,
)
from nutgraf.config.types import Choices, Range, Space
from nutgraf.core.errors import Failure
from nutgraf.data.examples import Example, Rows
from nutgraf.data.prompts import Renderer, summary_text
from nutgraf.generation.decoding import generate, generate_batch
from nutgraf.modeling.adapters import fresh_adapter, with_adapter
from nutgraf.modeling.attention import training_attention
from nutgraf.modeling.load import choose_device, load_base, load_tokenizer
from nutgraf.modeling.losses import mean_loss, summary_losses
from nutgraf.training.budget import (
    draw_examples,
    evaluation_steps,
    max_examples_seen,
    total_examples,
    total_steps,
)
from nutgraf.training.fit import fit, fit_adapter
from nutgraf.training.history import Evaluation
from nutgraf.training.job import TrainingJob

SETTINGS = TrainConfig(
    max_examples=48,
    micro_batch_size=4,
    gradient_accumulation_steps=2,
    learning_rate=5e-3,
    eval_every=16,
    eval_examples=8,
)


@pytest.fixture(scope="module")
def config(tiny_base: Path) -> ModelConfig:
    return ModelConfig(base=str(tiny_base), dtype="fp32", device="cpu")


@pytest.fixture(scope="module")
def renderer(config: ModelConfig) -> Renderer:
    return Renderer(load_tokenizer(config), PromptConfig(max_tokens=200, max_article_tokens=120))


@pytest.fixture(scope="module")
def rows(renderer: Renderer) -> list[Example]:
    story = "On day {0} the council of town {0} met and spoke of {1}. " + "It went on. " * 6
    return [
        renderer.example(story.format(n, "roads" * (1 + n % 3)), f"Town {n} talks.")
        for n in range(40)
    ]


def train(
    config: ModelConfig, rows: list[Example], out: Path, lora: Any = None, **changes: Any
) -> Any:
    settings = TrainConfig.model_validate({**SETTINGS.model_dump(), **changes})
    done = fit_adapter(job(config, rows, out, lora or LoraSettings(r=4, alpha=8), settings))
    return done, load_file(out / "adapter_model.safetensors")


def job(
    config: ModelConfig,
    rows: list[Example],
    out: Path,
    lora: LoraSettings | None = None,
    settings: TrainConfig = SETTINGS,
    **more: Any,
) -> TrainingJob:
    study = Config(model=config, lora=lora or LoraSettings(r=4), train=settings)
    return TrainingJob(study, rows[8:], rows[:8], out, **more)


def losses(done: Any) -> list[float]:
    return [row.train_loss for row in done.history.rows if row.train_loss is not None]


def test_learns_and_saves_the_adapter_with_the_lowest_loss(
    config: ModelConfig, rows: list[Example], tmp_path: Path
) -> None:
    base, device = load_base(config), choose_device(config)
    pad = load_tokenizer(config).pad_token_id
    before = mean_loss(summary_losses(base, rows[:8], pad, device))
    done, _ = train(config, rows, tmp_path / "a")
    assert done.best.loss < before - 0.1
    assert [e.examples for e in done.history.evaluations][-1] == 48
    with with_adapter(base, tmp_path / "a") as model:
        saved = mean_loss(summary_losses(model, rows[:8], pad, device))
    assert saved == pytest.approx(done.best.loss, abs=1e-6)
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    # No checkpoints are left behind, but its curves and a note that it is finished.
    assert sorted(p.name for p in tmp_path.iterdir()) == [".a.done.json", "a", "a.curves.json"]


def test_the_base_is_as_before_after_a_training(
    config: ModelConfig, rows: list[Example], tmp_path: Path
) -> None:
    base = load_base(config)
    before = {k: v.clone() for k, v in base.state_dict().items()}
    train(config, rows, tmp_path / "a")
    after = base.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert "forward" not in base.__dict__
    assert not any(p.requires_grad for p in base.parameters())


def test_same_seed_same_weights(config: ModelConfig, rows: list[Example], tmp_path: Path) -> None:
    lora = LoraSettings(r=4, alpha=8, dropout=0.1)
    _, one = train(config, rows, tmp_path / "a", lora)
    _, two = train(config, rows, tmp_path / "b", lora)
    assert all(torch.equal(one[k], two[k]) for k in one)


def test_1_x_8_is_8_x_1(config: ModelConfig, rows: list[Example], tmp_path: Path) -> None:
    small, _ = train(
        config, rows, tmp_path / "a", micro_batch_size=1, gradient_accumulation_steps=8
    )
    large, _ = train(
        config, rows, tmp_path / "b", micro_batch_size=8, gradient_accumulation_steps=1
    )
    assert losses(small) == pytest.approx(losses(large), abs=1e-4)
    assert small.best.loss == pytest.approx(large.best.loss, abs=1e-4)


def test_plain_attention_trains_like_the_fused_kernel(
    config: ModelConfig, rows: list[Example], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, device = load_base(config), choose_device(config)
    with training_attention(base, device, 4, 200):
        assert base.config._attn_implementation == "blocks"
    assert base.config._attn_implementation == "sdpa"
    lora = LoraSettings(r=4, alpha=8, dropout=0.1)  # layers are fused without dropout only
    plain, _ = train(config, rows, tmp_path / "a", lora)
    monkeypatch.setattr(nutgraf.modeling.attention, "ATTENTION_SCORE_LIMIT", 0)
    with training_attention(base, device, 4, 200):
        assert base.config._attn_implementation == "sdpa"
    fused, _ = train(config, rows, tmp_path / "b", lora)
    assert losses(plain) == pytest.approx(losses(fused), abs=1e-4)


def test_the_loss_is_on_the_summary_alone(
    config: ModelConfig, rows: list[Example], renderer: Renderer
) -> None:
    """summary_losses, in padded batches, equals the plain definition row by row."""
    base, device = load_base(config), choose_device(config)
    row_losses = summary_losses(
        base, rows, load_tokenizer(config).pad_token_id, device, batch_size=7
    )
    for row, loss in zip(rows[:10], row_losses, strict=False):
        with torch.no_grad():
            logits = base(input_ids=torch.tensor([row.input_ids])).logits[0].log_softmax(-1)
        wanted = -sum(
            logits[i - 1, token].item()
            for i, token in enumerate(row.input_ids)
            if i >= row.prompt_tokens
        )
        assert loss.nll == pytest.approx(wanted, rel=1e-4)
        assert loss.tokens == len(row.input_ids) - row.prompt_tokens


def test_generation_in_a_padded_batch_is_generation_alone(
    config: ModelConfig, renderer: Renderer
) -> None:
    tokenizer, base, device = load_tokenizer(config), load_base(config), choose_device(config)
    prompts = [renderer.prompt("word " * n).ids for n in (3, 40, 11, 25)]
    settings = GenerateConfig(max_new_tokens=12, batch_size=4)
    together = dict(generate(base, tokenizer, prompts, settings, device))
    for index, ids in enumerate(prompts):
        ((_, alone),) = generate(base, tokenizer, [ids], settings, device)
        assert together[index] == alone


def test_evaluations_what_a_callback_may_do_and_how_it_goes_on(
    config: ModelConfig, rows: list[Example], tmp_path: Path
) -> None:
    seen: list[Evaluation] = []

    def stop_after_two(evaluation: Evaluation) -> None:
        seen.append(evaluation)
        if len(seen) == 2:
            raise KeyboardInterrupt

    with_samples = SETTINGS.model_copy(update={"samples": 2})
    a_job = job(config, rows, tmp_path / "a", settings=with_samples, on_eval=stop_after_two)
    few = GenerateConfig(max_new_tokens=12)
    a_job = replace(a_job, config=a_job.config.model_copy(update={"generate": few}))
    with pytest.raises(KeyboardInterrupt):
        fit_adapter(a_job)
    assert [e.examples for e in seen] == [16, 32]
    assert len(seen[0].rows) == 8
    assert "forward" not in load_base(config).__dict__
    # It goes on with fused layers too, and ends with the same bytes as one that was not stopped,
    # and that wrote no samples.
    done = fit_adapter(replace(a_job, on_eval=None))
    fit_adapter(job(config, rows, tmp_path / "b"))
    adapters = [tmp_path / name / "adapter_model.safetensors" for name in ("a", "b")]
    assert adapters[0].read_bytes() == adapters[1].read_bytes()
    assert not (tmp_path / "b.samples.json").exists()
    samples = json.loads((tmp_path / "a.samples.json").read_text())
    assert samples == done.history.samples.model_dump()
    assert [each["examples"] for each in samples["evaluations"]] == [16, 32, 48]
    first = samples["articles"][0]
    assert first["article"].startswith("On day 0 the council of town 0 met and spoke of roads. It")
    assert first["reference"] == "Town 0 talks."
    of_best = next(e for e in samples["evaluations"] if e["examples"] == done.best.examples)
    assert of_best["texts"] == what_it_writes(config, tmp_path / "a", rows[:2], few)


def what_it_writes(
    config: ModelConfig, adapter: Path, rows: list[Example], settings: GenerateConfig
) -> list[str]:
    """The summaries that a saved adapter writes of the rows' articles."""
    tokenizer = load_tokenizer(config)
    prompts = [row.input_ids[: row.prompt_tokens] for row in rows]
    with with_adapter(load_base(config), adapter) as model:
        written = generate_batch(model, tokenizer, prompts, settings, choose_device(config))
    return [summary_text(tokenizer, new.ids) for new in written]


def test_a_loss_that_is_not_a_number_ends_the_training_and_says_where(
    config: ModelConfig, rows: list[Example], tmp_path: Path
) -> None:
    with fresh_adapter(load_base(config), LoraSettings(r=4), 1) as model:
        weight = next(p for p in model.parameters() if p.requires_grad)
        weight.data.fill_(math.nan)
        a_job = job(config, rows, tmp_path / "a")
        with pytest.raises(Failure, match=r"the loss is nan at step 1, before the adapter"):
            fit(model, load_tokenizer(config), a_job, choose_device(config))


def test_order_depends_on_the_effective_batch_alone() -> None:
    lengths = [5, 9, 1, 7, 3, 8, 2, 6, 4, 10]
    rows = [Example(array("i", [n] * length), 1, 0) for n, length in enumerate(lengths)]

    def order_of(micro: int, seed: int) -> list[int]:
        settings = TrainConfig(
            max_examples=None, max_steps=5, seeds=(seed,),
            micro_batch_size=micro, gradient_accumulation_steps=4 // micro,
        )  # fmt: skip
        a_job = TrainingJob(Config(train=settings), rows, rows, Path("a"))
        return [row.ids[0] for row in a_job.ordered_rows]

    order = order_of(1, seed=1)
    assert order == order_of(4, seed=1)
    assert len(order) == 20
    assert sorted(order) == sorted(list(range(10)) * 2)  # two whole epochs
    for start in range(0, 20, 4):
        step = [lengths[i] for i in order[start : start + 4]]
        assert step == sorted(step, reverse=True)
    assert order != order_of(1, seed=2)


def test_only_the_rows_of_its_order_are_needed_and_the_result_is_that_of_all(
    config: ModelConfig, rows: list[Example], tmp_path: Path
) -> None:
    few = {"max_examples": 16, "eval_every": 8}
    order = draw_examples(len(rows[8:]), 16, SETTINGS.seed)
    some = Rows({i: rows[8:][i] for i in order}, len(rows[8:]))
    assert len(some.loaded) == 16 < len(some) == 32
    settings = SETTINGS.model_copy(update=few)
    every = job(config, rows, tmp_path / "all", settings=settings)
    fit_adapter(every)
    fit_adapter(replace(every, train=some, out=tmp_path / "some"))
    adapters = [tmp_path / name / "adapter_model.safetensors" for name in ("all", "some")]
    assert adapters[0].read_bytes() == adapters[1].read_bytes()


@pytest.mark.parametrize("budget", [{"max_examples": 50}, {"max_examples": None, "max_steps": 9}])
def test_the_rows_of_a_search_are_enough_for_each_of_its_trials(budget: dict[str, Any]) -> None:
    space: Space = {
        "train.micro_batch_size": Choices(choices=(1, 7, 3)),
        "train.gradient_accumulation_steps": Range(low=1, high=12),
    }
    drawn = draw_examples(1_000, max_examples_seen(TrainConfig(**budget), space), seed=4)
    for micro in (1, 3, 7):
        for accumulated in range(1, 13):
            trial = TrainConfig(
                **budget, micro_batch_size=micro, gradient_accumulation_steps=accumulated
            )
            assert (
                draw_examples(1_000, total_examples(trial), seed=4)
                == drawn[: total_examples(trial)]
            )


@pytest.mark.parametrize(("micro", "accumulation"), [(1, 4), (4, 1), (4, 2), (4, 4), (1, 16)])
def test_equal_budgets(micro: int, accumulation: int) -> None:
    settings = SETTINGS.model_copy(
        update={
            "max_examples": 800,
            "eval_every": 200,
            "micro_batch_size": micro,
            "gradient_accumulation_steps": accumulation,
        }
    )
    batch = micro * accumulation
    assert total_steps(settings) * batch == 800
    seen = [step * batch for step in evaluation_steps(settings)]
    assert len(seen) == 4
    assert all(abs(n - 200 * k) < batch for k, n in enumerate(seen, 1))
    assert seen[-1] == 800


def test_max_steps_is_an_alternative_budget() -> None:
    settings = TrainConfig(max_examples=None, max_steps=25, micro_batch_size=1)
    assert total_steps(settings) == 25
