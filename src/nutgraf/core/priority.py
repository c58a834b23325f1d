"""Let other programs go first while a study computes."""

from __future__ import annotations

import os

from nutgraf.core.errors import UserError

NICENESS = 10  # beside a busy program at 0 such a process gets a tenth of a core
_VARIABLE = "RAY_worker_niceness"  # Ray's own variable for the processes of trials


def lower_priority() -> None:
    """Give this process, and those that it starts, the low priority of a study.

    In Linux threads that run already keep theirs, so this comes before torch is loaded. The
    environment variable RAY_worker_niceness names another niceness than NICENESS; 0 changes none.
    """
    os.nice(missing_niceness())


def lowest_priority() -> None:
    """Let studies go before this process, too, which only looks at one.

    RAY_worker_niceness at 0 changes nothing, as above.
    """
    if os.environ.get(_VARIABLE) != "0":
        os.nice(19)  # the most that there is


def missing_niceness() -> int:
    """Return by how much the niceness of this process is below that of a study.

    Raises UserError for a RAY_worker_niceness that is no whole number.
    """
    wanted = os.environ.get(_VARIABLE, str(NICENESS))
    try:
        return max(0, int(wanted) - os.nice(0))
    except ValueError:
        raise UserError(f"{_VARIABLE} is {wanted!r}: set it to a whole number") from None
