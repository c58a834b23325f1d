"""Decide from a few real steps whether the trials of a search are faster packed together."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nutgraf.config import Config
from nutgraf.config.load import replace_settings
from nutgraf.core.errors import Failure
from nutgraf.data.prompts import Example
from nutgraf.modeling.load import choose_device, load_tokenizer
from nutgraf.modeling.shape import read_dims
from nutgraf.planning.benchmark import Measured, base_or_stand_in, busy, threads_of
from nutgraf.training.budget import at_once, worth_measuring
from nutgraf.training.job import TrainingJob
from nutgraf.training.packed.loop import PackedTrainer

SIZES = (1, 2, 4)  # trials in a pass
PASSES = 2  # of each; the fastest counts
MARGIN = 1.1  # times as fast before packing is worth it: short steps differ as much by chance
WORTH = 20  # a search is measured if it trains on so many times the measured articles


@dataclass(frozen=True)
class Choice:
    """Whether to train together, how many in a pass (None for all), and why, in a line."""

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
    if config.ray.address is not None:
        return Choice(False, "trials are trained alone, each in a place of its own on the cluster")
    sizes = [size for size in SIZES if size <= min(search.concurrent, search.trials)]
    if len(sizes) == 1:
        return Choice(False, "trials are trained alone: there is one at a time")
    measured = PASSES * (1 + sum(sizes)) * config.train.micro_batch_size
    if not worth_measuring(config, measured, WORTH):
        return Choice(False, "trials are trained alone: too few articles to measure both ways")
    try:
        alone, together = _rates(config, rows, sizes)
    except Failure as error:
        return Choice(False, f"trials are trained alone: {error}")
    best = max(together, key=lambda size: together[size])
    faster = together[best] > MARGIN * alone
    rates = ", ".join(f"{rate:.2f} with {size}" for size, rate in together.items())
    return Choice(
        faster,
        f"trials are trained {'together' if faster else 'alone'}: {alone:.2f} articles a second "
        f"in {at_once(search)} processes; in one, by trials in a pass, {rates} (search.together)",
        None if best == max(SIZES) else best,
    )


def _rates(
    config: Config, rows: Sequence[Example], sizes: Sequence[int]
) -> tuple[float, dict[int, float]]:
    """Return articles a second alone, and together by number of trials in a pass."""
    device, every = choose_device(config.model), torch.get_num_threads()
    one = max(1, min(every, int(config.search.cpus_per_trial)))
    beside = at_once(config.search) if device.name == "cpu" else 1  # on a GPU they take turns
    with base_or_stand_in(config, read_dims(config.model, config.lora)) as (base, form, _):
        measured = Measured(base, form, config, load_tokenizer(config.model), device)
        with threads_of(one), busy(beside - 1):
            alone = beside * _rate(measured, rows, 1)
        return alone, {size: _rate(measured, rows, size) for size in sizes}


def _rate(measured: Measured, rows: Sequence[Example], size: int) -> float:
    """Return articles a second of `size` trainings in a pass."""
    batch = measured.micro_batch([len(row.ids) for row in rows])
    config = replace_settings(
        measured.config,
        {
            "train.max_examples": None,
            "train.max_steps": PASSES + 1,  # the last is not reached, nor its evaluation
            "train.micro_batch_size": batch,
            "train.gradient_accumulation_steps": 1,
            "train.eval_every": (PASSES + 1) * batch,
            "train.eval_examples": 1,
        },
    )
    pad, device = measured.tokenizer.pad_token_id, measured.device
    trainer = PackedTrainer(measured.base, pad, device)
    with tempfile.TemporaryDirectory() as scratch:
        for number in range(size):
            trainer.join(TrainingJob(config, rows, rows[:1], Path(scratch) / str(number)))
        times = [measured.now()]
        for _ in range(PASSES):
            trainer.advance()
            times.append(measured.now())
        trainer.close()
    for error in trainer.errors.values():
        raise error
    return size * batch / min(after - before for before, after in itertools.pairwise(times))
