"""Shard a frozen base over the processes of a training, for one that fits in none of them.

Each holds a part of every frozen weight, and has a layer's whole weights only while it computes
(FSDP2: Zhao et al. 2023, arXiv:2304.11277, as torch's `fully_shard`). The adapter is small: every
process has all of it, and its gradients are averaged as without this.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from transformers import PreTrainedModel

from nutgraf.config import ModelConfig
from nutgraf.core.errors import UserError
from nutgraf.modeling.load import Device, load_weights


def load_base_on_cpu(config: ModelConfig, device: Device) -> PreTrainedModel:
    """Return the frozen base in main memory, in the number format of the device."""
    base = load_weights(config, dtype=device.dtype, device_map={"": "cpu"})
    return base.requires_grad_(False).eval()


def shard_base(model: PreTrainedModel, device: Device, processes: int) -> None:
    """Keep only this process's part of the frozen weights of `model`, on the device.

    Layers are sharded one by one, so that the device never holds more than one whole layer. Raise
    UserError for a base that does not declare its layers.
    """
    base = cast(Any, model).get_base_model()
    kinds = set(base._no_split_modules or ())
    layers = [module for module in base.modules() if type(module).__name__ in kinds]
    if not layers:
        raise UserError(
            f"ray.fsdp is true and {type(base).__name__} does not say what its layers are: "
            "set it to false"
        )
    mesh = init_device_mesh(device.name, (processes,))
    adapter = {weight for weight in model.parameters() if weight.requires_grad}
    for weight in adapter:
        weight.data = weight.data.to(device.name)
    for module in [*layers, base]:  # last the embeddings, and what else is in no layer
        fully_shard(
            module, mesh=mesh, ignored_params={w for w in module.parameters() if w in adapter}
        )
    frozen = [name for name, weight in model.named_parameters() if not weight.requires_grad]
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, frozen)


def full_weight(weight: torch.Tensor) -> torch.Tensor:
    """Return a whole weight of which this process may hold a part; all processes must call this."""
    return weight.full_tensor() if isinstance(weight, DTensor) else weight
