"""Large libraries without the collector of garbage, which takes a quarter of their loading."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def quickly() -> Iterator[None]:
    """In the block modules are imported: some hundred thousand objects that live to the end.

    Looking through them again and again, as Python does while they become more, finds nothing. They
    are left out from then on too, in the collection before each training and the one at the exit.
    """
    gc.collect()  # what is garbage now would be left out with them
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if enabled:
            gc.enable()
