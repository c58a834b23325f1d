"""Quantize in blocks of 256 numbers, as K-quants, by the code of llama.cpp itself.

The package gguf reads K-quants and cannot write them. The shared object in the wheel xllamacpp
exports ggml's function that can: `ggml_quantize_chunk`, declared in ggml.h.
"""

from __future__ import annotations

import ctypes
import importlib.util
from concurrent.futures import ThreadPoolExecutor
from importlib.machinery import PathFinder
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Kind

from nutgraf.core.errors import Failure, UserError

# What most tensors are in.
KQUANTS = {"q4_k_m": Kind.Q4_K, "q5_k_m": Kind.Q5_K, "q6_k": Kind.Q6_K}
# If a row is no whole number of blocks.
_NARROW = {Kind.Q4_K: Kind.Q5_0, Kind.Q5_K: Kind.Q5_1, Kind.Q6_K: Kind.Q8_0}


def load_quantizer(quantization: str) -> Any:
    """Return ggml's function. Raises UserError, with what to do, if it is not installed."""
    instead = "`pip install 'nutgraf[llama]'`, or give --quantize q8_0"
    package = importlib.util.find_spec("xllamacpp")
    places = package.submodule_search_locations if package else None
    library = PathFinder.find_spec("xllamacpp", places) if places else None
    if library is None or library.origin is None:
        raise UserError(
            f"--quantize {quantization} needs llama.cpp, which is not installed: {instead}"
        )
    try:
        quantize = ctypes.CDLL(library.origin).ggml_quantize_chunk
    except (OSError, AttributeError) as error:
        raise UserError(
            f"--quantize {quantization} needs another build of xllamacpp ({error}): {instead}"
        ) from None
    quantize.restype = ctypes.c_size_t
    number, pointer = ctypes.c_int64, ctypes.c_void_p
    quantize.argtypes = [ctypes.c_int, pointer, pointer, number, number, number, pointer]
    return quantize


def kquant_kind(name: str, width: int, quantization: str, layers: int, shared: bool) -> Kind:
    """Return the format of a matrix as `llama_tensor_get_type` of llama.cpp chooses it.

    Its exception for a Llama of 80 layers is left out.

    Args:
        name: The tensor's, in GGUF.
        width: The numbers in a row.
        quantization: One of `KQUANTS`.
        layers: The number of layers.
        shared: Whether the embedding is the output layer too.
    """
    kind, parts = KQUANTS[quantization], name.split(".")
    if name == ("token_embd.weight" if shared else "output.weight"):
        kind = Kind.Q6_K
    elif parts[-2] in ("attn_v", "ffn_down"):
        layer, first = int(parts[1]), layers // 8
        if layer < first or layer >= 7 * layers // 8 or (layer - first) % 3 == 2:
            kind = Kind.Q6_K
    if width % gguf.GGML_QUANT_SIZES[kind][0]:
        kind = _NARROW[kind]
    return Kind.F16 if width % gguf.GGML_QUANT_SIZES[kind][0] else kind


def quantize(weight: Any, kind: Kind, quantization: str) -> Any:
    """Return a matrix (rows, width) as the bytes of a format (rows, bytes of a row).

    Raises Failure if llama.cpp wrote another number of bytes.
    """
    if kind not in _NARROW:
        return gguf.quantize(weight, kind)
    ggml = load_quantizer(quantization)
    weight = np.ascontiguousarray(weight, dtype=np.float32)
    (rows, width), (block, size) = weight.shape, gguf.GGML_QUANT_SIZES[kind]
    out = np.empty((rows, width // block * size), dtype=np.uint8)
    threads = torch.get_num_threads()
    step = -(-rows // threads)

    def write(start: int) -> int:
        n = min(step, rows - start)
        # ggml adds the offset of `start`, in numbers, to both addresses.
        written: int = ggml(
            kind, weight.ctypes.data, out.ctypes.data, start * width, n, width, None
        )
        return written

    with ThreadPoolExecutor(threads) as pool:
        written = sum(pool.map(write, range(0, rows, step)))
    if written != out.nbytes:
        raise Failure(
            f"llama.cpp wrote {written:,} bytes of {out.nbytes:,} in {kind.name}: give "
            "--quantize q8_0"
        )
    return out
