"""Group rows into batches by length."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence


def longest_first(order: Sequence[int], length: Callable[[int], int], batch: int) -> list[int]:
    """Return the row indices of `order`, the longest first in each optimizer step of `batch` rows.

    So a step's micro-batches hold rows of similar length. What a step sees depends on the effective
    batch alone: 1 x 8 and 8 x 1 train on the same rows.
    """
    return [
        index
        for start in range(0, len(order), batch)
        for index in sorted(order[start : start + batch], key=lambda i: (-length(i), i))
    ]


def length_batches(
    lengths: Sequence[int], size: int, done: Container[int] = ()
) -> Iterator[list[int]]:
    """Yield batches of row indices, the longest rows first.

    Batches do not depend on `done`; those whose rows are all done are left out.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    for start in range(0, len(order), size):
        batch = order[start : start + size]
        if any(index not in done for index in batch):
            yield batch
