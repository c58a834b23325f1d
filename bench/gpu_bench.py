"""What the parts of bench/gpu.py share: sizes, bases, rows, one training, the machine."""

from __future__ import annotations

import argparse
import contextlib
import gc
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import psutil
import torch
from gpu import Report
from peers import Cost, synchronize
from rows import Pair, cut_pairs, long_pairs
from shape import SMOLLM2, TINYLLAMA, write_checkpoint
from train import matrix_product_peak, operations

from nutgraf.config import Config, LoraSettings, ModelConfig, PromptConfig
from nutgraf.config.load import with_overrides
from nutgraf.core.environment import library_versions, machine_info
from nutgraf.core.errors import one_line
from nutgraf.data.examples import Example
from nutgraf.data.prompts import Renderer
from nutgraf.modeling.base_files import base_source
from nutgraf.modeling.load import load_base, load_tokenizer
from nutgraf.training.fit import fit_adapter
from nutgraf.training.history import TrainingResult
from nutgraf.training.job import TrainingJob

WARM = 2  # steps that are not counted
CLOCKS = "name,driver_version,clocks.sm,clocks.max.sm,clocks.mem,power.limit,memory.total"
LITTLE = {"vocab_size": 2_048, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
LITTLE |= {"num_attention_heads": 4, "num_key_value_heads": 2}


@dataclass(frozen=True)
class Sizes:
    """How large everything is that is measured."""

    shapes: Mapping[str, Mapping[str, Any]]  # the large one first
    kinds: tuple[str, ...]  # quantizations
    tokens: int  # of a row
    stories: int  # of the newswire in an article
    examples: int  # of a measured training, at least
    micros: tuple[int, ...]  # micro-batches, until memory ends
    together: tuple[int, ...]  # trials in a pass
    together_micros: tuple[int, ...]
    of_trial: int  # articles of a trial
    batches: tuple[int, ...]  # summaries written at once, until memory ends
    new_tokens: int
    candidates: int
    backend: str  # of torch.compile
    config: str  # of the recipe
    recipe: int  # articles of a training with it
    held_out: int
    compiled: tuple[str, ...]  # quantizations whose layers are compiled too
    formats: tuple[str, str]  # the usual one, and that of the part `fp16`
    curve: int  # articles of its trainings


FULL = Sizes(
    shapes={"TinyLlama": TINYLLAMA, "SmolLM2": SMOLLM2}, kinds=("nf4", "none"),
    tokens=1_024, stories=7, examples=64, micros=(1, 8, 32, 64, 128),
    together=(8, 16, 4, 2, 1), together_micros=(1, 8, 2), of_trial=16,
    batches=(1, 8, 32, 128, 512, 2_048), new_tokens=128, candidates=8,
    backend="inductor", config="smollm2", recipe=2_300, held_out=206,
    compiled=("none", "nf4"),     formats=("bf16", "fp16"), curve=512,
)  # fmt: skip
REHEARSAL = Sizes(
    shapes={"little": {**TINYLLAMA, **LITTLE}}, kinds=("nf4",),
    tokens=96, stories=1, examples=8, micros=(1, 2),
    together=(2,), together_micros=(1,), of_trial=4,
    batches=(1, 2), new_tokens=4, candidates=2,
    backend="eager", config="pocket", recipe=8, held_out=6,
    compiled=("none",),     formats=("fp32", "bf16"), curve=4,
)  # fmt: skip


class Bench:
    """The machine with its results, and what is written once for several parts."""

    def __init__(self, options: argparse.Namespace, report: Report, scratch: Path) -> None:
        self.sizes = REHEARSAL if options.rehearse else FULL
        self.report, self.scratch, self.articles = report, scratch, options.articles
        self.device = "cpu" if options.rehearse else "cuda"
        self.rehearsing, self.until, self.ends = options.rehearse, options.until, options.until

    @property
    def large(self) -> str:
        """Return the name of the larger shape."""
        return next(iter(self.sizes.shapes))

    @property
    def small(self) -> str:
        """Return the name of the smaller shape, if there are two."""
        return next(reversed(self.sizes.shapes))

    @property
    def left(self) -> float:
        """Seconds that are left of the part's share."""
        return float(self.ends - time.time())

    def fits(self, seconds: float, what: str) -> bool:
        """Return whether so many seconds are left; say that `what` is skipped if they are not."""
        if self.left < seconds:
            self.report.record("skipped", f"{what}: {self.left:.0f} s are left of its share")
        return self.left >= seconds

    @contextlib.contextmanager
    def attempt(self, what: str) -> Iterator[None]:
        """Go on without a measurement that fails, and say why it is missing."""
        try:
            yield
        except Exception as error:  # whatever it is, the rest is to be measured
            why = one_line(f"{type(error).__name__}: {error}", 300)
            self.report.record("missing", f"{what}: {why}")
        free()  # which ends the part if the device can do no more

    @cached_property
    def peak(self) -> float:
        """Operations a second of a large bf16 product."""
        return matrix_product_peak()

    @cached_property
    def bandwidth(self) -> float:
        """Bytes a second that a copy on the device reads and writes."""
        size = 2**32 if self.device == "cuda" else 2**26
        source = torch.ones(size // 4, device=self.device)
        target, best = torch.empty_like(source), 0.0
        for _ in range(5):
            started = time.perf_counter()
            target.copy_(source)
            synchronize()
            best = max(best, 2 * size / (time.perf_counter() - started))
        return best

    def base(self, name: str) -> str:
        """Return the folder of a base of that shape with random weights."""
        folder = self.scratch / name
        if not folder.exists():
            tokenizer = Path(base_source(ModelConfig()))
            write_checkpoint(folder, tokenizer, self.sizes.shapes[name], self.device)
        return str(folder)

    def pairs(self, n: int, tokens: int | None = None) -> list[Pair]:
        """Return articles that fill rows of so many tokens, or of those of `sizes`."""
        pocket = base_source(ModelConfig())
        return cut_pairs(long_pairs(n, self.sizes.stories), pocket, tokens or self.sizes.tokens)

    def rows(self, pairs: Sequence[Pair], base: str) -> list[Example]:
        """Return the pairs as training rows of a base."""
        room = PromptConfig(max_tokens=self.sizes.tokens, max_article_tokens=self.sizes.tokens - 1)
        renderer = Renderer(load_tokenizer(ModelConfig(base=base)), room)
        return [renderer.example(article, summary) for article, summary in pairs]

    def config(self, base: str, micro: int, batch: int = 8, **settings: Any) -> Config:
        """Return the configuration of a training in steps of `batch` articles or `micro`."""
        batch = max(batch, micro)
        steps = WARM + max(2, self.sizes.examples // batch)
        return with_overrides(
            Config(lora=LoraSettings()),
            {
                "model.base": base,
                "train.max_examples": None,
                "train.max_steps": steps,
                "train.micro_batch_size": micro,
                "train.gradient_accumulation_steps": batch // micro,
                "train.eval_every": steps * batch,
                "train.eval_examples": 4,
            }
            | settings,
        )

    def fit(self, config: Config, rows: Sequence[Example]) -> tuple[Cost, TrainingResult]:
        """Train, and return what the steps after the first WARM cost."""
        times: list[float] = []

        def on_step(examples: int) -> None:
            synchronize()
            times.append(time.perf_counter())

        with tempfile.TemporaryDirectory(dir=self.scratch) as folder:
            job = TrainingJob(config, rows, rows[:4], Path(folder) / "adapter", on_step=on_step)
            result = fit_adapter(job)
        batch, steps = result.history.batch, len(times)
        used = job.ordered_rows[WARM * batch :]
        seconds, peak = times[-1] - times[WARM - 1], result.history.peak_memory_bytes
        cost = Cost((steps - WARM) * batch, sum(len(row.ids) for row in used), seconds, peak)
        return cost, result

    def add_cost(self, what: str, cost: Cost, base: str, micro: int) -> None:
        """Report a training."""
        share = operations(base, cost.tokens) / cost.seconds / self.peak
        self.report.add(
            what=what,
            rows_in_a_pass=micro,
            articles_a_second=cost.rate,
            tokens_a_second=cost.tokens / cost.seconds,
            GB=cost.peak_bytes / 1e9,
            share_of_peak=share,
        )

    def describe(self) -> None:
        """Print versions, machine, device, clocks, memory; once for all processes."""
        if self.report.events():
            return
        report = self.report
        report.record("note", ", ".join(f"{name} {v}" for name, v in library_versions().items()))
        memory = psutil.virtual_memory()
        report.record("note", f"{machine_info()}, {memory.available / 1e9:.0f} GB of memory free")
        if self.device == "cuda":
            try:
                command = ["nvidia-smi", f"--query-gpu={CLOCKS}", "--format=csv"]
                smi = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                report.record("note", "; ".join(smi.splitlines()))
            except (OSError, subprocess.CalledProcessError) as error:
                report.record("note", f"nvidia-smi gives no clocks: {error}")
            free, total = torch.cuda.mem_get_info()
            about = torch.cuda.get_device_properties(0)
            report.add(
                device=about.name,
                compute_capability=f"{about.major}.{about.minor}",
                cuda=torch.version.cuda,
                free_GB=free / 1e9,
                GB=total / 1e9,
            )
        report.add(bf16_product_TFLOPs=self.peak / 1e12, copy_GB_a_second=self.bandwidth / 1e9)


def free(base: bool = True) -> None:
    """Give back memory that nothing uses, that of the last base too, and forget the peak."""
    if base:
        load_base.cache_clear()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
