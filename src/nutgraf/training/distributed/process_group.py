"""Exchange values between the processes of one training."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import psutil
from torch import distributed

Value = TypeVar("Value")


@dataclass(frozen=True)
class ProcessGroup:
    """Process `rank` of `size`; all of them must call the same methods in the same order.

    If `sharded`, each holds a part of the base, and must compute whenever another one does.
    """

    rank: int = 0
    size: int = 1
    sharded: bool = False

    @property
    def is_first(self) -> bool:
        """Return whether this is the process that writes."""
        return self.rank == 0

    def all_gather(self, value: Value) -> list[Value]:
        """Return the value of each process, by rank."""
        values: list[Any] = [value] * self.size
        if self.size > 1:
            distributed.all_gather_object(values, value)
        return values

    def broadcast(self, value: Value) -> Value:
        """Return the value of the first process."""
        values = [value]
        if self.size > 1:
            distributed.broadcast_object_list(values, src=0)
        return values[0]


SINGLE_PROCESS = ProcessGroup()


def name_interface(address_of: Callable[[], str]) -> None:
    """Let gloo and NCCL use the network interface with this node's address, unless one is set."""
    address = address_of()
    for name, addresses in psutil.net_if_addrs().items():
        if address in {each.address for each in addresses}:
            for variable in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
                os.environ.setdefault(variable, name)
