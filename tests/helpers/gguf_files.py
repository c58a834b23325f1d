"""A small Llama in a folder, written as llama.cpp's converter writes it as GGUF."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFWriter
from safetensors.numpy import load_file

LAYER = {
    "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}  # fmt: skip


def write(base: Path, to: Path, changes: Mapping[str, Any] | None = None) -> Path:
    """Write the folder `base` as the file `to`; return it.

    `changes` are values by key or weights by name, in place of those of the base or beside them;
    None leaves one out.
    """
    config = json.loads((base / "config.json").read_text())
    fields: dict[str, Any] = {
        "general.name": "tiny",
        "llama.block_count": config["num_hidden_layers"],
        "llama.context_length": config["max_position_embeddings"],
        "llama.embedding_length": config["hidden_size"],
        "llama.feed_forward_length": config["intermediate_size"],
        "llama.attention.head_count": config["num_attention_heads"],
        "llama.attention.head_count_kv": config["num_key_value_heads"],
        "llama.attention.layer_norm_rms_epsilon": config["rms_norm_eps"],
        "llama.rope.freq_base": config["rope_parameters"]["rope_theta"],
        "llama.vocab_size": config["vocab_size"],
        **_tokenizer(base),
    }
    weights: dict[str, Any] = dict(_weights(base, config))
    architecture = "llama"
    for name, value in (changes or {}).items():
        if name == "general.architecture":
            architecture = value
        elif name.endswith(".weight"):
            weights[name] = value
        else:
            fields[name] = value
    writer = GGUFWriter(to, architecture)
    add = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32,
           str: writer.add_string, list: writer.add_array}  # fmt: skip
    for key, value in fields.items():
        if value is not None:
            add[type(value)](key, value)
    for name, weight in weights.items():
        if weight is not None:
            writer.add_tensor(name, weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return to


def wide(base: Path, to: Path) -> Path:
    """Write a Llama with random weights whose rows are whole K-quants; return its folder.

    Its tokenizer is that of the folder `base`.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    shutil.copytree(base, to, ignore=shutil.ignore_patterns("*.safetensors"))
    torch.manual_seed(0)
    changes = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 3}
    config = LlamaConfig.from_pretrained(base, **changes, head_dim=64, max_position_embeddings=4096)
    LlamaForCausalLM(config).save_pretrained(str(to))
    return to


def _tokenizer(base: Path) -> dict[str, Any]:
    said = json.loads((base / "tokenizer.json").read_text())
    tokens = sorted(said["model"]["vocab"], key=said["model"]["vocab"].__getitem__)
    special = {token["content"] for token in said["added_tokens"]}
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3 if token in special else 1 for token in tokens],
        "tokenizer.ggml.merges": [" ".join(pair) for pair in said["model"]["merges"]],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.add_bos_token": True,
    }


def _weights(base: Path, config: Mapping[str, Any]) -> dict[str, np.ndarray]:
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    weights = {}
    for name, weight in load_file(base / "model.safetensors").items():
        if not name.startswith("model.layers."):
            names = {"model.embed_tokens": "token_embd", "model.norm": "output_norm",
                     "lm_head": "output"}  # fmt: skip
            weights[f"{names[name.removesuffix('.weight')]}.weight"] = weight
            continue
        number, layer = name.removeprefix("model.layers.").removesuffix(".weight").split(".", 1)
        if n := heads.get(layer.rpartition(".")[2]):  # llama.cpp rotates pairs side by side
            rows, width = weight.shape
            weight = weight.reshape(n, 2, rows // n // 2, width).swapaxes(1, 2).reshape(rows, width)
        weights[f"blk.{number}.{LAYER[layer]}.weight"] = weight
    return weights
