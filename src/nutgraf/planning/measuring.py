"""Measure a base on this machine by a few real steps: training, losses, generation.

A local base of up to SMALL weights is measured itself. In place of a larger one, or one on the Hub,
a stand-in is measured: LAYERS layers of its dimensions with random weights, and the same with one
layer. A further layer takes as long as each of those between them, so two depths tell the time of
the whole base, whatever its embeddings and output layer take. So nothing is downloaded, and no
large model is loaded.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TypeVar

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from nutgraf.config import Config, GenerateConfig
from nutgraf.config.load import with_overrides
from nutgraf.data.examples import Example
from nutgraf.generation.decoding import generate
from nutgraf.modeling.adapters import fresh_adapter
from nutgraf.modeling.base_files import base_source, is_gguf
from nutgraf.modeling.dims import ModelDims
from nutgraf.modeling.load import Device, load_base, load_tokenizer
from nutgraf.modeling.losses import summary_losses
from nutgraf.modeling.shape import first_layers, read_dims, write_random_base
from nutgraf.planning.speeds import forward_operations
from nutgraf.planning.stopwatch import Stopwatch
from nutgraf.training.fit import fit
from nutgraf.training.job import TrainingJob

SMALL = 100_000_000  # weights
LAYERS = 4
REST = 0.3  # seconds in which other programs are looked at
STEPS = 3  # of the measured training, all over the same rows; the first is not counted
EVAL_ROWS = 4
NEW_TOKENS = 16  # of each measured summary
REPEATS, ENOUGH = 2, 0.3  # of the same losses, unless the first took so many seconds
# Operations of a measured forward pass in training on a CPU, and seconds of one that reads prompts.
# If a batch of the configuration takes more, fewer rows of it are measured.
TRAINING_OPERATIONS, GENERATION_SECONDS = 1.5e11, 3.0

Row = TypeVar("Row")


@dataclass(frozen=True)
class Benchmark:
    """Measurements of a base with dimensions `dims`: that of dimensions `whole`, or its stand-in.

    Times are in seconds. Each method measures `base` with as many layers as it has at the moment.
    """

    base: PreTrainedModel
    dims: ModelDims
    whole: ModelDims
    config: Config
    tokenizer: PreTrainedTokenizerBase
    device: Device
    measured_on: str  # in words
    stopwatch: Stopwatch

    def of_whole(
        self, seconds: Sequence[float], measure: Callable[[], Sequence[float]]
    ) -> list[float]:
        """Return the times of the whole base, if `measure` has returned `seconds` before."""
        if self.dims.layers == self.whole.layers:
            return [*seconds]
        with first_layers(self.base, 1):
            of_one = measure()
        layers = (self.whole.layers - 1) / (self.dims.layers - 1)
        return [
            one + layers * max(0.0, several - one)
            for one, several in zip(of_one, seconds, strict=True)
        ]

    def rows_of_step(self, rows: Sequence[Example]) -> list[Example]:
        """Return the rows of a measured step: a micro-batch of rows of middle length."""
        rows = _middle(rows, self.config.train.micro_batch_size, lambda row: len(row.ids))
        return _middle(rows, self._max_rows(max(len(row.ids) for row in rows)), lambda row: 0)

    def short_training(self, rows: Sequence[Example], steps: int) -> Config:
        """Return the configuration of a training of a few steps and one evaluation at its end."""
        tokens = max(len(row.ids) for row in rows)
        batch = min(self.config.train.micro_batch_size, self._max_rows(tokens))
        overrides = {
            "train.max_examples": None,
            "train.max_steps": steps,
            "train.micro_batch_size": batch,
            "train.gradient_accumulation_steps": 1,
            "train.eval_every": steps * batch,
            "train.eval_examples": 1,
            "train.samples": 0,
        }
        return with_overrides(self.config, overrides)

    def training(
        self, rows: Sequence[Example], threads: int, neighbours: int = 0
    ) -> tuple[float, float, float]:
        """Measure `fit` itself on `threads` cores while `neighbours` other threads are busy.

        Return the times of a step over `rows_of_step`, of the losses of `rows_of_losses` in an
        evaluation, and of a checkpoint.
        """
        step_rows = self.rows_of_step(rows)
        config = self.short_training(step_rows, STEPS)
        times: list[float] = []
        with (
            tempfile.TemporaryDirectory() as scratch,
            self.cores_in_use(threads, neighbours),
            fresh_adapter(self.base, config.lora, config.train.seed) as model,
            self._attention_of_whole(),
        ):
            job = TrainingJob(
                config,
                step_rows,
                step_rows,
                Path(scratch) / "adapter",
                on_step=lambda examples: times.append(self.now()),
                on_eval=lambda evaluation: times.append(self.now()),
            )
            fit(model, self.tokenizer, job, self.device)
            losses = self._losses(model, rows)
        *steps, saved = times
        fastest = min(after - before for before, after in itertools.pairwise(steps))
        return fastest, losses, saved - steps[-1]

    def rows_of_losses(self, rows: Sequence[Example]) -> list[Example]:
        """Return the rows whose losses are measured."""
        return _middle(rows, EVAL_ROWS, lambda row: len(row.ids))

    def losses(self, rows: Sequence[Example]) -> tuple[float]:
        """Measure the losses of `rows_of_losses` on all cores."""
        with fresh_adapter(self.base, self.config.lora, self.config.train.seed) as model:
            return (self._losses(model.eval(), rows),)

    def _losses(self, model: PreTrainedModel, rows: Sequence[Example]) -> float:
        few, times = self.rows_of_losses(rows), [self.now()]
        while len(times) <= REPEATS and times[-1] - times[0] < ENOUGH:
            summary_losses(model, few, self.tokenizer.pad_token_id, self.device)
            times.append(self.now())
        return min(after - before for before, after in itertools.pairwise(times))

    def prompts_of_batch(
        self, prompts: Sequence[Sequence[int]], speed: float
    ) -> tuple[list[Sequence[int]], int]:
        """Return a batch of prompts of middle length, and the number of beams, to measure.

        They are as many as are read, at `speed` operations a second, in GENERATION_SECONDS.
        """
        generate = self.config.generate
        batch = _middle(prompts, generate.batch_size, len)
        operations = forward_operations(self.dims, 1, max(map(len, batch)), 0)
        limit = max(1, int(GENERATION_SECONDS * speed / operations))
        if self.device.name == "cuda":
            limit = sys.maxsize
        beams = min(generate.num_beams, limit)
        return _middle(batch, max(1, limit // beams), lambda prompt: 0), beams

    def generation(self, batch: Sequence[Sequence[int]], beams: int) -> tuple[float, float]:
        """Measure generation from a batch of prompts: reading them, and one more token of each."""
        settings = GenerateConfig(max_new_tokens=NEW_TOKENS, batch_size=len(batch), num_beams=beams)
        times = [self.now()]
        with (
            _endless(self.base),  # one that ends at once would leave nothing to measure
            fresh_adapter(self.base, self.config.lora, self.config.train.seed) as model,
        ):
            model.eval()
            # Once before, for what is only done the first time.
            list(generate(model, self.tokenizer, batch[:1], settings, self.device))
            output = model.get_output_embeddings()
            hook = output.register_forward_hook(lambda *args: times.append(self.now()))
            times[:] = [self.now()]
            list(generate(model, self.tokenizer, batch, settings, self.device))
            hook.remove()
        reading, *tokens = (after - before for before, after in itertools.pairwise(times))
        half = len(tokens) // 2
        return reading, min(fmean(tokens[:half]), fmean(tokens[half:]))

    def now(self) -> float:
        """Return the time of the stopwatch."""
        return self.stopwatch.now()

    def others_at_rest(self) -> float:
        """Return how many cores other programs use while this one waits for a moment."""
        rest = Stopwatch(0)
        time.sleep(REST)
        rest.now()
        return rest.cores_of_others

    def operations(self, rows: Sequence[Example]) -> float:
        """Return the operations of a forward pass of the whole base over these rows."""
        return sum(
            forward_operations(self.whole, 1, len(row.ids), len(row.ids) - row.prompt_tokens)
            for row in rows
        )

    def _max_rows(self, tokens: int) -> int:
        """Return how many rows of so many tokens are trained on in TRAINING_OPERATIONS."""
        if self.device.name == "cuda":
            return sys.maxsize
        return max(1, int(TRAINING_OPERATIONS / forward_operations(self.dims, 1, tokens, 0)))

    @contextlib.contextmanager
    def _attention_of_whole(self) -> Iterator[None]:
        """Let a stand-in train with the attention that the layers of the whole would get."""
        architecture = self.base.config
        before, architecture.num_hidden_layers = architecture.num_hidden_layers, self.whole.layers
        try:
            yield
        finally:
            architecture.num_hidden_layers = before

    @contextlib.contextmanager
    def cores_in_use(self, threads: int, neighbours: int) -> Iterator[None]:
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
        self._threads(threads + neighbours)
        try:
            for thread in others:
                thread.start()
            yield
        finally:
            finished.set()
            for thread in others:
                thread.join()
            torch.set_num_threads(before)
            self._threads(before)

    def _threads(self, threads: int) -> None:
        """Tell the stopwatch how many threads compute from now on."""
        self.now()
        if self.device.name == "cpu":
            self.stopwatch.threads = threads


@contextlib.contextmanager
def open_benchmark(config: Config, dims: ModelDims, device: Device) -> Iterator[Benchmark]:
    """Yield a benchmark of the configured base, whose dimensions are `dims`, or of its stand-in."""
    tokenizer = load_tokenizer(config.model)
    if device.name == "cuda":
        stopwatch = Stopwatch(0, torch.cuda.synchronize)
    else:
        stopwatch = Stopwatch(torch.get_num_threads())
    source = base_source(config.model)
    local = Path(source).is_dir() or is_gguf(source)
    if local and dims.linear + dims.other <= SMALL:
        base, words = load_base(config.model), "the base itself"
        yield Benchmark(base, dims, dims, config, tokenizer, device, words, stopwatch)
        return
    with tempfile.TemporaryDirectory() as folder:
        write_random_base(config.model, LAYERS, Path(folder))
        model = config.model.model_copy(update={"base": folder, "revision": None})
        base, few = load_base(model), read_dims(model, config.lora)
        try:
            words = "1 and " * (few.layers < dims.layers) + f"{few.layers} layers of its shape"
            yield Benchmark(base, few, dims, config, tokenizer, device, words, stopwatch)
        finally:
            load_base.cache_clear()
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()


def _middle(rows: Sequence[Row], n: int, length: Callable[[Row], int]) -> list[Row]:
    """Return n of the rows, or all, of middle length."""
    start = max(0, len(rows) - n) // 2
    return sorted(rows, key=length)[start : start + n]


@contextlib.contextmanager
def _endless(base: PreTrainedModel) -> Iterator[None]:
    before, base.generation_config = base.generation_config, GenerationConfig()
    try:
        yield
    finally:
        base.generation_config = before
