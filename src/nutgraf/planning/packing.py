"""Decide from a few real steps whether the trials of a search are faster packed together."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nutgraf.config import Config
from nutgraf.core.errors import Failure
from nutgraf.data.examples import Example
from nutgraf.modeling.load import choose_device
from nutgraf.modeling.shape import read_dims
from nutgraf.planning.benchmark import trial_threads
from nutgraf.planning.measuring import Benchmark, open_benchmark
from nutgraf.training.budget import worth_measuring
from nutgraf.training.job import TrainingJob
from nutgraf.training.packed.loop import PackedTrainer

SIZES = (1, 2, 4)  # trials in a pass
PASSES = 2  # of each; the fastest counts
MARGIN = 1.1  # times as fast before packing is worth it: short steps differ as much by chance
WORTH = 20  # a search is measured if it trains on so many times the measured articles


@dataclass(frozen=True)
class Choice:
    """Say whether to train together, how many in a pass (None for all), and why, in a line."""

    together: bool
    why: str
    max_packed: int | None = None

    def record(self) -> dict[str, Any]:
        """Return the contents of search/together.json."""
        return {"together": self.together, "why": self.why, "most": self.max_packed}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Choice:
        """Return the choice in search/together.json."""
        return cls(record["together"], record["why"], record["most"])


def choose_packing(config: Config, rows: Sequence[Example]) -> Choice:
    """Return what `search.together` says; for `auto`, what trains more of `rows` a second.

    Alone means as the search does it: as many processes at a time as there are cores for.
    """
    search = config.search
    if search.together != "auto":
        return Choice(search.together == "on", f"search.together is {search.together}")
    sizes = [size for size in SIZES if size <= min(search.concurrent, search.trials)]
    measured = PASSES * (1 + sum(sizes)) * config.train.micro_batch_size
    reason = ""
    if config.ray.address is not None:
        reason = "each in a place of its own on the cluster"
    elif len(sizes) == 1:
        reason = "there is one at a time"
    elif not worth_measuring(config, measured, WORTH):
        reason = "too few articles to measure both ways"
    else:
        try:
            alone, packed = _rates(config, rows, sizes)
        except Failure as error:
            reason = str(error)
    if reason:
        return Choice(False, f"trials are trained alone: {reason}")
    best = max(packed, key=lambda size: packed[size])
    faster = packed[best] > MARGIN * alone
    rates = ", ".join(f"{rate:.2f} with {size}" for size, rate in packed.items())
    return Choice(
        faster,
        f"trials are trained {'together' if faster else 'alone'}: {alone:.2f} articles a second "
        f"in {search.parallel_trials} processes; in one, by trials in a pass, {rates} "
        "(search.together)",
        None if best == max(SIZES) else best,
    )


def _rates(
    config: Config, rows: Sequence[Example], sizes: Sequence[int]
) -> tuple[float, dict[int, float]]:
    """Return articles a second alone, and packed by number of trials in a pass."""
    device = choose_device(config.model)
    processes = config.search.parallel_trials if device.name == "cpu" else 1  # a GPU has turns
    with open_benchmark(config, read_dims(config.model, config.lora), device) as benchmark:
        with benchmark.cores_in_use(trial_threads(config), processes - 1):
            alone = processes * _rate(benchmark, rows, 1)
        return alone, {size: _rate(benchmark, rows, size) for size in sizes}


def _rate(benchmark: Benchmark, rows: Sequence[Example], size: int) -> float:
    """Return articles a second of `size` trainings in a pass."""
    config = benchmark.short_training(rows, PASSES + 1)  # the last and its evaluation do not run
    trainer = PackedTrainer(benchmark.base, benchmark.tokenizer.pad_token_id, benchmark.device)
    with tempfile.TemporaryDirectory() as scratch:
        for number in range(size):
            trainer.add(TrainingJob(config, rows, rows[:1], Path(scratch) / str(number)))
        times = [benchmark.now()]
        for _ in range(PASSES):
            trainer.advance()
            times.append(benchmark.now())
        trainer.close()
    for error in trainer.errors.values():
        raise error
    fastest = min(after - before for before, after in itertools.pairwise(times))
    return size * config.train.micro_batch_size / fastest
