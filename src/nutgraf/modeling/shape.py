"""The shape of a base, known without its weights, and a stand-in of that shape to measure."""

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
    """The base's shape with the number of its adapter's weights, without loading any weight.

    Raises Failure where the base's configuration cannot be had, UserError for layers that it lacks.
    """
    form = load_architecture(config)
    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(form)
        before = sum(weight.numel() for weight in empty.parameters())
        output = empty.get_output_embeddings()
        linear = sum(
            module.weight.numel()
            for module in empty.modules()
            if isinstance(module, (torch.nn.Linear, Conv1D)) and module is not output
        )
        with fresh_adapter(empty, lora, seed=0) as model:
            adapter = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    head = getattr(form, "head_dim", None) or form.hidden_size // form.num_attention_heads
    keys = getattr(form, "num_key_value_heads", None) or form.num_attention_heads
    return ModelDims(
        layers=form.num_hidden_layers,
        width=form.hidden_size,
        inner=getattr(form, "intermediate_size", None) or 4 * form.hidden_size,
        heads=form.num_attention_heads,
        query_width=form.num_attention_heads * head,
        key_width=keys * head,
        vocabulary=form.vocab_size,
        positions=form.max_position_embeddings,
        linear=linear,
        other=before - linear,
        adapter=adapter,
    )


def write_random_base(config: ModelConfig, layers: int, folder: Path) -> None:
    """A checkpoint of the base's form with `layers` layers and random weights, for measurements."""
    form = load_architecture(config)
    form.num_hidden_layers = min(layers, form.num_hidden_layers)
    if getattr(form, "layer_types", None):
        form.layer_types = form.layer_types[:layers]
    set_seed(0)
    model = AutoModelForCausalLM.from_config(form, dtype=torch.bfloat16)
    model.save_pretrained(str(folder))
