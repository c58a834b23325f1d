"""A checkpoint of TinyLlama-1.1B-Chat's shape with random weights, for what the Hub is not needed.

    python bench/shape.py TOKENIZER DIR [--layers 22]

TOKENIZER is a folder with TinyLlama's (Llama's) tokenizer, DIR is written: 2.2 GB at 22 layers.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

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


def write_checkpoint(folder: Path, tokenizer: Path, layers: int) -> None:
    """Write the shape with `layers` layers, in bf16 safetensors, and the tokenizer beside it."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    try:
        model = LlamaForCausalLM(LlamaConfig(**{**TINYLLAMA, "num_hidden_layers": layers}))
    finally:
        torch.set_default_dtype(torch.float32)
    model.save_pretrained(str(folder))
    for file in tokenizer.iterdir():
        shutil.copy(file, folder)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, default=TINYLLAMA["num_hidden_layers"])
    options = parser.parse_args()
    write_checkpoint(options.folder, options.tokenizer, options.layers)


if __name__ == "__main__":
    main()
