"""Read a base's dimensions without its weights, and write a random base to measure."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, set_seed
from transformers.pytorch_utils import Conv1D

from nutgraf.config import LoraSettings, ModelConfig
from nutgraf.core.errors import library_errors
from nutgraf.modeling.adapters import fresh_adapter
from nutgraf.modeling.base_files import base_source
from nutgraf.modeling.dims import ModelDims
from nutgraf.modeling.fused.model import fits_fused
from nutgraf.modeling.load import load_architecture, load_tokenizer, load_weights

# What a base calls the longest text that it was made for; with ALiBi there may be none.
_POSITIONS = ("max_position_embeddings", "max_seq_len", "seq_length")


def read_dims(config: ModelConfig, lora: LoraSettings) -> ModelDims:
    """Return the base's dimensions and the size of its adapter, without loading any weight.

    Raises Failure if the base's configuration cannot be read, UserError for layers that it lacks.
    """
    empty = _empty_base(config)
    architecture: Any = empty.config
    total = sum(weight.numel() for weight in empty.parameters())
    output = empty.get_output_embeddings()
    linear = sum(
        module.weight.numel()
        for module in empty.modules()
        if isinstance(module, (torch.nn.Linear, Conv1D)) and module is not output
    )
    with torch.device("meta"), fresh_adapter(empty, lora, seed=0) as model:
        adapter = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
        fused = fits_fused(model)
    heads = architecture.num_attention_heads
    key_heads = getattr(architecture, "num_key_value_heads", None) or heads
    head = getattr(architecture, "head_dim", None) or architecture.hidden_size // heads
    limits = [getattr(architecture, name, None) for name in _POSITIONS]
    return ModelDims(
        layers=architecture.num_hidden_layers,
        width=architecture.hidden_size,
        inner=getattr(architecture, "intermediate_size", None) or 4 * architecture.hidden_size,
        heads=heads,
        query_width=heads * head,
        key_width=key_heads * head,
        vocabulary=architecture.vocab_size,
        positions=next(filter(None, limits), sys.maxsize),
        linear=linear,
        other=total - linear,
        adapter=adapter,
        fused=fused,
    )


def write_random_base(config: ModelConfig, layers: int, folder: Path) -> None:
    """Write a base of the same architecture and tokenizer, with `layers` layers, random weights."""
    architecture = load_architecture(config)
    every = architecture.num_hidden_layers
    architecture.num_hidden_layers = min(layers, every)
    for name, value in vars(architecture).items():
        if isinstance(value, list) and len(value) == every:  # one thing a layer
            setattr(architecture, name, value[:layers])
    set_seed(0)
    with _shape_errors(config):
        model = AutoModelForCausalLM.from_config(architecture, dtype=torch.bfloat16)
    model.save_pretrained(str(folder))
    load_tokenizer(config).save_pretrained(str(folder))


@contextlib.contextmanager
def first_layers(base: PreTrainedModel, layers: int) -> Iterator[None]:
    """Leave only the first `layers` layers in `base` during the block."""
    architecture: Any = base.config
    every = architecture.num_hidden_layers
    lists = (m for m in base.modules() if isinstance(m, torch.nn.ModuleList))
    stack = next(modules for modules in lists if len(modules) == every)
    others = list(stack)[layers:]
    del stack[layers:]
    architecture.num_hidden_layers = layers
    try:
        yield
    finally:
        stack.extend(others)
        architecture.num_hidden_layers = every


def _empty_base(config: ModelConfig) -> PreTrainedModel:
    """Return the base without weights; those of a folder are looked at, whether all are there."""
    architecture = load_architecture(config)
    if Path(base_source(config)).is_dir():  # a GGUF file has been looked at
        return load_weights(config, device_map={"": "meta"})
    with _shape_errors(config), torch.device("meta"):
        return AutoModelForCausalLM.from_config(architecture)


def _shape_errors(config: ModelConfig) -> contextlib.AbstractContextManager[None]:
    """Raise UserError for what transformers says if it cannot make a model of the shape."""
    fact = f"model.base {config.base!r} has a config.json that no model can be made of"
    return library_errors(fact, "give another base")
