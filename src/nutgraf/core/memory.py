"""Return freed memory to the system."""

from __future__ import annotations

import contextlib
import ctypes


def release_memory() -> None:
    """Return freed memory to the system, which glibc keeps in ever more fragments (docs/log.md).

    It takes up to a tenth of a second.
    """
    with contextlib.suppress(AttributeError, OSError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)
