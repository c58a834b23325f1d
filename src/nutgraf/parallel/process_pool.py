"""Map a function over many rows with several processes.

Processes are spawned, not forked, so that threads of torch or Ray do no harm. Functions have to be
at the top of a module, and a script that calls this needs `if __name__ == "__main__":`. A process
ends with the one that started it, however that ends.
"""

from __future__ import annotations

import functools
import math
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from tqdm import tqdm

from nutgraf.core.errors import Failure
from nutgraf.core.priority import lower_priority

Row = TypeVar("Row")
Result = TypeVar("Result")
SPAWN = multiprocessing.get_context("spawn")
_CHUNK = 32


def map_rows(
    function: Callable[[Row], Result],
    rows: Sequence[Row],
    *,
    rows_per_process: int,
    processes: int | None = None,
    progress: str | None = None,
) -> list[Result]:
    """Return `function` of each row, in order, computed by several processes if there are many.

    Args:
        function: What it raises is raised here.
        rows: Its arguments.
        rows_per_process: How many rows take as long as starting a process.
        processes: At most so many, instead of one for each core.
        progress: The label of a progress bar.

    Raises:
        Failure: if a process is killed.
    """
    workers = min(processes or os.cpu_count() or 1, math.ceil(len(rows) / rows_per_process))
    hidden = None if progress else True  # None: on a terminal only
    bar = functools.partial(tqdm, total=len(rows), desc=progress, disable=hidden)
    if workers <= 1:
        return list(bar(map(function, rows)))
    chunk = min(_CHUNK, math.ceil(len(rows) / workers))
    with ProcessPoolExecutor(workers, mp_context=SPAWN, initializer=follow_parent) as pool:
        try:
            return list(bar(pool.map(function, rows, chunksize=chunk)))
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        except BrokenProcessPool:
            raise Failure(
                f"one of {workers} processes was killed, maybe for want of memory: free some; "
                "the same command carries on"
            ) from None


def follow_parent() -> None:
    """Leave Ctrl-C to the process that started this one, and end when that one has ended.

    What it computes has low priority.
    """
    lower_priority()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
