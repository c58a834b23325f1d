"""Build the optimizer and the learning-rate schedule of every training."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch.optim.lr_scheduler import LambdaLR
from transformers import get_scheduler

from nutgraf.config import TrainConfig
from nutgraf.training.budget import total_steps, warmup_steps


def build_optimizer(
    weights: Iterable[torch.nn.Parameter], settings: TrainConfig
) -> tuple[torch.optim.Optimizer, LambdaLR]:
    """Return AdamW over an adapter's weights, and the schedule of its learning rate.

    AdamW: Loshchilov & Hutter 2019, arXiv:1711.05101. All weights decay, as in transformers: a LoRA
    adapter has neither biases nor norms. The rate rises for `train.warmup_steps` (below 1, a share
    of all steps), then follows `train.schedule`.
    """
    optimizer = torch.optim.AdamW(
        weights, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
    )
    schedule: LambdaLR = get_scheduler(
        settings.schedule,
        optimizer,
        num_warmup_steps=warmup_steps(settings),
        num_training_steps=total_steps(settings),
    )
    return optimizer, schedule
