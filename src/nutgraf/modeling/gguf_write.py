"""Write a Llama as a GGUF file, tensor by tensor, as llama.cpp's converter does.

A file has only what `gguf_file` reads, so that it can be read back and compared.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Kind
from gguf import GGUFValueType
from safetensors import safe_open

from nutgraf.config import ModelConfig
from nutgraf.core.errors import Failure, UserError
from nutgraf.core.files import written_by_others
from nutgraf.modeling import gguf_kquants
from nutgraf.modeling.base_files import base_revision, base_source, weight_files
from nutgraf.modeling.load import load_architecture

# The number of the kind of file. K-quants, the last three, are written by llama.cpp.
QUANTIZATIONS = {
    "f32": gguf.LlamaFileType.ALL_F32,
    "f16": gguf.LlamaFileType.MOSTLY_F16,
    "bf16": gguf.LlamaFileType.MOSTLY_BF16,
    "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
    "q5_1": gguf.LlamaFileType.MOSTLY_Q5_1,
    "q5_0": gguf.LlamaFileType.MOSTLY_Q5_0,
    "q4_1": gguf.LlamaFileType.MOSTLY_Q4_1,
    "q4_0": gguf.LlamaFileType.MOSTLY_Q4_0,
    "q4_k_m": gguf.LlamaFileType.MOSTLY_Q4_K_M,
    "q5_k_m": gguf.LlamaFileType.MOSTLY_Q5_K_M,
    "q6_k": gguf.LlamaFileType.MOSTLY_Q6_K,
}

_EMBEDDINGS = ("token_embd.weight", "output.weight")


class _Tensor(NamedTuple):
    name: str  # in GGUF
    shape: Sequence[int]
    kind: Kind
    source: str  # its name in safetensors
    file: Path


def check_writable(config: ModelConfig, quantization: str) -> None:
    """Raise UserError if a base cannot be written as GGUF so that it is the same model."""
    if quantization not in QUANTIZATIONS:
        raise UserError(
            f"--quantize {quantization} cannot be written here: give one of "
            f"{', '.join(QUANTIZATIONS)}, or run llama-quantize on the file in f16"
        )
    if quantization in gguf_kquants.KQUANTS:
        gguf_kquants.load_quantizer(quantization)
    base = load_architecture(config)
    rope = dict(base.rope_parameters if hasattr(base, "rope_parameters") else {})
    fault = None
    if base.model_type not in ("llama", "mistral"):
        fault = f"is a {base.model_type}, not of the Llama family"
    elif getattr(base, "sliding_window", None):
        fault = f"has sliding_window {base.sliding_window}, which a Llama has not"
    elif base.hidden_act != "silu":
        fault = f"has hidden_act {base.hidden_act}, not silu"
    elif getattr(base, "attention_bias", False) or getattr(base, "mlp_bias", False):
        fault = "has biases, which are not read back"
    elif rope.get("rope_type", "default") != "default":
        fault = f"has scaled RoPE ({rope['rope_type']}), which is not read back"
    if fault:
        raise UserError(
            f"model.base {config.base!r} {fault}, so that no GGUF file can be proven here: give "
            "--format merged, or llama.cpp's converter with --llama-cpp DIR"
        )


def write_gguf(config: ModelConfig, to: Path, quantization: str, fields: Mapping[str, Any]) -> None:
    """Write a whole model as the file `to`, with one tensor at a time in memory.

    Args:
        config: The model, in safetensors; `check_writable` passes it.
        to: The file.
        quantization: One of `QUANTIZATIONS`.
        fields: What the file says beside the shape of the model, by name.

    Raises:
        Failure: A weight is too large for the format, or is none of a Llama.
    """
    architecture = load_architecture(config)
    heads = {
        "attn_q": architecture.num_attention_heads,
        "attn_k": architecture.num_key_value_heads,
    }
    tensors = _tensors(config, architecture.num_hidden_layers, quantization)
    writer = gguf.GGUFWriter(to, "llama")
    with written_by_others(to.parent), contextlib.closing(writer):
        for name, value in {**_shape(architecture, tensors, quantization), **fields}.items():
            _add_field(writer, name, value)
        for tensor in tensors:
            block, size = gguf.GGML_QUANT_SIZES[tensor.kind]
            n_bytes = int(np.prod(tensor.shape)) // block * size
            writer.add_tensor_info(
                tensor.name, tensor.shape, np.dtype(np.float32), n_bytes, tensor.kind
            )
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for tensor in tensors:
            weight = _read(tensor)
            if n := heads.get(tensor.name.split(".")[-2]):
                # llama.cpp has side by side what is rotated together.
                rows, width = weight.shape
                pairs = weight.reshape(n, 2, rows // n // 2, width).swapaxes(1, 2)
                weight = np.ascontiguousarray(pairs.reshape(rows, width))
            if tensor.kind is Kind.F16 and np.abs(weight).max() > np.finfo(np.float16).max:
                raise Failure(
                    f"{tensor.source} has a weight of {np.abs(weight).max():g}, above the largest "
                    "number of f16: give --quantize bf16"
                )
            writer.write_tensor_data(gguf_kquants.quantize(weight, tensor.kind, quantization))


def set_numbers(path: Path, numbers: Mapping[str, float]) -> None:
    """Set fields of a file that are fractions already."""
    reader = gguf.GGUFReader(path, "r+")
    for name, number in numbers.items():
        field = reader.fields[name]
        field.parts[field.data[0]][0] = number
    reader.data.flush()


def tensor_kind(
    name: str, shape: Sequence[int], quantization: str, layers: int, shared: bool
) -> Kind:
    """Return the format of a tensor.

    As llama-quantize has it, norms are in f32, and rows that no whole number of blocks fits in are
    in f16. With 4 or 5 bits it has the output in Q6_K, and in Q8_0 if the width does not allow
    that. Q6_K is llama.cpp's, so q4_0 to q5_1 have embedding and output in Q8_0. For K-quants,
    `layers` is the number of layers, and `shared` whether the embedding is the output too.
    """
    if len(shape) == 1:
        return Kind.F32
    if quantization in gguf_kquants.KQUANTS:
        return gguf_kquants.kquant_kind(name, shape[-1], quantization, layers, shared)
    kind = Kind[quantization.upper()]
    if name in _EMBEDDINGS and quantization.startswith(("q4", "q5")):
        kind = Kind.Q8_0
    return Kind.F16 if shape[-1] % gguf.GGML_QUANT_SIZES[kind][0] else kind


def _tensors(config: ModelConfig, layers: int, quantization: str) -> list[_Tensor]:
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, layers)
    tensors: dict[str, _Tensor] = {}
    for file in weight_files(base_source(config), base_revision(config)):
        with safe_open(file, framework="pt") as weights:
            for source in weights.keys():  # noqa: SIM118  # it is no mapping
                name = names.get_name(source, try_suffixes=(".weight",))
                if name is None:
                    raise Failure(
                        f"{file} has {source}, which a Llama has not: give --format merged"
                    )
                shape = weights.get_slice(source).get_shape()
                tensors[name] = _Tensor(name, shape, Kind.F32, source, file)
    if len(ends := [tensors[name] for name in _EMBEDDINGS if name in tensors]) == 2 and (
        np.array_equal(*map(_read, ends))
    ):
        del tensors["output.weight"]  # they are tied
    shared = "output.weight" not in tensors
    return [
        tensor._replace(kind=tensor_kind(name, tensor.shape, quantization, layers, shared))
        for name, tensor in tensors.items()
    ]


def _read(tensor: _Tensor) -> Any:
    with safe_open(tensor.file, framework="pt") as weights:
        return weights.get_tensor(tensor.source).to(torch.float32).numpy()


def _shape(architecture: Any, tensors: Sequence[_Tensor], quantization: str) -> dict[str, Any]:
    """Return the fields that describe the weights."""
    heads, width = architecture.num_attention_heads, architecture.hidden_size
    head = getattr(architecture, "head_dim", None) or width // heads
    n_weights = sum(int(np.prod(tensor.shape)) for tensor in tensors)
    shape = {
        "vocab_size": architecture.vocab_size,
        "context_length": architecture.max_position_embeddings,
        "embedding_length": width,
        "block_count": architecture.num_hidden_layers,
        "feed_forward_length": architecture.intermediate_size,
        "attention.head_count": heads,
        "attention.head_count_kv": architecture.num_key_value_heads,
        "attention.layer_norm_rms_epsilon": np.float32(architecture.rms_norm_eps),
        "rope.dimension_count": head,
        "rope.freq_base": np.float32(architecture.rope_parameters["rope_theta"]),
    }
    if head * heads != width:
        shape |= {"attention.key_length": head, "attention.value_length": head}
    return {
        "general.type": "model",
        "general.size_label": gguf.size_label(n_weights, 0, 0, 0),
        "general.file_type": int(QUANTIZATIONS[quantization]),
        "general.quantization_version": gguf.GGML_QUANT_VERSION,
        **{f"llama.{name}": value for name, value in shape.items()},
    }


def _add_field(writer: gguf.GGUFWriter, name: str, value: Any) -> None:
    types = {
        bool: GGUFValueType.BOOL,
        int: GGUFValueType.UINT32,
        float: GGUFValueType.FLOAT64,
        np.float32: GGUFValueType.FLOAT32,
        str: GGUFValueType.STRING,
        list: GGUFValueType.ARRAY,
    }
    writer.add_key_value(name, value, types[type(value)])
