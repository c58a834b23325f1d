"""Measure how fast this machine trains and writes, from a few real steps, for `plan`.

A base of up to SMALL weights that lies on the disk is measured itself. Of a larger one, or one on
the Hub, two layers of its shape with random weights are measured in its place and scaled by
operations: nothing is downloaded, and no large model is loaded for a measurement. Of
repeated measurements the fastest counts: other load and first-time work only make one slower.
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

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from nutgraf.config import Config
from nutgraf.config.load import replace_settings
from nutgraf.core.environment import memory_info
from nutgraf.data.prompts import Example
from nutgraf.generation.decoding import generate
from nutgraf.modeling.adapters import fresh_adapter
from nutgraf.modeling.attention import training_attention
from nutgraf.modeling.base_files import base_source
from nutgraf.modeling.dims import ModelDims
from nutgraf.modeling.load import Device, choose_device, load_base, load_tokenizer
from nutgraf.modeling.losses import summary_losses
from nutgraf.modeling.shape import read_dims, write_stand_in
from nutgraf.planning import memory as footprint
from nutgraf.planning.duration import Plan, Speed, Speeds, passes, plan_study, work
from nutgraf.planning.memory import Machine, RowLengths
from nutgraf.training.budget import at_once, training_order, worth_measuring
from nutgraf.training.fit import fit
from nutgraf.training.job import TrainingJob

SMALL = 100_000_000  # weights; more are not loaded for a measurement
LAYERS = 2  # of the base's form, where it is not measured itself
STEPS = 6  # of a training, of which the first is not counted
WORTH = 5  # times as many articles as are measured are trained on in a search that is worth a plan
LOOKED = 8  # rows of an evaluation
TOKENS = 6  # of summaries
REPEATED = 2  # times the same batch is written, or its losses found
# Operations of a forward pass measured on a CPU, in training and in writing, a second or two: where
# a batch of the configuration takes more, fewer rows of it are measured.
TRAINED, WRITTEN = 5e10, 2e11


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
    """Return the plan of a study, with speeds measured on these rows and prompts.

    `articles`: how many by split; `lengths` of the study's rows where they are not those of `rows`;
    `preparing`: seconds an article. Takes seconds; a small base stays in memory for its next user.
    Raises UserError for a device that is not there and for layers that the base lacks.
    """
    device = choose_device(config.model)
    free = torch.cuda.mem_get_info()[0] if device.name == "cuda" else memory_info().free
    machine = Machine(device.name, device.dtype != torch.float32, torch.get_num_threads(), free)
    form = read_dims(config.model, config.lora)
    measured = footprint.row_lengths([(len(row.ids), row.prompt_tokens) for row in rows])
    started = time.perf_counter()
    speeds = _speeds(config, form, rows, prompts, device)
    took = time.perf_counter() - started
    return plan_study(config, form, lengths or measured, machine, speeds, articles, took, preparing)


def _speeds(
    config: Config,
    whole: ModelDims,
    rows: Sequence[Example],
    prompts: Sequence[Sequence[int]],
    device: Device,
) -> Speeds:
    tokenizer = load_tokenizer(config.model)
    every = torch.get_num_threads()
    one = max(1, min(every, int(config.search.cpus_per_trial)))
    together = at_once(config.search)
    with base_or_stand_in(config, whole) as (base, form, words):
        seen = Measured(base, form, config, tokenizer, device)
        if device.name == "cuda":
            trial = alone = seen.training(rows, every)
        else:
            trial = seen.training(rows, one, neighbours=together - 1)
            alone = trial if together > 1 or one == every else seen.training(rows, every)
        reading, token = seen.writing(prompts, whole)
        looking = seen.looking(rows)
    if device.name == "cuda":  # which trainings at a time share
        trial = Speed(trial.training / together, trial.reading / together, trial.saving)
        alone = trial
    return Speeds(trial, alone, looking, reading, token, words)


@dataclasses.dataclass(frozen=True)
class Measured:
    base: PreTrainedModel
    form: ModelDims
    config: Config
    tokenizer: PreTrainedTokenizerBase
    device: Device

    def training(self, rows: Sequence[Example], threads: int, neighbours: int = 0) -> Speed:
        """Measure `fit` itself on `threads` cores while `neighbours` other threads are busy."""
        lengths = [len(row.ids) for row in rows]
        batch = self.micro_batch(lengths)
        config = replace_settings(
            self.config,
            {
                "train.max_examples": None,
                "train.max_steps": STEPS,
                "train.micro_batch_size": batch,
                "train.gradient_accumulation_steps": 1,
                "train.eval_every": STEPS * batch,
                "train.eval_examples": 1,
            },
        )
        settings = config.train
        ended: list[float] = []
        with (
            tempfile.TemporaryDirectory() as scratch,
            threads_of(threads),
            busy(neighbours),
            fresh_adapter(self.base, config.lora, settings.seed) as model,
        ):
            job = TrainingJob(
                config,
                rows,
                rows,
                Path(scratch) / "adapter",
                on_step=lambda: ended.append(self.now()),
                on_eval=lambda evaluation: ended.append(self.now()),
            )
            fit(model, self.tokenizer, job, self.device)
            with training_attention(model, self.device, batch, max(lengths)):
                looking = self._looking(model, rows)
        *_, trained, saved = ended
        order = training_order(lengths, batch, STEPS, settings.seed)
        speeds = []
        for step in range(1, STEPS):
            here = [rows[i] for i in order[step * batch : (step + 1) * batch]]
            operations = passes(settings) * self._work(here)
            speeds.append(operations / (ended[step] - ended[step - 1]))
        return Speed(max(speeds), looking, saved - trained)

    def micro_batch(self, lengths: Sequence[int]) -> int:
        """Return the rows of a measured micro-batch."""
        return min(self.config.train.micro_batch_size, self._rows(TRAINED, max(lengths)))

    def looking(self, rows: Sequence[Example]) -> float:
        """Return operations a second of computing the losses of summaries, on all cores."""
        with fresh_adapter(self.base, self.config.lora, self.config.train.seed) as model:
            return max(self._looking(model.eval(), rows) for _ in range(REPEATED))

    def _looking(self, model: PreTrainedModel, rows: Sequence[Example]) -> float:
        started = self.now()
        summary_losses(model, rows[:LOOKED], self.tokenizer.pad_token_id, self.device)
        return self._work(rows[:LOOKED]) / (self.now() - started)

    def writing(self, prompts: Sequence[Sequence[int]], whole: ModelDims) -> tuple[float, float]:
        """Return (operations a second of reading prompts, seconds for one more token).

        The latter is for a full batch with the `whole` model.
        """
        asked = self.config.generate.batch_size
        batch = min(asked, len(prompts), self._rows(WRITTEN, max(map(len, prompts))))
        settings = replace_settings(
            self.config, {"generate.max_new_tokens": TOKENS, "generate.batch_size": batch}
        ).generate
        firsts, tokens = [], []
        with fresh_adapter(self.base, self.config.lora, self.config.train.seed) as model:
            model.eval()
            for _ in range(REPEATED):
                times = [self.now()]
                hook = model.get_output_embeddings().register_forward_hook(
                    lambda *args, times=times: times.append(self.now())
                )
                list(generate(model, self.tokenizer, prompts[:batch], settings, self.device))
                hook.remove()
                first, *others = (b - a for a, b in itertools.pairwise(times))
                firsts.append(first)
                tokens += others
        read = sum(work(self.form, 1, len(ids), 0) for ids in prompts[:batch])
        reading = read * settings.num_beams / min(firsts)
        token = min(tokens)
        beams = asked * settings.num_beams
        if batch < asked:  # a step takes as long as the weights take to pass, or the products
            token = max(token, work(self.form, beams, 1, 1) / reading)
        if self.device.name == "cuda":  # where a step is launching its kernels, layer by layer
            return reading, token * whole.layers / self.form.layers
        return reading, token * work(whole, 1, 1, 1) / work(self.form, 1, 1, 1)

    def now(self) -> float:
        """Return the time in seconds, once the device has finished all its work."""
        if self.device.name == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def _work(self, rows: Sequence[Example]) -> float:
        return sum(
            work(self.form, 1, len(row.ids), len(row.ids) - row.prompt_tokens) for row in rows
        )

    def _rows(self, operations: float, tokens: int) -> int:
        """Return how many rows of so many tokens a measured pass may have."""
        if self.device.name == "cuda":
            return sys.maxsize
        return max(1, int(operations / work(self.form, 1, tokens, 0)))


@contextlib.contextmanager
def base_or_stand_in(
    config: Config, whole: ModelDims
) -> Iterator[tuple[PreTrainedModel, ModelDims, str]]:
    """Yield the measured base or its stand-in, its shape, and in words which it is."""
    local = Path(base_source(config.model)).is_dir()
    if local and whole.linear + whole.other <= SMALL:
        yield load_base(config.model), whole, "the base itself"
        return
    with tempfile.TemporaryDirectory() as folder:
        write_stand_in(config.model, LAYERS, Path(folder))
        model = config.model.model_copy(update={"base": folder, "revision": None})
        try:
            yield load_base(model), read_dims(model, config.lora), f"{LAYERS} layers of its shape"
        finally:
            load_base.cache_clear()
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()


@contextlib.contextmanager
def threads_of(number: int) -> Iterator[None]:
    """Compute with so many threads in the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def busy(neighbours: int) -> Iterator[None]:
    """Keep other cores multiplying in the block, as trainings side by side do.

    What they share (clock, caches, memory) makes each slower than one alone.
    """
    done = threading.Event()

    def multiply() -> None:
        a, b = torch.ones(1024, 256), torch.ones(256, 640)
        out = torch.empty(1024, 640)
        while not done.is_set():
            torch.mm(a, b, out=out)
            out.exp_()

    threads = [threading.Thread(target=multiply) for _ in range(neighbours)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        done.set()
        for thread in threads:
            thread.join()
