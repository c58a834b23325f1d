"""Import layers with weights in 4 bits, without torch's compiler until a function needs it.

bitsandbytes calls torch.compile on a few functions while it is imported, which loads the compiler:
0.6 s at the start of every process, also for a base that is not quantized (docs/log.md).
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch


@contextlib.contextmanager
def compile_later() -> Iterator[None]:
    """Let `torch.compile(function)` in the block compile when the function is first called."""
    compile_now = torch.compile

    def later(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
        compiled = functools.cache(lambda: compile_now(function, **options))
        return lambda *args, **kwargs: compiled()(*args, **kwargs)

    torch.compile = later  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.compile = compile_now


with compile_later():
    from bitsandbytes.functional import dequantize_4bit
    from bitsandbytes.nn import Linear4bit

__all__ = ["Linear4bit", "dequantize_4bit"]
