"""Settings that are unusual, and what each costs: a table of condition and sentence."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from nutgraf.config import Config
from nutgraf.config.load import replace_settings
from nutgraf.core.units import duration, memory
from nutgraf.planning import memory as footprint
from nutgraf.planning.duration import Plan
from nutgraf.planning.memory import RowLengths
from nutgraf.training.budget import at_once, effective_batch_size, evaluation_steps, total_steps

# ROUGE-1 of single summaries of CNN/DailyMail differs by so much (standard deviation): 20 articles
# give a 95% interval of ±5.4 points (configs/original-notebook.yaml).
SPREAD = 12.3


@dataclass(frozen=True)
class Case:
    """A configuration with its plan."""

    config: Config
    plan: Plan

    def training(self, rows: RowLengths | None = None, **changes: object) -> int:
        """Most bytes of a training with `changes` to the configuration, as section__field."""
        config = replace_settings(
            self.config, {name.replace("__", "."): value for name, value in changes.items()}
        )
        plan = self.plan
        return round(footprint.training_bytes(config, plan.shape, rows or plan.rows, plan.machine))

    def seconds(self, stage: str) -> float:
        return next(found.seconds for found in self.plan.stages if found.name == stage)


def settings_advice(config: Config) -> Iterator[str]:
    """What can be said from the settings alone, a line each: `setting value: what it costs`."""
    for name, holds, sentence in SETTINGS:
        if holds(config):
            yield _line(config, name, sentence(config))


def cost_advice(config: Config, plan: Plan) -> Iterator[str]:
    """What takes the plan to say."""
    case = Case(config, plan)
    for name, holds, sentence in COSTS:
        if holds(case):
            yield _line(config, name, sentence(case))


def _line(config: Config, name: str, sentence: str) -> str:
    section, field = name.split(".")
    value = getattr(getattr(config, section), field)
    shown = list(value) if isinstance(value, tuple) else value
    return f"{name} {shown}: {sentence}"


Rule = tuple[str, Callable[[Config], bool], Callable[[Config], str]]

SETTINGS: tuple[Rule, ...] = (
    (
        "data.test_examples",
        lambda c: c.data.test_examples is not None and c.data.test_examples < 100,
        lambda c: f"the 95% interval of a mean ROUGE-1 is about ±{_interval(c):.1f} points",
    ),
    (
        "data.train_examples",
        lambda c: c.data.train_examples is not None and _seen(c) > 1.05 * c.data.train_examples,
        lambda c: f"each article is seen {_seen(c) / (c.data.train_examples or 1):.1f} times",
    ),
    (
        "train.eval_every",
        lambda c: len(evaluation_steps(c.train)) <= c.search.grace_evaluations,
        lambda c: f"{len(evaluation_steps(c.train))} evaluation of each trial, so none is stopped "
        f"early: the search costs {c.search.trials} whole trainings",
    ),
    (
        "search.concurrent",
        lambda c: at_once(c.search) < c.search.concurrent,
        lambda c: f"with {c.search.cpus_per_trial:g} cores a trial, {at_once(c.search)} at a time "
        "run here",
    ),
    (
        "generate.num_beams",
        lambda c: c.generate.num_beams > 1,
        lambda c: f"writing takes about {c.generate.num_beams} times as long as greedily, with "
        f"{c.generate.num_beams} times the cache",
    ),
)  # fmt: skip


def _interval(config: Config) -> float:
    return 1.96 * SPREAD / math.sqrt(config.data.test_examples or math.inf)


def _seen(config: Config) -> int:
    return total_steps(config.train) * effective_batch_size(config.train)


CostRule = tuple[str, Callable[[Case], bool], Callable[[Case], str]]

COSTS: tuple[CostRule, ...] = (
    (
        "train.seeds",
        lambda c: len(c.config.train.seeds) == 1,
        lambda c: "the spread between trainings stays unknown; a further seed costs about "
        f"{duration(c.seconds('train') + c.seconds('generate') / 2)}",
    ),
    (
        "prompt.max_tokens",
        lambda c: c.plan.rows.longest_row > 1024,
        lambda c: f"the longest row has {c.plan.rows.longest_row:,} tokens and a training holds "
        f"{memory(c.training())}; with 1,024 it would hold {memory(_shorter(c))}",
    ),
    (
        "train.micro_batch_size",
        lambda c: c.config.train.micro_batch_size == 1 and c.plan.machine.device == "cuda",
        lambda c: "one row at a time leaves a GPU mostly idle; 4 rows take "
        f"{memory(c.training(train__micro_batch_size=4))} of {memory(c.plan.machine.free)}",
    ),
    (
        "train.activation_checkpointing",
        lambda c: c.config.train.activation_checkpointing and _kept(c) < c.plan.machine.free,
        lambda c: f"about 20% slower; without it a training holds {memory(_kept(c))} in place of "
        f"{memory(c.training())}, and {memory(c.plan.machine.free)} are free",
    ),
    (
        "model.quantization",
        lambda c: c.config.model.quantization == "nf4" and c.plan.machine.device == "cpu",
        lambda c: f"a training holds {memory(c.training())} in place of "
        f"{memory(c.training(model__quantization='none'))}, and on a CPU each product unpacks its "
        "weights first",
    ),
    (
        "lora.r",
        lambda c: c.config.lora.r >= 128,
        lambda c: f"{c.plan.shape.adapter / 1e6:,.1f} million weights in an adapter, "
        f"{memory(footprint.ADAPTER * c.plan.shape.adapter)} with gradients and moments",
    ),
    (
        "generate.max_new_tokens",
        lambda c: c.config.generate.max_new_tokens < c.plan.rows.longest_summary,
        lambda c: f"references have up to {c.plan.rows.longest_summary} tokens: summaries as long "
        "as those are cut",
    ),
)  # fmt: skip


def _kept(case: Case) -> int:
    return case.training(train__activation_checkpointing=False)


def _shorter(case: Case) -> int:
    rows = RowLengths(**{name: min(size, 1024) for name, size in vars(case.plan.rows).items()})
    return case.training(rows)
