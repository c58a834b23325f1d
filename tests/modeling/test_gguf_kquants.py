"""K-quants by llama.cpp's own code: of each tensor the kind that llama.cpp has, and its numbers."""

from __future__ import annotations

import _ctypes
import importlib.util
import json
from collections import Counter
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from gguf import GGUFReader, dequantize
from helpers import gguf_files

from nutgraf.config import ModelConfig
from nutgraf.core.errors import UserError
from nutgraf.modeling import gguf_kquants, gguf_write

LAYER = "attn_q attn_k attn_v attn_output ffn_gate ffn_up ffn_down".split()
NEEDED = pytest.mark.skipif(
    importlib.util.find_spec("xllamacpp") is None,
    reason="llama.cpp is not installed: pip install xllamacpp",
)
# The largest error of random weights, as a share of them (root mean square).
ERRORS = {Kind.Q4_K: 0.08, Kind.Q5_K: 0.04, Kind.Q6_K: 0.02}


@pytest.fixture(scope="module")
def wide(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return a folder with a Llama and its weights by their names in GGUF."""
    base = gguf_files.wide(tiny_base, tmp_path_factory.mktemp("wide") / "base")
    config = json.loads((base / "config.json").read_text())
    return {"base": base, "weights": gguf_files._weights(base, config)}


def kinds(layers: int, width: int, wider: int, quantization: str, shared: bool) -> Counter[str]:
    """Return how many matrices of a Llama are in which format."""
    names = {f"blk.{n}.{name}.weight": width for n in range(layers) for name in LAYER}
    names |= {f"blk.{n}.ffn_down.weight": wider for n in range(layers)}
    names |= dict.fromkeys(("token_embd.weight", *([] if shared else ["output.weight"])), width)
    return Counter(
        gguf_write.tensor_kind(name, (8, columns), quantization, layers, shared).name
        for name, columns in names.items()
    )


def test_as_many_tensors_are_of_each_kind_as_in_files_of_llama_cpp() -> None:
    """What llama.cpp prints of Llama 2 7B and of TinyLlama in Q4_K_M."""
    assert kinds(32, 4096, 11008, "q4_k_m", False) == {"Q4_K": 193, "Q6_K": 33}
    assert kinds(32, 4096, 11008, "q5_k_m", False) == {"Q5_K": 193, "Q6_K": 33}
    assert kinds(32, 4096, 11008, "q6_k", False) == {"Q6_K": 226}
    assert kinds(22, 2048, 5632, "q4_k_m", False) == {"Q4_K": 135, "Q6_K": 21}


def test_rows_that_no_block_fits_in_are_in_smaller_blocks() -> None:
    """SmolLM2 has 576 columns, and 1,536 in ffn_down; its embedding is its output."""
    more = 3 + 4 + 7  # of 30 layers: the first, the last, and each third between them
    narrow, down = 30 * 5, 30 - more
    expected = {"Q5_0": narrow + down, "Q8_0": more + 1, "Q4_K": down, "Q6_K": more}
    assert kinds(30, 576, 1536, "q4_k_m", True) == expected
    expected = {"Q5_1": narrow + down, "Q8_0": more + 1, "Q5_K": down, "Q6_K": more}
    assert kinds(30, 576, 1536, "q5_k_m", True) == expected
    assert kinds(30, 576, 1536, "q6_k", True) == {"Q8_0": 6 * 30 + 1, "Q6_K": 30}
    assert kinds(2, 48, 96, "q4_k_m", False) == {"F16": 2 * 6 + 2, "Q5_0": 1, "Q8_0": 1}


@NEEDED
@pytest.mark.parametrize(
    ("quantization", "usual"), [("q4_k_m", Kind.Q4_K), ("q5_k_m", Kind.Q5_K), ("q6_k", Kind.Q6_K)]
)
def test_what_is_read_back_is_near_the_weights(
    wide: dict[str, Any], tmp_path: Path, quantization: str, usual: Kind
) -> None:
    file = tmp_path / "a.gguf"
    gguf_write.write_gguf(ModelConfig(base=str(wide["base"])), file, quantization, {})
    tensors = {tensor.name: tensor for tensor in GGUFReader(file).tensors}
    assert tensors.keys() == wide["weights"].keys()
    better = {"output.weight", "blk.2.attn_v.weight", "blk.2.ffn_down.weight"}
    for name, weight in wide["weights"].items():
        tensor, read = tensors[name], dequantize(tensors[name].data, tensors[name].tensor_type)
        if weight.ndim == 1:
            assert np.array_equal(read, weight), name
            continue
        assert tensor.tensor_type == (Kind.Q6_K if name in better else usual), name
        error = np.sqrt(((read - weight) ** 2).mean() / (weight**2).mean())
        assert 0 < error < ERRORS[tensor.tensor_type], name


@NEEDED
def test_the_bytes_do_not_depend_on_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = np.random.default_rng(1).standard_normal((7, 512), dtype=np.float32)
    written = []
    for threads in (1, 2, 3, 9):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        written.append(gguf_kquants.quantize(weight, Kind.Q4_K, "q4_k_m").tobytes())
    assert len(written[0]) == 7 * 2 * 144
    assert len(set(written)) == 1


def test_without_llama_cpp_it_says_what_to_install(
    tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = ModelConfig(base=str(tiny_base))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        UserError,
        match=r"^--quantize q4_k_m needs llama.cpp, which is not installed: `pip install "
        r"'nutgraf\[llama\]'`, or give --quantize q8_0$",
    ):
        gguf_write.check_writable(config, "q4_k_m")


@NEEDED
def test_a_wheel_without_the_function_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    other = importlib.util.spec_from_file_location("other", _ctypes.__file__)
    find = PathFinder.find_spec
    in_wheel = lambda name, path=None, target=None: other if path else find(name, path, target)  # noqa: E731
    monkeypatch.setattr(PathFinder, "find_spec", in_wheel)
    with pytest.raises(
        UserError, match=r"another build of xllamacpp \(.*: undefined symbol: ggml_q"
    ):
        gguf_kquants.load_quantizer("q6_k")
