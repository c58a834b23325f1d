"""Configure a Ray cluster, for a study that outgrows one machine."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from nutgraf.config.types import Count, Float, Positive, Section


class RayConfig(Section):
    """The Ray cluster that does the work."""

    address: str | None = Field(
        None,
        description="Ray cluster that does the work: `auto` (the one this machine is a node of), "
        "`HOST:PORT`, or `ray://HOST:PORT` from outside it; null works on this machine alone.",
    )
    train_workers: Count = Field(
        1, description="Processes of one training on the cluster, which share each step's articles."
    )
    fsdp: bool = Field(
        False,
        description="Share the base's weights out among the processes of a training, for a base "
        "that does not fit on one device.",
    )
    workers: Count | None = Field(
        None,
        description="Processes that write or score summaries on the cluster; null takes as many "
        "as it has room for.",
    )
    cpus_per_worker: Positive = Field(
        1, description="CPU cores of one such process, of training, writing or scoring."
    )
    gpus_per_worker: Annotated[Float, Field(ge=0)] = Field(
        0,
        description="GPUs of one process that trains or writes; a fraction lets several share one.",
    )

    @model_validator(mode="after")
    def _only_with_address(self) -> RayConfig:
        defaults = {name: field.default for name, field in RayConfig.model_fields.items()}
        for name, value in self if self.address is None else ():
            if value != defaults[name]:
                raise ValueError(f"ray.{name} is for a cluster: set ray.address, or leave it out")
        return self
