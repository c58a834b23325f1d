"""Predict how many seconds each stage of a study takes.

The stages are counted as they run: processes that start, parallel trials of which some are stopped
early, evaluations, parallel trainings, batches of summaries. Speeds come from `benchmark`; every
other assumption is a constant here with its source.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from nutgraf.config import Config
from nutgraf.config.systems import (
    EXTRACTIVE_SYSTEMS,
    compared_pairs,
    fits_choice,
    measured_systems,
    trained_models,
)
from nutgraf.core.units import duration, memory
from nutgraf.modeling.dims import ModelDims
from nutgraf.planning.memory import (
    Machine,
    RowLengths,
    bytes_by_stage,
    first_trainings,
    training_bytes,
)
from nutgraf.planning.simulation import simulate_searches
from nutgraf.planning.speeds import (
    ROUGE_RATE,
    TRAINING_SECONDS,
    Speeds,
    candidate_seconds,
    choice_seconds,
    facts_seconds,
    forward_operations,
    generation_seconds,
    round_seconds,
    samples_seconds,
    training_seconds,
)

# Seconds, measured on two cores of an AMD EPYC (docs/benchmarks.md, Planner).
IMPORT_SECONDS = 8.0  # until a new process has torch, transformers, peft and trl
RAY_SECONDS = 8.0  # to start and to end Ray
REPORT_SECONDS = 3.4  # to draw figures and write the report
COMPARISON_SECONDS = 0.7  # apart from its bootstrap
# A second, of one process, on the same machine (docs/benchmarks.md, Scoring).
ARTICLE_RATE = 1_100  # articles analysed, once for all summaries of each
INDICATOR_RATE = 1_350  # summaries searched for indicators of errors
EXTRACT_RATE = 1_000  # articles summarized by TextRank or the oracle
BOOTSTRAP_RATE = 1e8  # articles drawn by the bootstrap
LOAD_RATE = 5e8  # bytes of weights loaded: an estimate
SUMMARIES_PER_PROCESS = 600  # whose scores take about as long as starting a process
# An adapter's small products make a step of generation longer: a model with merged weights takes
# this share (100 summaries: 5.9 s with merged weights, 7.4 s with the adapter; docs/log.md).
MERGED_SHARE = 0.8
BUSY_CORES = 0.25  # that other programs use, from which on a plan says so


@dataclass(frozen=True)
class Stage:
    """The prediction for one stage."""

    name: str
    seconds: float  # in which its artefacts are made, as their manifests count them
    starting: float = 0.0  # seconds before that, until its processes have started
    memory: float | None = None  # peak bytes on the device; None if it loads no model
    artefacts: int = 1
    by_luck: tuple[float, float] | None = None  # 10th and 90th percentile of the seconds


@dataclass(frozen=True)
class Plan:
    """A prediction with what it is based on; its fields are the keys of search/plan.json."""

    shape: ModelDims
    rows: RowLengths
    machine: Machine
    speeds: Speeds
    measuring: float  # seconds that measuring the speeds took
    stages: list[Stage]
    training_bytes: int  # at the peak of one training

    def record(self, time: float) -> dict[str, Any]:
        """Return a JSON object; `time` is when it was planned, in seconds since 1970."""
        return {"made": time, **asdict(self)}

    @property
    def busy(self) -> str | None:
        """The line about other programs, if they used much of the machine meanwhile."""
        others = self.speeds.others
        if others < BUSY_CORES:
            return None
        return (
            f"this machine is busy: other programs used {others:.1f} of {os.cpu_count()} cores. "
            "The plan is for a quiet machine and less exact than one made there; beside them a "
            "study takes longer, as it lets them go first"
        )

    def __str__(self) -> str:
        """Return what is still to come when the search begins, on one line."""
        coming = [stage for stage in self.stages if stage.name != "prepare"]
        seconds = ", ".join(f"{stage.name} {duration(stage.seconds)}" for stage in coming)
        total = duration(sum(stage.starting + stage.seconds for stage in coming))
        return f"planned: {seconds}, together {total}; a training holds " + memory(
            self.training_bytes
        )


def plan_study(
    config: Config,
    dims: ModelDims,
    rows: RowLengths,
    machine: Machine,
    speeds: Speeds,
    articles: Mapping[str, int],
    measuring: float,
    preparing: float,
) -> Plan:
    """Return the plan of a study.

    Args:
        config: The study's settings.
        dims: Dimensions of its model.
        rows: Lengths of its training rows.
        machine: The device that it would run on.
        speeds: Speeds measured there.
        articles: Number of articles by split.
        measuring: Seconds that measuring the speeds took.
        preparing: Seconds to prepare one article.
    """
    peaks = bytes_by_stage(config, dims, rows, machine)
    trained, n = trained_models(config), articles["test"]
    first, systems = first_trainings(config), len(measured_systems(config))
    rounds = len(trained) - first
    trainings = first - 1  # the best model with the first seed is a trial of the search
    models = 1 + len(trained)
    load = 2 * (dims.linear + dims.other) / LOAD_RATE
    trials, parallel = config.search.trials, config.search.parallel_trials

    sample = config.search.rouge_examples
    rouge = trials * (generation_seconds(config, dims, rows, sample, speeds) + sample / ROUGE_RATE)
    # The base is loaded by the trials, then by the process that measures ROUGE.
    around = measuring + RAY_SECONDS + IMPORT_SECONDS + 2 * load
    around += math.ceil(trials / parallel) * TRAINING_SECONDS + rouge
    samples = samples_seconds(config, dims, rows, speeds)
    trial = training_seconds(config.train, dims, rows, speeds.trial) + samples
    search, *luck = (around + length * trial for length in simulate_searches(config))

    at_a_time = min(parallel, trainings)
    # Even one training has a process of its own then; `auto` may still choose to pack them.
    in_processes = parallel > 1 and config.search.together != "on"
    training = training_seconds(config.train, dims, rows, speeds.alone) + TRAINING_SECONDS
    training += samples
    generated = generation_seconds(config, dims, rows, n, speeds) * (models - 1 + MERGED_SHARE)
    generated += candidate_seconds(config, dims, n, speeds)
    generated += choice_seconds(config, dims, rows, speeds, articles["train"])
    # A CPU without beams reads a prompt once, for the summary and for the loss of its reference.
    once = machine.device == "cpu" and config.generate.num_beams == 1
    tokens = rows.summary if once else rows.row
    losses = models * forward_operations(dims, n, tokens, rows.summary) / speeds.looking
    scored = n * (1 / ARTICLE_RATE + systems * (1 / ROUGE_RATE + 1 / INDICATOR_RATE))
    # Bootstraps of four figures a system, and of differences between systems.
    draws = (4 * systems + 3 * len(compared_pairs(config))) * config.score.resamples * n
    analysed = n * (1 / ARTICLE_RATE + 1 / INDICATOR_RATE)
    processes = min(machine.cores, math.ceil(n * systems / SUMMARIES_PER_PROCESS))
    facts, reads = facts_seconds(config, dims, rows, n, speeds), config.facts.articles > 0
    stages = [
        Stage("prepare", sum(articles.values()) * preparing, IMPORT_SECONDS),
        Stage("search", search, by_luck=(luck[0], luck[1]), memory=peaks["search"]),
        Stage(
            "train",
            load
            + math.ceil(trainings / at_a_time) * training
            + rounds * round_seconds(config, dims, rows, speeds, articles["train"]),
            IMPORT_SECONDS if in_processes else 0.0,
            peaks["train"],
            len(trained),
        ),
        Stage(
            "generate",
            load + generated + losses + len(EXTRACTIVE_SYSTEMS) * n / EXTRACT_RATE,
            memory=peaks["generate"],
            artefacts=systems + fits_choice(config),
        ),
        Stage(
            "score",
            scored / processes + reads * load + facts,
            memory=peaks.get("score"),
            artefacts=systems + reads,
        ),
        Stage("compare", COMPARISON_SECONDS + analysed + draws / BOOTSTRAP_RATE, artefacts=2),
        Stage("report", REPORT_SECONDS),
    ]
    peak = round(training_bytes(config, dims, rows, machine))
    return Plan(dims, rows, machine, speeds, measuring, stages, peak)
