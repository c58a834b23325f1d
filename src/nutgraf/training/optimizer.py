"""Build the optimizer and the learning-rate schedule of every training."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch.optim.lr_scheduler import LambdaLR
from transformers import get_scheduler

from nutgraf.config import TrainConfig
from nutgraf.training.budget import total_steps


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
    steps, warmup = total_steps(settings), settings.warmup_steps
    schedule: LambdaLR = get_scheduler(
        settings.schedule,
        optimizer,
        num_warmup_steps=int(warmup) if warmup >= 1 else math.ceil(steps * warmup),
        num_training_steps=steps,
    )
    return optimizer, schedule
