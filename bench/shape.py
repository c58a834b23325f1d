"""A checkpoint of a model's shape with random weights, for what the Hub is not needed.

    python bench/shape.py TOKENIZER DIR [--layers 22]

TOKENIZER is a folder with TinyLlama's (Llama's) tokenizer, DIR is written: 2.2 GB at 22 layers of
TinyLlama-1.1B-Chat.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

TINYLLAMA = {
    "vocab_size": 32_000,
    "hidden_size": 2_048,
    "intermediate_size": 5_632,
    "num_hidden_layers": 22,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "max_position_embeddings": 2_048,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10_000.0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
}
SMOLLM2 = {  # of 135 million weights
    "vocab_size": 49_152,
    "hidden_size": 576,
    "intermediate_size": 1_536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 8_192,
    "rms_norm_eps": 1e-5,
    "rope_theta": 100_000.0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": True,
}
OF_A_MODEL = (".safetensors", "config.json")  # ends of names of files that are no tokenizer's


def write_checkpoint(
    folder: Path, tokenizer: Path, shape: Mapping[str, Any], device: str = "cpu"
) -> None:
    """Write a model of `shape`, drawn on `device`, in bf16 safetensors, with the tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            model = LlamaForCausalLM(LlamaConfig(**shape))
    finally:
        torch.set_default_dtype(torch.float32)
    model.save_pretrained(str(folder))
    for file in tokenizer.iterdir():
        if file.name == "tokenizer_config.json" or not file.name.endswith(OF_A_MODEL):
            shutil.copy(file, folder)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, default=TINYLLAMA["num_hidden_layers"])
    options = parser.parse_args()
    shape = {**TINYLLAMA, "num_hidden_layers": options.layers}
    write_checkpoint(options.folder, options.tokenizer, shape)


if __name__ == "__main__":
    main()
