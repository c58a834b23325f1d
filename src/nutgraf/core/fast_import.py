"""Large libraries without the collector of garbage, which takes a quarter of their loading."""

from __future__ import annotations

import contextlib
import gc
import sys
from collections.abc import Iterator

LOADED = "nutgraf.modeling.load"  # the room whose libraries are the large ones


@contextlib.contextmanager
def fast_imports() -> Iterator[None]:
    """In the block modules are imported: some hundred thousand objects that live to the end.

    Looking through them again and again, as Python does while they become more, finds nothing. The
    first time in a process they are left out from then on too, in the collection before each
    training and the one at the exit; later a block may find a training's objects beside them.
    """
    first, enabled = LOADED not in sys.modules, gc.isenabled()
    if first:
        gc.collect()  # what is garbage now would be left out with them
    gc.disable()
    try:
        yield
    finally:
        if first:
            gc.freeze()
        if enabled:
            gc.enable()
