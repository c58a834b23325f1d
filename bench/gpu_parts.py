"""Do the parts of bench/gpu.py one after the other, in the process of a worker."""

from __future__ import annotations

import argparse
import gc
import logging
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import datasets
import gpu_recipe
import gpu_speed
import torch
from gpu import PARTS, Report, share_of_time
from gpu_bench import Bench, free

from nutgraf.core.console import show_log
from nutgraf.core.errors import one_line

WORK: dict[str, Callable[[Bench], None]] = {
    "train": gpu_speed.train,
    "together": gpu_speed.together,
    "generate": gpu_speed.generate,
    "recipe": gpu_recipe.seeds,
    "fp16": gpu_recipe.fp16,
    "plan": gpu_recipe.planned,
    "levers": gpu_recipe.sweep,
}


class _Warnings(logging.Handler):
    """Keeps nutgraf's warnings with the results: of a smaller batch, for want of memory."""

    def __init__(self, report: Report) -> None:
        super().__init__(logging.WARNING)
        self.report = report

    def emit(self, record: logging.LogRecord) -> None:
        """Note a warning."""
        self.report.record("note", one_line(record.getMessage(), 300))

    def __enter__(self) -> None:
        logging.getLogger("nutgraf").addHandler(self)

    def __exit__(self, *_: object) -> None:
        logging.getLogger("nutgraf").removeHandler(self)


def work(options: argparse.Namespace, report: Report) -> None:
    """Do the parts of `options.worker` one after the other, until one of them fails."""
    if not options.rehearse and not torch.cuda.is_available():
        raise SystemExit("there is no CUDA device; --rehearse measures on the CPU")
    gc.collect()
    gc.freeze()  # what the imports left is looked through no more
    show_log()
    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as scratch, _Warnings(report):
        bench = Bench(options, report, Path(scratch))
        bench.describe()
        for place, part in enumerate(options.worker):
            left = options.until - time.time()
            report.part = part
            if left < PARTS[part].least and not options.rehearse:
                report.record("skipped", f"{left:.0f} s are left, it needs {PARTS[part].least}")
                continue
            share = share_of_time(part, options.worker[place + 1 :], left)
            bench.ends = time.time() + share
            report.begin(part, share)
            started = time.time()
            try:
                WORK[part](bench)
            except Exception as error:  # whatever it is, the others are to be measured
                report.record("failed", one_line(f"{type(error).__name__}: {error}", 300))
                sys.exit(1)
            report.record(
                "ends", f"after {time.time() - started:.0f} s, planned {PARTS[part].planned}"
            )
            free()
