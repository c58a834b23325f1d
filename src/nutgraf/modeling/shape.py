"""Read a base's dimensions without its weights, and write a random base to measure."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, set_seed
from transformers.pytorch_utils import Conv1D

from nutgraf.config import LoraSettings, ModelConfig
from nutgraf.modeling.adapters import fresh_adapter
from nutgraf.modeling.dims import ModelDims
from nutgraf.modeling.load import load_architecture


def read_dims(config: ModelConfig, lora: LoraSettings) -> ModelDims:
    """Return the base's dimensions and the size of its adapter, without loading any weight.

    Raises Failure if the base's configuration cannot be read, UserError for layers that it lacks.
    """
    architecture = load_architecture(config)
    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(architecture)
        total = sum(weight.numel() for weight in empty.parameters())
        output = empty.get_output_embeddings()
        linear = sum(
            module.weight.numel()
            for module in empty.modules()
            if isinstance(module, (torch.nn.Linear, Conv1D)) and module is not output
        )
        with fresh_adapter(empty, lora, seed=0) as model:
            adapter = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    heads = architecture.num_attention_heads
    key_heads = getattr(architecture, "num_key_value_heads", None) or heads
    head = getattr(architecture, "head_dim", None) or architecture.hidden_size // heads
    return ModelDims(
        layers=architecture.num_hidden_layers,
        width=architecture.hidden_size,
        inner=getattr(architecture, "intermediate_size", None) or 4 * architecture.hidden_size,
        heads=heads,
        query_width=heads * head,
        key_width=key_heads * head,
        vocabulary=architecture.vocab_size,
        positions=architecture.max_position_embeddings,
        linear=linear,
        other=total - linear,
        adapter=adapter,
    )


def write_random_base(config: ModelConfig, layers: int, folder: Path) -> None:
    """Write a checkpoint of the base's architecture with `layers` layers and random weights."""
    architecture = load_architecture(config)
    architecture.num_hidden_layers = min(layers, architecture.num_hidden_layers)
    if getattr(architecture, "layer_types", None):
        architecture.layer_types = architecture.layer_types[:layers]
    set_seed(0)
    model = AutoModelForCausalLM.from_config(architecture, dtype=torch.bfloat16)
    model.save_pretrained(str(folder))
