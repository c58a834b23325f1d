"""The same work on many rows, over all cores of the machine."""

from __future__ import annotations

import functools
import math
import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from typing import TypeVar

from tqdm import tqdm

Row = TypeVar("Row")
Result = TypeVar("Result")

_CHUNK = 32


def spread(
    function: Callable[[Row], Result],
    rows: Sequence[Row],
    *,
    rows_per_process: int,
    processes: int | None = None,
    progress: str | None = None,
) -> list[Result]:
    """`function` of each row, in order, over all cores (or `processes`) where there are many rows.

    `rows_per_process` is how many rows take as long as starting a process; `progress` labels a bar.
    Processes are spawned, not forked, so threads of torch or Ray do no harm; `function` has to be
    one of a module, and a script that calls this needs `if __name__ == "__main__":`. What
    `function` raises is raised here.
    """
    workers = min(processes or os.cpu_count() or 1, math.ceil(len(rows) / rows_per_process))
    bar = functools.partial(tqdm, total=len(rows), desc=progress, disable=progress is None)
    if workers <= 1:
        return list(bar(map(function, rows)))
    # Ctrl-C is for this process alone, which then ends the others.
    ignore = (signal.SIGINT, signal.SIG_IGN)
    with multiprocessing.get_context("spawn").Pool(workers, signal.signal, ignore) as pool:
        chunk = min(_CHUNK, math.ceil(len(rows) / workers))
        return list(bar(pool.imap(function, rows, chunksize=chunk)))
