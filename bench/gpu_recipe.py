"""The parts of bench/gpu.py about the recipe, number formats, and the plan."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import recipe
from gpu_bench import WARM, Bench, free
from levers import LEVERS
from rows import read_pairs

from nutgraf.config import Config
from nutgraf.config.load import with_overrides
from nutgraf.core.errors import Failure, one_line
from nutgraf.data.prompts import Renderer
from nutgraf.evaluation.bootstrap import bootstrap
from nutgraf.evaluation.significance import paired_difference
from nutgraf.generation.decoding import generate
from nutgraf.modeling.adapters import fresh_adapter
from nutgraf.modeling.load import choose_device, load_base, load_tokenizer
from nutgraf.planning import speeds
from nutgraf.planning.benchmark import forecast
from nutgraf.training.job import TrainingJob
from nutgraf.training.packed.loop import fit_packed

T4 = {"model.quantization": "nf4", "train.activation_checkpointing": True}
SEEDS = {"baseline": 1, "seed 2": 2, "seed 3": 3}  # levers of bench/recipe.py
SWEEP = (
    "learning rate 2e-3", "learning rate 4e-4", "alpha 64", "r 64, alpha 128", "LoRA+, B 16 times",
    "1,024 tokens", "736 tokens", "batch of 8", "dropout 0.1", "cosine", "weight decay 0.1",
    "supported references only", "answerable references only", "whole sentences", "4 beams",
)  # fmt: skip


class Recipe:
    """bench/recipe.py on all real articles: what it measures, and where."""

    def __init__(self, bench: Bench) -> None:
        sizes, self.report = bench.sizes, bench.report
        if not bench.rehearsing and not bench.articles:
            raise Failure("real articles are needed: --articles FILE.parquet")
        pairs = read_pairs(
            str(bench.articles) if bench.articles and not bench.rehearsing else None,
            sizes.recipe + sizes.held_out,
        )
        rows = pd.DataFrame(pairs, columns=["article", "highlights"]).sample(frac=1, random_state=1)
        self.held_out, self.training = rows[-sizes.held_out :], rows[: -sizes.held_out]
        self.arguments = recipe.Arguments(
            config=Path(sizes.config), examples=min(sizes.recipe, len(self.training))
        )
        self.out = bench.report.path.with_suffix("")
        self.sizes = sizes

    def config(self, name: str) -> Config:
        """Return the configuration of a lever."""
        config = self.arguments.config_of(LEVERS[name], SEEDS.get(name, 1))
        unmeasured = {"train.samples": 0}  # to read while a training goes on
        return with_overrides(config, {"generate.batch_size": self.sizes.held_out} | unmeasured)

    def train_together(self, names: Sequence[str]) -> None:
        """Train levers that differ in settings of the training alone, in one process."""
        config = self.config(names[0])
        renderer = Renderer(load_tokenizer(config.model), config.prompt)
        rows, validation = (
            [*map(renderer.example, part["article"], part["highlights"])]
            for part in (self.training, self.held_out)
        )
        jobs = [
            TrainingJob(self.config(name), rows, validation, self.out / name / "adapter", name)
            for name in names
        ]
        started = time.perf_counter()
        results = fit_packed(jobs)
        seconds = time.perf_counter() - started
        for name, result in zip(names, results, strict=True):
            if isinstance(result, Exception):
                self.report.record("note", f"{name} is trained alone: {one_line(result, 200)}")
                continue
            record = {"loss": result.best.loss, "training_seconds": seconds}
            (self.out / name / "training.json").write_text(json.dumps(record))

    def measure(self, name: str) -> None:
        """Train if that is not done, write and score the held-out articles, and report."""
        with contextlib.redirect_stdout(sys.stderr):  # its row stands in a table of its own
            recipe.measure(
                name, LEVERS[name], self.config(name), self.training, self.held_out, self.out
            )
        record = json.loads((self.out / f"{name}.json").read_text("utf-8"))
        scores = np.array(record["scores"])
        base = json.loads((self.out / "baseline.json").read_text("utf-8"))["scores"]
        means = (bootstrap(scores[:, i], 10_000, seed=1) for i in range(3))
        intervals = [f"{ends.mean:.2f} ({ends.low:.2f} to {ends.high:.2f})" for ends in means]
        d = paired_difference(scores[:, 2], np.array(base)[:, 2], resamples=10_000, seed=1)
        self.report.add(
            what=name,
            n=len(scores),
            **dict(zip(("ROUGE_1", "ROUGE_2", "ROUGE_Lsum"), intervals, strict=True)),
            Lsum_against_the_baseline=f"{d.mean:+.2f} ({d.low:+.2f} to {d.high:+.2f})",
            loss=record["loss"],
            words=record["words"],
            training_s=record["training_seconds"],
            writing_s=record["writing_seconds"],
        )


def seeds(bench: Bench) -> None:
    """Measure the recipe with three seeds, which are trained together."""
    runs = Recipe(bench)
    runs.train_together(list(SEEDS))
    for name in SEEDS:
        runs.measure(name)


def sweep(bench: Bench) -> None:
    """Levers of the recipe one by one, while there is time."""
    runs, seconds = Recipe(bench), 0.0
    names = [] if (runs.out / "baseline.json").exists() else ["baseline"]
    for name in (*names, *(SWEEP[-2:] if bench.rehearsing else SWEEP)):
        if not bench.fits(1.2 * seconds, name):
            break
        started = time.perf_counter()
        runs.measure(name)
        seconds = max(seconds, time.perf_counter() - started)


def fp16(bench: Bench) -> None:
    """fp16 beside bf16, same rows and same adapter; and what a T4 would be set to."""
    sizes = bench.sizes
    rows = bench.rows(read_pairs(None, sizes.curve), "pocket")
    usual, other = sizes.formats
    curves = {}
    for what, dtype, seed in (
        (usual, usual, 1), (other, other, 1), (f"{usual}, another seed", usual, 2)
    ):  # fmt: skip
        settings = {
            "model.dtype": dtype,
            "train.seeds": [seed],
            "train.eval_every": sizes.curve,
            "train.max_steps": max(WARM + 1, sizes.curve // 8),
        }
        config = bench.config("pocket", 4, min(8, sizes.curve), **settings)
        cost, result = bench.fit(config, rows)
        losses = [row.train_loss for row in result.history.rows]
        curves[what] = np.array([loss for loss in losses if loss is not None])
        bench.report.add(
            what=what,
            first_loss=float(curves[what][0]),
            last_loss=float(curves[what][-1]),
            validation_loss=result.best.loss,
            loss_from_the_first=float(np.abs(curves[what] - curves[usual]).mean()),
            articles_a_second=cost.rate,
        )
        free()
    what = f"settings of a T4 (NF4, {other}, activations computed twice)"
    with bench.attempt(what):
        base = bench.base(bench.large)
        config = bench.config(base, 8, **T4, **{"model.dtype": other})
        cost, _ = bench.fit(config, bench.rows(bench.pairs(16), base))
        bench.add_cost(what, cost, base, 8)


def planned(bench: Bench) -> None:
    """Measure what `nutgraf check` plans, beside what was measured."""
    for name, (micro, settings) in {bench.large: (8, T4), bench.small: (4, {})}.items():
        with bench.attempt(f"the plan of {name}"):
            _planned(bench, name, micro, settings)


def _planned(bench: Bench, name: str, micro: int, settings: dict[str, Any]) -> None:
    n, base = bench.sizes.new_tokens, bench.base(name)
    rows = bench.rows(bench.pairs(16), base)
    prompts = [row.input_ids[: row.prompt_tokens] for row in rows]
    written = {"max_new_tokens": n, "min_new_tokens": n - 1, "batch_size": len(prompts)}
    settings = settings | {f"generate.{name}": value for name, value in written.items()}
    config = bench.config(base, micro, **settings, **{"search.concurrent": 1})
    plan = forecast(config, rows, prompts, dict.fromkeys(("train", "validation", "test"), 16))
    free()
    training = speeds.training_seconds(config.train, plan.shape, plan.rows, plan.speeds.alone)
    _, result = bench.fit(config, rows)
    history = result.history
    _beside_plan(bench, f"{name}, training, s", training, history.seconds)
    peak = history.peak_memory_bytes / 1e9
    _beside_plan(bench, f"{name}, training, GB", plan.training_bytes / 1e9, peak)
    writing = speeds.generation_seconds(config, plan.shape, plan.rows, len(prompts), plan.speeds)
    device, tokenizer = choose_device(config.model), load_tokenizer(config.model)
    with fresh_adapter(load_base(config.model), config.lora, seed=1) as adapted:
        adapted.eval()
        started = time.perf_counter()
        list(generate(adapted, tokenizer, prompts, config.generate, device))
    took = time.perf_counter() - started
    _beside_plan(bench, f"{name}, {len(prompts)} summaries, s", writing, took)


def _beside_plan(bench: Bench, what: str, planned: float, measured: float) -> None:
    bench.report.add(what=what, planned=planned, measured=measured, times=measured / planned)
