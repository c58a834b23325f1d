"""Import large libraries without garbage collection, which takes a quarter of that time."""

from __future__ import annotations

import contextlib
import gc
import sys
from collections.abc import Iterator

LOADED = "nutgraf.modeling.load"  # imports the large libraries


@contextlib.contextmanager
def fast_imports() -> Iterator[None]:
    """Import modules in the block without collecting garbage.

    Imports create some hundred thousand objects that live to the end. The first time in a process
    later collections skip them too (`gc.freeze`); later a block may hold objects of a training.
    """
    first, enabled = LOADED not in sys.modules, gc.isenabled()
    if first:
        gc.collect()  # what is garbage now would be frozen with them
    gc.disable()
    try:
        yield
    finally:
        if first:
            gc.freeze()
        if enabled:
            gc.enable()
