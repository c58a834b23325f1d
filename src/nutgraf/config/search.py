"""Configure the search, and which fields it may change."""

from __future__ import annotations

import os
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator

from nutgraf.config.training import LoraSettings, TrainConfig
from nutgraf.config.types import Choices, Count, Float, Positive, Range, Section, Seed, Space
from nutgraf.core.errors import did_you_mean


def _on_or_off(value: object) -> object:
    """Undo that YAML 1.1 reads on and off as true and false."""
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else value


class SearchConfig(Section):
    """The trials, and what they may change."""

    trials: Count = Field(
        4,
        description="Settings tried: at random at first, by TPE once four have a result. More of "
        "them, or fewer, continue a search.",
    )
    space: Space = Field(
        default={
            "train.learning_rate": Range(low=3e-3, high=3e-2, log=True),
            "train.gradient_accumulation_steps": Choices(choices=(1, 2, 4)),
            "train.weight_decay": Range(low=1e-3, high=1e-1, log=True),
        },
        description="What is searched: a field of `train` or `lora`, and its choices or range.",
    )
    concurrent: Count = Field(
        2,
        description="Trials at the same time; the proposals of a search that goes on keep the "
        "order of the number that it began with.",
    )
    cpus_per_trial: Positive = Field(1, description="CPU cores, and so threads, of one trial.")
    gpus_per_trial: Annotated[Float, Field(ge=0)] = Field(
        0, description="GPUs of one trial; a fraction lets several share one."
    )
    together: Annotated[Literal["auto", "on", "off"], BeforeValidator(_on_or_off)] = Field(
        "auto",
        description="Whether trials are trained in one process, over one base, together; auto "
        "measures whether that is faster here.",
    )
    trial_minutes: Positive | None = Field(
        None,
        description="Minutes after which a trial counts as failed, e.g. because it hangs; null "
        "sets no limit.",
    )
    grace_evaluations: Count = Field(
        1,
        description="Evaluations before ASHA may stop a trial (`train.eval_every` articles each).",
    )
    reduction_factor: Annotated[int, Field(ge=2)] = Field(
        2, description="At each rung ASHA keeps one in this many trials."
    )
    finalists: Count = Field(
        2,
        description="Best trials by loss among which ROUGE decides, if their losses are within the "
        "noise.",
    )
    rouge_examples: Count = Field(
        32,
        description="Validation articles that each trial summarizes for its ROUGE, always the same "
        "ones.",
    )
    seed: Seed = Field(42, description="Seed of the proposals.")

    @property
    def parallel_trials(self) -> int:
        """How many trials run at a time on this machine: `concurrent`, or what its cores allow."""
        return min(self.concurrent, max(1, int((os.cpu_count() or 1) / self.cpus_per_trial)))

    def largest(self, *names: str) -> dict[str, Any]:
        """Return the largest values of those settings that are searched, by dotted name."""
        return {name: self.space[name].largest for name in names if name in self.space}

    @field_validator("space")
    @classmethod
    def _known_fields(cls, space: Space) -> Space:
        allowed = [f"train.{n}" for n in TrainConfig.model_fields if n not in _FIXED] + [
            f"lora.{n}" for n in LoraSettings.model_fields
        ]
        for name in space:
            if name not in allowed:
                raise ValueError(f"{name!r} cannot be searched{did_you_mean(name, allowed)}")
        return space


# The budget and what is evaluated are equal for every trial, so they are not searched.
_FIXED = {"max_examples", "max_steps", "eval_every", "eval_examples", "samples", "seeds", "rounds"}
