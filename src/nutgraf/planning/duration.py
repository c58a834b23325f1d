"""How long a study takes, in seconds a stage: arithmetic from budget, shape, lengths and speeds.

The stages are counted as they run: processes that start, trials at a time and stopped early,
evaluations, trainings side by side, batches of summaries. Speeds come from `measurement`; every
other assumption is a name here with its source.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from nutgraf.config import Config, TrainConfig
from nutgraf.config.systems import EXTRACTS, MODELS, seed_repeats, system_names
from nutgraf.core.units import duration, memory
from nutgraf.modeling.dims import ModelDims
from nutgraf.planning import memory as footprint
from nutgraf.planning.memory import Machine, RowLengths
from nutgraf.search.halving import Course, Halving
from nutgraf.training.budget import at_once, effective_batch_size, evaluation_steps, total_steps

# Seconds, measured on two cores of an AMD EPYC (docs/benchmarks.md, Planner).
IMPORTS = 8.0  # until a new process has torch, transformers, peft and trl
RAY = 8.0  # to start and to end Ray
STARTS = 1.0  # of a training before its first step and after its last
FIGURES = 3.4  # to draw figures and write the report
TABLES = 0.7  # of the comparison, apart from its bootstrap
# A second, of one process, on the same machine (docs/benchmarks.md, Scoring).
PAIRS = 570  # summaries scored with ROUGE
LOOKED = 1_100  # articles looked through, once for all summaries of each
JUDGED = 1_350  # summaries looked through for indicators
EXTRACTED = 1_000  # articles gone through by TextRank or the oracle
DRAWS = 1e8  # articles drawn by the bootstrap
READ = 5e8  # bytes of weights loaded: an estimate
SCORED_ALONE = 600  # summaries that a second process is started for (stages.score)
# An adapter's small products make a step of writing longer: the base takes this share of it
# (100 summaries: 5.9 s with merged weights, 7.4 s with the adapter; docs/log.md).
WITHOUT_ADAPTER = 0.8
LUCK = 400  # trials of searches that are played through to know how many are stopped early


@dataclass(frozen=True)
class Speed:
    """Of one training: operations a second in its steps, and in the passes of its evaluations."""

    training: float
    reading: float
    saving: float
    """Seconds that a checkpoint takes, one after each evaluation."""


@dataclass(frozen=True)
class Speeds:
    """What `measurement` found."""

    trial: Speed
    """Of a trial of the search, beside as many others as run at a time."""
    alone: Speed
    """Of the trainings of baseline and best, as many at a time as the stage runs."""
    looking: float
    """Operations a second in which losses of given summaries are found, with all cores."""
    reading: float
    """Operations a second in which prompts are read, with all cores."""
    token: float
    """Seconds in which a full batch of summaries gets one more token."""
    measured_on: str
    """What was measured, in words."""


@dataclass(frozen=True)
class Stage:
    """What is predicted of a stage."""

    name: str
    seconds: float
    """In which its artefacts are made, as their manifests count them."""
    starting: float = 0.0
    """Before that, until its processes have started."""
    memory: float | None = None
    """Most bytes on the device; None where no model is held."""
    artefacts: int = 1
    """How many it makes."""
    by_luck: tuple[float, float] | None = None
    """Seconds with good and with bad luck, of a stage that depends on it: eight of ten between."""


@dataclass(frozen=True)
class Plan:
    """A prediction with what it was made from."""

    shape: ModelDims
    rows: RowLengths
    machine: Machine
    speeds: Speeds
    measuring: float
    """Seconds that measuring the speeds took."""
    stages: list[Stage]
    training_bytes: int
    """Most memory of one training."""

    def record(self, made: float) -> dict[str, Any]:
        """As a JSON object; `made` is when the plan was made, in seconds since 1970."""
        return {"made": made, **asdict(self)}

    def __str__(self) -> str:
        """What is still to come when the search begins, on one line."""
        coming = [stage for stage in self.stages if stage.name != "prepare"]
        told = ", ".join(f"{stage.name} {duration(stage.seconds)}" for stage in coming)
        together = duration(sum(stage.starting + stage.seconds for stage in coming))
        return (
            f"planned: {told}, together {together}; a training holds {memory(self.training_bytes)}"
        )


def plan_study(
    config: Config,
    shape: ModelDims,
    rows: RowLengths,
    machine: Machine,
    speeds: Speeds,
    articles: Mapping[str, int],
    measuring: float,
    preparing: float,
) -> Plan:
    """The plan of a study of so many `articles` by split; `preparing` is seconds an article."""
    held = footprint.bytes_by_stage(config, shape, rows, machine)
    trainings = 2 * len(config.train.seeds)
    beside = min(at_once(config.search), trainings) > 1
    n, systems = (
        articles["test"],
        len(system_names(config.rivals)) + len(seed_repeats(config.train.seeds)),
    )
    search, *luck = (measuring + took for took in _search(config, shape, rows, speeds))
    seconds = {
        "prepare": sum(articles.values()) * preparing,
        "search": search,
        "train": _train(config, shape, rows, speeds),
        "generate": _generate(config, shape, rows, n, speeds),
        "score": _scored(n, systems, machine.cores),
        "compare": TABLES + _compared(config, n, systems),
        "report": FIGURES,
    }
    starting = {"prepare": IMPORTS, "train": IMPORTS if beside else 0.0}
    makes = {"train": trainings, "generate": systems, "score": systems, "compare": 2}
    stages = [
        Stage(
            name,
            took,
            starting.get(name, 0.0),
            held.get(name),
            makes.get(name, 1),
            (luck[0], luck[1]) if name == "search" else None,
        )
        for name, took in seconds.items()
    ]
    training = round(footprint.training_bytes(config, shape, rows, machine))
    return Plan(shape, rows, machine, speeds, measuring, stages, training)


def work(shape: ModelDims, rows: float, tokens: float, told: float) -> float:
    """Operations of a forward pass over `rows` rows of `tokens` tokens, with the output layer for
    `told` tokens of each: two a weight, and two products of each token with those before it."""
    attention = 4 * tokens * shape.query_width * shape.layers
    layers = 2 * (shape.linear + shape.adapter) + attention
    return rows * (tokens * layers + told * 2 * shape.vocabulary * shape.width)


def passes(settings: TrainConfig) -> int:
    """Forward passes that a training step costs: itself, the gradients of what goes through (the
    frozen weights have none of their own), and itself again where activations are recomputed."""
    return 3 if settings.activation_checkpointing else 2


def training_seconds(
    settings: TrainConfig, shape: ModelDims, rows: RowLengths, speed: Speed
) -> float:
    """Return the seconds of one training to its end, with its evaluations."""
    seen = total_steps(settings) * effective_batch_size(settings)
    learned = passes(settings) * work(shape, seen, rows.row, rows.summary)
    looked = work(shape, settings.eval_examples, rows.row, rows.summary)
    evaluation = looked / speed.reading + speed.saving
    return learned / speed.training + len(evaluation_steps(settings)) * evaluation


@dataclass(frozen=True)
class Played:
    """How searches go in which trials of random quality are stopped by the rule of `halving`: their
    length in whole trainings, of the median one and of the tenth from either end of a hundred."""

    usual: float
    short: float
    long: float


def played(config: Config) -> Played:
    """Searches with the configuration's settings, played through with the luck of a fixed seed."""
    evaluations, trials = len(evaluation_steps(config.train)), config.search.trials
    draw = random.Random(0)
    found = []
    for _ in range(max(5, LUCK // trials)):
        losses = list(range(trials))
        draw.shuffle(losses)
        found.append(_one_search(losses, config, evaluations))
    lengths = sorted(ticks / evaluations for ticks in found)
    usual, short, long = (lengths[round(q * (len(lengths) - 1))] for q in (0.5, 0.1, 0.9))
    return Played(usual, short, long)


def _one_search(losses: list[int], config: Config, evaluations: int) -> int:
    """Return the ticks, of one evaluation each, of a search if each trial keeps its loss."""
    search = config.search
    together = min(search.concurrent, search.trials)
    rule = Halving(search.grace_evaluations, search.reduction_factor, together)
    courses: dict[int, Course] = {}
    running: list[int] = []
    ticks = 0
    while len(courses) < len(losses) or running:
        while len(courses) < len(losses) and len(running) < at_once(search):
            running.append(len(courses) + 1)
            courses[running[-1]] = Course((), evaluations, False)
        ticks += 1
        for number in running:
            known = (*courses[number].losses, losses[number - 1])
            courses[number] = Course(known, evaluations, len(known) == evaluations)
        verdicts = rule.judge(courses)
        running = [n for n in running if verdicts[n].stop is None and not courses[n].ended]
    return ticks


def _search(
    config: Config, shape: ModelDims, rows: RowLengths, speeds: Speeds
) -> tuple[float, float, float]:
    """Seconds of the usual search, and of one with good and one with bad luck."""
    whole = training_seconds(config.train, shape, rows, speeds.trial)
    luck = played(config)
    rounds = math.ceil(config.search.trials / at_once(config.search))
    sample = config.search.rouge_examples
    judged = config.search.trials * (_written(config, shape, rows, sample, speeds) + sample / PAIRS)
    loaded = 2 * _loaded(shape)  # by the trials, then by the process that measures ROUGE
    beside = RAY + IMPORTS + loaded + rounds * STARTS + judged
    return (
        beside + luck.usual * whole,
        beside + luck.short * whole,
        beside + luck.long * whole,
    )


def _train(config: Config, shape: ModelDims, rows: RowLengths, speeds: Speeds) -> float:
    trainings = 2 * len(config.train.seeds)
    rounds = math.ceil(trainings / min(at_once(config.search), trainings))
    one = training_seconds(config.train, shape, rows, speeds.alone) + STARTS
    return _loaded(shape) + rounds * one


def _generate(config: Config, shape: ModelDims, rows: RowLengths, n: int, speeds: Speeds) -> float:
    models = len(MODELS) + len(seed_repeats(config.train.seeds))
    with_adapter = _written(config, shape, rows, n, speeds)
    losses = work(shape, n, rows.row, rows.summary) / speeds.looking
    extracts = len(EXTRACTS) * n / EXTRACTED
    written = (models - 1 + WITHOUT_ADAPTER) * with_adapter
    return _loaded(shape) + written + models * losses + extracts


def _written(config: Config, shape: ModelDims, rows: RowLengths, n: int, speeds: Speeds) -> float:
    """Seconds in which a model with an adapter writes n summaries.

    A batch goes on until the last of its summaries ends, which is taken to be the limit.
    """
    settings = config.generate
    read = work(shape, n, rows.prompt, 0) / speeds.reading
    batches = n / settings.batch_size if n > settings.batch_size else 1
    return read + batches * settings.max_new_tokens * speeds.token


def _scored(n: int, systems: int, cores: int) -> float:
    """Seconds in which `n` articles are scored with their summaries by all systems."""
    each = 1 / LOOKED + systems * (1 / PAIRS + 1 / JUDGED)
    return n * each / min(cores, math.ceil(n * systems / SCORED_ALONE))


def _compared(config: Config, n: int, systems: int) -> float:
    """Bootstraps of four figures a system, and of differences between best and the others."""
    resampled = 4 * systems + 3 * (systems - 2)
    return n * (1 / LOOKED + 1 / JUDGED) + resampled * config.score.resamples * n / DRAWS


def _loaded(shape: ModelDims) -> float:
    return 2 * (shape.linear + shape.other) / READ
