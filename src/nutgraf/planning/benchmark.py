"""Plan a study from speeds that are measured on this machine in a few seconds."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import psutil
import torch

from nutgraf.config import Config
from nutgraf.config.load import with_overrides
from nutgraf.data.examples import Example
from nutgraf.modeling.dims import ModelDims
from nutgraf.modeling.load import Device, choose_device
from nutgraf.modeling.shape import read_dims
from nutgraf.planning.duration import (
    BUSY_CORES,
    Plan,
    plan_study,
)
from nutgraf.planning.measuring import STEPS, Benchmark, open_benchmark
from nutgraf.planning.memory import Machine, RowLengths, row_lengths
from nutgraf.planning.speeds import Speed, Speeds, forward_operations, forward_passes
from nutgraf.training.budget import worth_measuring
from nutgraf.training.job import TrainingJob

# n threads are as fast as one, times n to the power of this: two 1.8 times. Two train the pocket
# model 1.62 and 1.66 times as fast, SmolLM2 about twice (docs/log.md); for more it is an estimate.
THREADS_GAIN = 0.85
WORTH = 10  # a search is planned if it trains on so many times the measured articles


def worth_planning(config: Config) -> bool:
    """Return whether the search of a study takes long enough to be planned."""
    return worth_measuring(config, STEPS * config.train.micro_batch_size, WORTH)


def forecast(
    config: Config,
    rows: Sequence[Example],
    prompts: Sequence[Sequence[int]],
    articles: Mapping[str, int],
    lengths: RowLengths | None = None,
    preparing: float = 0.0,
) -> Plan:
    """Return the plan of a study, with speeds measured in a few seconds.

    Args:
        config: The study's settings.
        rows: Training rows to measure with.
        prompts: Prompts to measure with, as token ids.
        articles: Number of articles by split.
        lengths: Lengths of the study's rows, if they differ from those of `rows`.
        preparing: Seconds to prepare one article.

    Raises:
        UserError: for a device that is missing, and for layers that the base lacks.
    """
    device = choose_device(config.model)
    free = (
        torch.cuda.mem_get_info()[0] if device.name == "cuda" else psutil.virtual_memory().available
    )
    machine = Machine(device.name, device.dtype != torch.float32, torch.get_num_threads(), free)
    searched = with_overrides(config, config.search.largest("lora.r"))
    dims = read_dims(config.model, searched.lora)
    if lengths is None:
        lengths = row_lengths([(len(row.ids), row.prompt_tokens) for row in rows])
        lengths = replace(lengths, padded=_padded(config, rows))
    started = time.perf_counter()
    speeds = measure_speeds(config, dims, rows, prompts, device)
    seconds = time.perf_counter() - started
    return plan_study(config, dims, lengths, machine, speeds, articles, seconds, preparing)


def _padded(config: Config, rows: Sequence[Example]) -> float:
    """Return the mean tokens of a row as it is trained on: padded to the longest beside it."""
    ordered = TrainingJob(config, rows, rows, Path()).ordered_rows
    longest = [len(row.ids) for row in ordered[:: config.train.micro_batch_size]]  # each is first
    return sum(longest) / len(longest)


def measure_speeds(
    config: Config,
    dims: ModelDims,
    rows: Sequence[Example],
    prompts: Sequence[Sequence[int]],
    device: Device,
) -> Speeds:
    """Return the speeds of a model with dimensions `dims`; see `forecast` for the rest.

    If other programs use the cores, one thread is measured, whose own time is known even then, and
    those of more threads are estimated. Several would wait for each other.
    """
    cores, threads = torch.get_num_threads(), trial_threads(config)
    parallel = config.search.parallel_trials
    with open_benchmark(config, dims, device) as benchmark:
        if device.name == "cuda":  # which parallel trainings share
            speeds = _measured(benchmark, rows, prompts, cores, cores, 0)
            alone = speeds.alone
            shared = Speed(alone.training / parallel, alone.reading / parallel, alone.saving)
            return replace(speeds, trial=shared, alone=shared)
        if benchmark.others_at_rest() < BUSY_CORES:
            speeds = _measured(benchmark, rows, prompts, cores, threads, parallel - 1)
        else:
            with benchmark.cores_in_use(1, 0):
                one = _measured(benchmark, rows, prompts, 1, 1, 0)
            together = threads if parallel > 1 else cores
            speeds = replace(
                one,
                trial=_on_threads(one.trial, threads),
                alone=_on_threads(one.alone, together),
                looking=one.looking * cores**THREADS_GAIN,
                reading=one.reading * cores**THREADS_GAIN,
                token=one.token / cores**THREADS_GAIN,
            )
        return replace(speeds, others=benchmark.stopwatch.cores_of_others)


def _measured(
    benchmark: Benchmark,
    rows: Sequence[Example],
    prompts: Sequence[Sequence[int]],
    cores: int,
    threads: int,
    neighbours: int,
) -> Speeds:
    """Return the speeds of a trial on `threads` beside `neighbours`, and of the rest on `cores`."""
    few = benchmark.training(rows, threads, neighbours)
    whole = benchmark.of_whole(few, lambda: benchmark.training(rows, threads, neighbours))
    trial = alone = _speed(benchmark, rows, whole)
    if threads < cores and not neighbours:
        on_all = benchmark.training(rows, cores)
        ratios = [after / before for before, after in zip(few, on_all, strict=True)]
        alone = _speed(benchmark, rows, [s * r for s, r in zip(whole, ratios, strict=True)])
    looking = alone.reading
    if threads < cores and neighbours:
        (looked,) = benchmark.of_whole(benchmark.losses(rows), lambda: benchmark.losses(rows))
        looking = benchmark.operations(benchmark.rows_of_losses(rows)) / looked
    reading, token = _generation(benchmark, prompts, looking)
    return Speeds(trial, alone, looking, reading, token, benchmark.measured_on)


def _on_threads(one: Speed, threads: int) -> Speed:
    gain = threads**THREADS_GAIN
    return Speed(one.training * gain, one.reading * gain, one.saving)


def _speed(benchmark: Benchmark, rows: Sequence[Example], seconds: Sequence[float]) -> Speed:
    """Return the speed of a training of which `Benchmark.training` measured such times."""
    step, losses, saving = seconds
    passes = forward_passes(benchmark.config.train)
    return Speed(
        passes * benchmark.operations(benchmark.rows_of_step(rows)) / step,
        benchmark.operations(benchmark.rows_of_losses(rows)) / losses,
        saving,
    )


def _generation(
    benchmark: Benchmark, prompts: Sequence[Sequence[int]], speed: float
) -> tuple[float, float]:
    """Return operations a second of reading prompts, and seconds for a token of a full batch."""
    generate = benchmark.config.generate
    batch, beams = benchmark.prompts_of_batch(prompts, speed)
    read, token = benchmark.of_whole(
        benchmark.generation(batch, beams), lambda: benchmark.generation(batch, beams)
    )
    operations = sum(forward_operations(benchmark.whole, beams, len(ids), 0) for ids in batch)
    reading = operations / read
    sequences = generate.batch_size * generate.num_beams
    if len(batch) * beams < sequences:  # a step takes as long as loading the weights, or products
        token = max(token, forward_operations(benchmark.whole, sequences, 1, 1) / reading)
    return reading, token


def trial_threads(config: Config) -> int:
    """Return the threads of one trial: `search.cpus_per_trial`, if there are as many."""
    return max(1, min(torch.get_num_threads(), int(config.search.cpus_per_trial)))
