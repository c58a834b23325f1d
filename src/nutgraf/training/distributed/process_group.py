"""The processes of one training: which of them this is, and how they exchange values."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import psutil
from torch import distributed

Value = TypeVar("Value")


@dataclass(frozen=True)
class ProcessGroup:
    """Process `rank` of `size`; all of them must call the same methods in the same order.

    With `shards` each holds a part of the base, and must compute whenever another one does.
    """

    rank: int = 0
    size: int = 1
    shards: bool = False

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def all(self, value: Value) -> list[Value]:
        """Return the value of each process, by rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        distributed.all_gather_object(values, value)
        return values

    def first(self, value: Value) -> Value:
        """Return the value of the first process."""
        if self.size == 1:
            return value
        values = [value if self.is_first else None]
        distributed.broadcast_object_list(values, src=0)
        return cast(Value, values[0])


SINGLE_PROCESS = ProcessGroup()


def peers(shards: bool) -> ProcessGroup:
    """Return the processes of the group that this one is in."""
    return ProcessGroup(distributed.get_rank(), distributed.get_world_size(), shards)


def name_interface(address_of: Callable[[], str]) -> None:
    """Let gloo and NCCL use the interface with this node's address, if none is named yet."""
    address = address_of()
    for name, addresses in psutil.net_if_addrs().items():
        if address in {each.address for each in addresses}:
            for variable in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
                os.environ.setdefault(variable, name)
