"""The processes of one training: which of them this is, and what they tell each other."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import psutil
from torch import distributed

Value = TypeVar("Value")


@dataclass(frozen=True)
class Peers:
    """Process `rank` of `size`; every one of them has to call the same in the same order.

    With `shards` each holds a part of the base, and so has to compute whenever another does.
    """

    rank: int = 0
    size: int = 1
    shards: bool = False

    @property
    def is_first(self) -> bool:
        """Whether this is the one that writes."""
        return self.rank == 0

    def all(self, value: Value) -> list[Value]:
        """The value of each process, by rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        distributed.all_gather_object(values, value)
        return values

    def first(self, value: Value) -> Value:
        """The value of the first process."""
        if self.size == 1:
            return value
        values = [value if self.is_first else None]
        distributed.broadcast_object_list(values, src=0)
        return cast(Value, values[0])


ALONE = Peers()


def peers(shards: bool) -> Peers:
    """Those of the process group that this process is in."""
    return Peers(distributed.get_rank(), distributed.get_world_size(), shards)


def name_interface(address_of: Callable[[], str]) -> None:
    """Have gloo and NCCL use the interface with this node's address, if none is named yet."""
    address = address_of()
    for name, found in psutil.net_if_addrs().items():
        if address in {each.address for each in found}:
            for variable in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
                os.environ.setdefault(variable, name)
