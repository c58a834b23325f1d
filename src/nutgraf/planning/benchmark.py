"""Measure how fast this machine trains and generates, from a few real steps, for a plan.

A local base of up to SMALL weights is measured itself. In place of a larger one, or one on the Hub,
a stand-in is measured and scaled by operations: LAYERS layers of its dimensions with random
weights. So nothing is downloaded, and no large model is loaded. Of repeated measurements the
fastest counts: other load and first-time work only make one slower.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import itertools
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import psutil
import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from nutgraf.config import Config, GenerateConfig
from nutgraf.config.load import with_overrides
from nutgraf.data.examples import Example
from nutgraf.generation.decoding import generate
from nutgraf.modeling.adapters import fresh_adapter
from nutgraf.modeling.attention import training_attention
from nutgraf.modeling.base_files import base_source, is_gguf
from nutgraf.modeling.dims import ModelDims
from nutgraf.modeling.load import Device, choose_device, load_base, load_tokenizer
from nutgraf.modeling.losses import summary_losses
from nutgraf.modeling.shape import read_dims, write_random_base
from nutgraf.planning.duration import (
    Plan,
    Speed,
    Speeds,
    forward_operations,
    forward_passes,
    plan_study,
)
from nutgraf.planning.memory import Machine, RowLengths, row_lengths
from nutgraf.training.budget import worth_measuring
from nutgraf.training.fit import fit
from nutgraf.training.job import TrainingJob

SMALL = 100_000_000  # weights
LAYERS = 2
STEPS = 6  # of the measured training; the first is not counted
WORTH = 5  # a search is planned if it trains on so many times the measured articles
EVAL_ROWS = 8
NEW_TOKENS = 6  # of each measured summary
REPEATS = 2  # of the same batch
# Operations of a measured forward pass on a CPU, in training and in generation: a second or two. If
# a batch of the configuration takes more, fewer rows of it are measured.
TRAINING_OPERATIONS, GENERATION_OPERATIONS = 5e10, 2e11


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
    dims = read_dims(config.model, config.lora)
    lengths = lengths or row_lengths([(len(row.ids), row.prompt_tokens) for row in rows])
    started = time.perf_counter()
    speeds = measure_speeds(config, dims, rows, prompts, device)
    seconds = time.perf_counter() - started
    return plan_study(config, dims, lengths, machine, speeds, articles, seconds, preparing)


def measure_speeds(
    config: Config,
    dims: ModelDims,
    rows: Sequence[Example],
    prompts: Sequence[Sequence[int]],
    device: Device,
) -> Speeds:
    """Return the speeds of a model with dimensions `dims`; see `forecast` for the rest."""
    cores = torch.get_num_threads()
    threads = trial_threads(config)
    parallel = config.search.parallel_trials
    with open_benchmark(config, dims, device) as benchmark:
        if device.name == "cuda":  # which parallel trainings share
            alone = benchmark.training(rows, cores)
            shared = alone.training / parallel, alone.reading / parallel
            trial = alone = Speed(*shared, alone.saving)
        else:
            trial = alone = benchmark.training(rows, threads, neighbours=parallel - 1)
            if parallel == 1 and threads < cores:
                alone = benchmark.training(rows, cores)
        reading, token = benchmark.generation(prompts, dims)
        losses = benchmark.losses(rows)
    return Speeds(trial, alone, losses, reading, token, benchmark.measured_on)


def trial_threads(config: Config) -> int:
    """Return the threads of one trial: `search.cpus_per_trial`, if there are as many."""
    return max(1, min(torch.get_num_threads(), int(config.search.cpus_per_trial)))


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """Measurements of a base with dimensions `dims`: the configured one, or its stand-in."""

    base: PreTrainedModel
    dims: ModelDims
    config: Config
    tokenizer: PreTrainedTokenizerBase
    device: Device
    measured_on: str  # in words

    def short_training(self, rows: Sequence[Example], steps: int) -> Config:
        """Return the configuration of a training of a few steps and one evaluation at its end."""
        tokens = max(len(row.ids) for row in rows)
        batch = min(self.config.train.micro_batch_size, self._max_rows(TRAINING_OPERATIONS, tokens))
        overrides = {
            "train.max_examples": None,
            "train.max_steps": steps,
            "train.micro_batch_size": batch,
            "train.gradient_accumulation_steps": 1,
            "train.eval_every": steps * batch,
            "train.eval_examples": 1,
        }
        return with_overrides(self.config, overrides)

    def training(self, rows: Sequence[Example], threads: int, neighbours: int = 0) -> Speed:
        """Measure `fit` itself on `threads` cores while `neighbours` other threads are busy."""
        config = self.short_training(rows, STEPS)
        train, batch = config.train, config.train.micro_batch_size
        lengths = [len(row.ids) for row in rows]
        times: list[float] = []
        with (
            tempfile.TemporaryDirectory() as scratch,
            cores_in_use(threads, neighbours),
            fresh_adapter(self.base, config.lora, train.seed) as model,
        ):
            job = TrainingJob(
                config,
                rows,
                rows,
                Path(scratch) / "adapter",
                on_step=lambda examples: times.append(self.now()),
                on_eval=lambda evaluation: times.append(self.now()),
            )
            fit(model, self.tokenizer, job, self.device)
            with training_attention(model, self.device, batch, max(lengths)):
                losses = self._losses(model, rows)
        *_, trained, saved = times
        speeds = []
        for step in range(1, STEPS):
            step_rows = job.ordered_rows[step * batch : (step + 1) * batch]
            operations = forward_passes(train) * self._operations(step_rows)
            speeds.append(operations / (times[step] - times[step - 1]))
        return Speed(max(speeds), losses, saved - trained)

    def losses(self, rows: Sequence[Example]) -> float:
        """Return operations a second of computing the losses of summaries, on all cores."""
        with fresh_adapter(self.base, self.config.lora, self.config.train.seed) as model:
            return max(self._losses(model.eval(), rows) for _ in range(REPEATS))

    def _losses(self, model: PreTrainedModel, rows: Sequence[Example]) -> float:
        started = self.now()
        summary_losses(model, rows[:EVAL_ROWS], self.tokenizer.pad_token_id, self.device)
        return self._operations(rows[:EVAL_ROWS]) / (self.now() - started)

    def generation(self, prompts: Sequence[Sequence[int]], dims: ModelDims) -> tuple[float, float]:
        """Return (operations a second of reading prompts, seconds for one more token).

        The latter is for a full batch and a model with dimensions `dims`.
        """
        whole = self.config.generate
        max_rows = self._max_rows(GENERATION_OPERATIONS, max(map(len, prompts)))
        beams = min(whole.num_beams, max_rows)
        batch = min(whole.batch_size, len(prompts), max(1, max_rows // beams))
        settings = GenerateConfig(max_new_tokens=NEW_TOKENS, batch_size=batch, num_beams=beams)
        firsts, tokens = [], []
        with (
            _endless(self.base),  # one that ends at once would leave nothing to measure
            fresh_adapter(self.base, self.config.lora, self.config.train.seed) as model,
        ):
            model.eval()
            for _ in range(REPEATS):
                times = [self.now()]
                hook = model.get_output_embeddings().register_forward_hook(
                    lambda *args, times=times: times.append(self.now())
                )
                list(generate(model, self.tokenizer, prompts[:batch], settings, self.device))
                hook.remove()
                first, *others = (b - a for a, b in itertools.pairwise(times))
                firsts.append(first)
                tokens += others
        read = sum(forward_operations(self.dims, 1, len(ids), 0) for ids in prompts[:batch])
        reading = read * beams / min(firsts)
        token = min(tokens)
        sequences = whole.batch_size * whole.num_beams
        if batch * beams < sequences:  # a step takes as long as loading the weights, or products
            token = max(token, forward_operations(self.dims, sequences, 1, 1) / reading)
        if self.device.name == "cuda":  # a step launches its kernels, layer by layer
            return reading, token * dims.layers / self.dims.layers
        scale = forward_operations(dims, 1, 1, 1) / forward_operations(self.dims, 1, 1, 1)
        return reading, token * scale

    def now(self) -> float:
        """Return the time in seconds, once the device has finished all its work."""
        if self.device.name == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def _operations(self, rows: Sequence[Example]) -> float:
        return sum(
            forward_operations(self.dims, 1, len(row.ids), len(row.ids) - row.prompt_tokens)
            for row in rows
        )

    def _max_rows(self, operations: float, tokens: int) -> int:
        if self.device.name == "cuda":
            return sys.maxsize
        return max(1, int(operations / forward_operations(self.dims, 1, tokens, 0)))


@contextlib.contextmanager
def open_benchmark(config: Config, dims: ModelDims, device: Device) -> Iterator[Benchmark]:
    """Yield a benchmark of the configured base, whose dimensions are `dims`, or of its stand-in."""
    tokenizer = load_tokenizer(config.model)
    source = base_source(config.model)
    local = Path(source).is_dir() or is_gguf(source)
    if local and dims.linear + dims.other <= SMALL:
        base = load_base(config.model)
        yield Benchmark(base, dims, config, tokenizer, device, "the base itself")
        return
    with tempfile.TemporaryDirectory() as folder:
        write_random_base(config.model, LAYERS, Path(folder))
        model = config.model.model_copy(update={"base": folder, "revision": None})
        base, dims = load_base(model), read_dims(model, config.lora)
        try:
            words = f"{LAYERS} layers of its shape"
            yield Benchmark(base, dims, config, tokenizer, device, words)
        finally:
            load_base.cache_clear()
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()


@contextlib.contextmanager
def _endless(base: PreTrainedModel) -> Iterator[None]:
    before, base.generation_config = base.generation_config, GenerationConfig()
    try:
        yield
    finally:
        base.generation_config = before


@contextlib.contextmanager
def cores_in_use(threads: int, neighbours: int) -> Iterator[None]:
    """Compute with so many threads while others multiply, as parallel trainings do.

    What the cores share (clock, caches, memory) makes each slower than one alone.
    """
    before, finished = torch.get_num_threads(), threading.Event()

    def multiply() -> None:
        a, b = torch.ones(1024, 256), torch.ones(256, 640)
        out = torch.empty(1024, 640)
        while not finished.is_set():
            torch.mm(a, b, out=out)
            out.exp_()

    others = [threading.Thread(target=multiply) for _ in range(neighbours)]
    torch.set_num_threads(threads)
    try:
        for thread in others:
            thread.start()
        yield
    finally:
        finished.set()
        for thread in others:
            thread.join()
        torch.set_num_threads(before)
