"""The trained weights of a model: read, set and save them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save_file
from transformers import PreTrainedModel

from nutgraf.files import written_by_others
from nutgraf.model import lora_config
from nutgraf.settings import LoraSettings


def weights(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Return a copy of the trained weights, by name, on the CPU."""
    named = model.named_parameters()
    return {n: w.detach().to("cpu", copy=True) for n, w in named if w.requires_grad}


@torch.no_grad()
def put(model: PreTrainedModel, values: Mapping[str, torch.Tensor]) -> None:
    """Set the trained weights to what `weights` returned."""
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            weight.copy_(values[name])


def save(model: PreTrainedModel, out: Path) -> None:
    """Write the adapter as peft does, without its empty model card.

    The weights are passed in: `state_dict()` of a sharded base would release, in this process
    alone, what the others still hold.
    """
    with written_by_others(out.parent):
        cast(Any, model).save_pretrained(
            str(out), safe_serialization=True, state_dict=weights(model)
        )
    (out / "README.md").unlink()


def save_weights(known: Mapping[str, torch.Tensor], lora: LoraSettings, out: Path) -> None:
    """Write what `weights` gave as the folder that `save` writes, without the model in memory."""
    # peft leaves the adapter's own name out of those of its weights.
    named = {name.replace(".default.", "."): weight for name, weight in known.items()}
    with written_by_others(out.parent):
        lora_config(lora).save_pretrained(str(out))
        save_file(named, out / "adapter_model.safetensors")
