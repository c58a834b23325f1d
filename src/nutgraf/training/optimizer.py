"""The optimizer and the learning-rate schedule of every training."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch.optim.lr_scheduler import LambdaLR
from transformers import get_scheduler

from nutgraf.config import TrainConfig
from nutgraf.training.budget import count_warmup_steps, total_steps


def build_optimizer(
    weights: Iterable[torch.nn.Parameter], settings: TrainConfig
) -> torch.optim.Optimizer:
    """Return AdamW over an adapter's weights (Loshchilov & Hutter 2019, arXiv:1711.05101).

    All of them decay, as in transformers: a LoRA adapter has neither biases nor norms.
    """
    return torch.optim.AdamW(
        weights, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
    )


def build_schedule(optimizer: torch.optim.Optimizer, settings: TrainConfig) -> LambdaLR:
    """Return the schedule that warms the learning rate up and then follows `train.schedule`."""
    schedule: LambdaLR = get_scheduler(
        settings.schedule,
        optimizer,
        num_warmup_steps=count_warmup_steps(settings),
        num_training_steps=total_steps(settings),
    )
    return schedule
