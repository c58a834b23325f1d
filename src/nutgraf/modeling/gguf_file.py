"""Load a base from a GGUF file of the Llama family, with its weights dequantized.

transformers ignores what it does not know in a file, such as scaled RoPE or biases, so that another
model comes out, and reads the vocabulary three times. Here a file passes only if it has nothing but
what is followed. Format: github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

from __future__ import annotations

import copy
import functools
import importlib.util
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np
import torch
from tokenizers import pre_tokenizers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from nutgraf.core.errors import UserError, library_errors

_NEEDED = (
    "block_count context_length embedding_length feed_forward_length attention.head_count "
    "attention.head_count_kv attention.layer_norm_rms_epsilon"
).split()
_FOLLOWED = {*_NEEDED, "rope.freq_base", "rope.dimension_count", "vocab_size"}
# Weights by their names in a file, and in transformers.
_OTHERS = {"token_embd": "model.embed_tokens", "output_norm": "model.norm"}
_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False)
# How `tokenizer.ggml.pre` splits a text, if not as transformers reads it already. SmolLM's
# tokenizer.json takes digits one by one, which transformers 5.23 leaves out.
_SPLITS = {
    "gpt-2": _BYTES,
    "smollm": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), _BYTES]),
}
_READ_SPLITS = ("llama-bpe", "llama3", "llama-v3", "falcon3", "tekken", "dbrx", "smaug-bpe")
_WHOLE_WORDS = ("llama-bpe", "llama3", "llama-v3", "falcon3", "tekken")  # need no merges
_INSTEAD = "give another file, or the folder of the model in safetensors"
_Read = TypeVar("_Read")


class _Header(NamedTuple):
    fields: dict[str, Any]  # what the file says of itself; an array as the places of its values
    tensors: dict[str, Any]  # gguf.ReaderTensor by name
    raw: dict[str, Any]  # gguf.ReaderField by name


def read_architecture(path: Path) -> Any:
    """Return the configuration of the model in a file, without its weights.

    Its `dtype` is the one to save a merged model in. Raises UserError for a file that is damaged or
    not of the Llama family, and for one that holds more than a Llama has.
    """
    return copy.deepcopy(_cached(_read_architecture, path))


def read_tokenizer(path: Path) -> PreTrainedTokenizerBase:
    """Return the tokenizer in a file. Raises as `read_architecture`."""
    return copy.deepcopy(_cached(_read_tokenizer, path))


def read_fields(path: Path, prefix: str) -> dict[str, Any]:
    """Return the fields of a file whose names begin with `prefix`. Raises as `read_architecture`.

    Arrays are lists.
    """
    fields = _cached(_read_header, path).raw
    return {name: fields[name].contents() for name in fields if name.startswith(prefix)}


def load_gguf(
    path: Path, architecture: Any, dtype: torch.dtype | str = "auto", **kwargs: Any
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Return the model in a file as `from_pretrained` does with `kwargs`, and what it says of it.

    Its weights are in `dtype`; `auto` is fp32, in which they are exactly those of the file.
    """
    held = torch.float32 if dtype == "auto" else cast(torch.dtype, dtype)
    base, info = cast(Any, LlamaForCausalLM).from_pretrained(
        None,
        config=architecture,
        state_dict=dict(_weights(path, architecture, held)),
        dtype=held,
        ignore_mismatched_sizes=True,  # as of other bases
        output_loading_info=True,
        **kwargs,
    )
    base.config.name_or_path = base.name_or_path = str(path)
    return base, info


def _weights(path: Path, architecture: Any, dtype: torch.dtype) -> Iterator[tuple[str, Any]]:
    from gguf import dequantize

    heads = {
        "attn_q": architecture.num_attention_heads,
        "attn_k": architecture.num_key_value_heads,
    }
    for name, tensor in _cached(_read_header, path).tensors.items():
        # A copy: what is in fp32 would stay in the file, and that may change.
        numbers = np.array(dequantize(tensor.data, tensor.tensor_type))
        weight = torch.from_numpy(numbers).to(dtype)
        _, number, layer = name.split(".")[:3] if name.startswith("blk.") else ("", "", "")
        if layer in heads:  # llama.cpp has side by side what is rotated together
            n, (rows, width) = heads[layer], weight.shape
            weight = weight.reshape(n, rows // n // 2, 2, width).transpose(1, 2)
            weight = weight.reshape(rows, width)
        if number:
            yield f"model.layers.{number}.{_LAYER[layer]}.weight", weight
        else:
            yield f"{_OTHERS.get(name.removesuffix('.weight'), 'lm_head')}.weight", weight


def _cached(read: Callable[..., _Read], path: Path) -> _Read:
    stat = path.stat()
    return read(path, stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=2)
def _read_architecture(path: Path, *state: int) -> Any:
    fields, tensors, _ = _cached(_read_header, path)
    own = _own_fields(fields)
    ids = {end: fields.get(f"tokenizer.ggml.{end}_token_id") for end in ("bos", "eos", "eot")}
    ends = [end for end in (ids["eos"], ids["eot"]) if end is not None]
    kinds = {tensor.tensor_type.name for tensor in tensors.values()} - {"F32"}
    formats = {"": torch.float32, "F16": torch.float16}  # norms are in fp32 in any file
    return LlamaConfig(
        architectures=["LlamaForCausalLM"],
        vocab_size=len(tensors["token_embd.weight"].data),
        hidden_size=own["embedding_length"],
        intermediate_size=own["feed_forward_length"],
        num_hidden_layers=own["block_count"],
        num_attention_heads=own["attention.head_count"],
        num_key_value_heads=own["attention.head_count_kv"],
        head_dim=own["rope.dimension_count"],
        max_position_embeddings=own["context_length"],
        rms_norm_eps=own["attention.layer_norm_rms_epsilon"],
        rope_parameters={
            "rope_type": "default",
            "rope_theta": own.get("rope.freq_base", 10_000.0),
        },
        tie_word_embeddings="output.weight" not in tensors,
        bos_token_id=ids["bos"],
        eos_token_id=ends if len(ends) > 1 else next(iter(ends), None),
        pad_token_id=fields.get("tokenizer.ggml.padding_token_id"),
        dtype=formats.get(" ".join(kinds), torch.bfloat16),
    )


@functools.lru_cache(maxsize=2)
def _read_tokenizer(path: Path, *state: int) -> PreTrainedTokenizerBase:
    fields = _cached(_read_header, path).fields
    with tempfile.TemporaryDirectory() as empty:  # what lies beside the file would be read too
        tokenizer = PreTrainedTokenizerFast.from_pretrained(empty, gguf_file=str(path))
    if split := _SPLITS.get(fields.get("tokenizer.ggml.pre", "")):
        tokenizer.backend_tokenizer.pre_tokenizer = split
    elif fields.get("tokenizer.ggml.pre") in _WHOLE_WORDS:
        tokenizer.backend_tokenizer.model.ignore_merges = True
    return cast(PreTrainedTokenizerBase, tokenizer)


@functools.lru_cache(maxsize=2)
def _read_header(path: Path, *state: int) -> _Header:
    """Return what a file says of itself and where its weights are, if it can be a base."""
    fact = f"model.base {str(path)!r}"
    if importlib.util.find_spec("gguf") is None:
        raise UserError(f"{fact} needs the package gguf: `pip install gguf`")
    from gguf import GGUFReader, GGUFValueType

    with library_errors(f"{fact} is damaged or was cut off", "download it again"):
        reader = GGUFReader(path)
        header = _Header(
            {
                name: field.data if field.types[0] == GGUFValueType.ARRAY else field.contents()
                for name, field in reader.fields.items()
            },
            {tensor.name: tensor for tensor in reader.tensors},
            dict(reader.fields),
        )
    if fault := next(_faults(header.fields, header.tensors), None):
        raise UserError(f"{fact} {fault}")
    return header


def _own_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that describe a Llama, by name."""
    own = {n.removeprefix("llama."): v for n, v in fields.items() if n.startswith("llama.")}
    if {"embedding_length", "attention.head_count"} <= own.keys():
        width = own["embedding_length"] // own["attention.head_count"]
        own.setdefault("rope.dimension_count", width)
    return own


def _faults(fields: Mapping[str, Any], tensors: Mapping[str, Any]) -> Iterator[str]:
    """Yield why a file cannot be a base, the clearest reason first."""
    if (parts := fields.get("split.count", 0)) > 1:
        yield (
            f"is one of {parts} parts of a GGUF file: join them with llama.cpp's "
            "`llama-gguf-split --merge`"
        )
    if (architecture := fields.get("general.architecture")) != "llama":
        yield f"is of the architecture {architecture!r}, not of the Llama family: {_INSTEAD}"
    own = _own_fields(fields)
    if missing := [name for name in _NEEDED if not isinstance(own.get(name), int | float)]:
        yield f"lacks llama.{missing[0]}, or has another for each layer: {_INSTEAD}"
    width = own["rope.dimension_count"]
    neutral = {"attention.key_length": width, "attention.value_length": width}
    neutral |= {"rope.scaling.type": "none", "expert_count": 0}
    for name, value in own.items():
        if name not in _FOLLOWED and neutral.get(name) != value:
            yield f"has llama.{name} {value}, which is not followed: {_INSTEAD}"
    layers = range(min(own["block_count"], len(tensors) + 1))
    needed = {f"blk.{n}.{name}.weight" for n in layers for name in _LAYER}
    needed |= {f"{name}.weight" for name in _OTHERS}
    if lacking := sorted(needed - tensors.keys()):
        yield f"lacks {len(lacking)} weights of a Llama, the first {lacking[0]}: {_INSTEAD}"
    if more := sorted(tensors.keys() - needed - {"output.weight"}):
        yield f"has {more[0]}, which a plain Llama has not and is not followed: {_INSTEAD}"
    kind, split = (fields.get(f"tokenizer.ggml.{name}") for name in ("model", "pre"))
    if not fields.get("tokenizer.ggml.tokens"):
        yield f"has no tokenizer: {_INSTEAD}"
    elif kind not in ("gpt2", "llama"):
        yield f"has a tokenizer of the kind {kind!r}, which is not known: {_INSTEAD}"
    elif kind == "gpt2" and split not in (*_SPLITS, *_READ_SPLITS):
        yield f"has a tokenizer that splits texts as {split!r}, which is not known: {_INSTEAD}"
    elif kind == "llama" and fields.get("tokenizer.ggml.add_space_prefix") is False:
        yield f"has a tokenizer without a blank before a text, which is not followed: {_INSTEAD}"
