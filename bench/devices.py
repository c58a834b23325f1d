"""How fast one device is: as a run folder's study found it, or as the reader says."""

from __future__ import annotations

import argparse
import itertools
import json
import math
import pickle
import random
import statistics
import tracemalloc
from array import array
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from nutgraf.config import Config
from nutgraf.modeling.dims import ModelDims
from nutgraf.planning.duration import IMPORT_SECONDS, LOAD_RATE
from nutgraf.planning.outcome import planned_vs_actual
from nutgraf.planning.speeds import forward_operations, forward_passes

UNLIKE = 0.1  # spread where none was measured: an assumption
SAVED = 16  # bytes of an adapter's weight in a checkpoint: itself, two moments, itself at its best


@dataclass(frozen=True)
class Device:
    """What one device takes, in seconds, on average; sizes in bytes."""

    row: float
    """To train on an article."""
    looked: float
    """To find the loss of a row."""
    saving: float
    """To save a checkpoint."""
    written: float
    """To write a summary, and to find the loss of its reference."""
    loading: float
    """To load the base into a process."""
    adapter: int
    """Weights of an adapter."""
    spread: float
    """Standard deviation of the logarithm of the seconds of like pieces of work."""

    @property
    def starting(self) -> float:
        """Until a new process has its model."""
        return IMPORT_SECONDS + self.loading


def of_run(folder: Path, config: Config, row: int, summary: int) -> tuple[Device, str]:
    """The device that a run folder's study was done on, with rows of other lengths; in words."""
    planned = json.loads((folder / "search" / "plan.json").read_text(encoding="utf-8"))
    shape, speeds = ModelDims(**planned["shape"]), planned["speeds"]
    manifests = {
        path.stem.replace(".", "/", 1): json.loads(path.read_text(encoding="utf-8"))
        for path in (folder / "manifests").glob("*.json")
    }
    longer = {
        entry["what"]: entry["measured"] / entry["planned"]
        for entry in planned_vs_actual(planned, manifests, 0)
        if entry["unit"] == "s"
    }
    whole = forward_operations(shape, 1, row, summary)
    batch = config.generate.batch_size
    token = config.generate.max_new_tokens * speeds["token"] / batch
    read = (
        forward_operations(shape, 1, row - summary, 0) / speeds["reading"]
        + whole / speeds["looking"]
    )
    spread, pieces = measured_spread(folder)
    device = Device(
        row=forward_passes(config.train) * whole / speeds["trial"]["training"] * longer["train"],
        looked=whole / speeds["trial"]["reading"] * longer["train"],
        saving=speeds["trial"]["saving"] * longer["train"],
        written=(token + read) * longer["generate"],
        loading=2 * (shape.linear + shape.other) / LOAD_RATE,
        adapter=shape.adapter,
        spread=spread,
    )
    machine = manifests["search"].get("machine", "")
    return device, (
        f"{folder} ({machine}), a device has {planned['machine']['cores']} of its cores; "
        f"trainings took {longer['train']:.2f} times, summaries {longer['generate']:.2f} times "
        f"what its plan said; spread {spread:.3f}, of {pieces} pieces of its trainings"
    )


def measured_spread(folder: Path) -> tuple[float, int]:
    """Standard deviation of log seconds from one evaluation to the next, and of how many pieces.

    The first piece of a training, in which things are done for the first time, is left out.
    """
    logs: list[float] = []
    for path in sorted((folder / "models").glob("*/history.csv")):
        history = pd.read_csv(path)
        ends = history[history["validation_loss"].notna()]["seconds"].tolist()
        logs += [math.log(b - a) for a, b in itertools.pairwise(ends)]
    return (statistics.stdev(logs), len(logs)) if len(logs) > 2 else (UNLIKE, 0)


def of_reader(options: argparse.Namespace) -> tuple[Device, str]:
    row = options.row
    device = Device(
        row=row / options.training,
        looked=row / options.reading,
        saving=0.0,
        written=1 / options.summaries + row / options.reading,
        loading=0.0,
        adapter=options.adapter,
        spread=UNLIKE,
    )
    return device, (
        f"the reader's: {options.training:,.0f} tokens a second in training, "
        f"{options.reading:,.0f} in reading, {options.summaries:g} summaries a second; "
        f"spread {UNLIKE}, an assumption; loading the base and saving a checkpoint take no time"
    )


def row_bytes(row: int, summary: int, n: int = 100) -> tuple[float, float]:
    """Bytes of a training row on its way to another process, and in the memory of that process."""
    from nutgraf.data.examples import Example  # brings transformers

    draw = random.Random(0)
    rows = []
    for _ in range(n):
        ids = array("i", (draw.randrange(32_000) for _ in range(row)))
        rows.append(Example(ids, row - summary, 0))
    sent = pickle.dumps(rows, protocol=5)
    tracemalloc.start()
    received = pickle.loads(sent)  # noqa: S301
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return len(sent) / n, held / len(received)
