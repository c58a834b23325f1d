"""Ray nodes of a core each on this machine's loopback addresses, which can be killed."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

HEAD, SECOND = "127.0.0.2", "127.0.0.3"
# A node that is gone is missed within two seconds, since it refuses to be asked; Ray's own settings
# take up to a minute. One that has no processor for seconds, beside other tests, is not gone.
QUICK = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 10_000,
    "health_check_failure_threshold": 3,
}


class Nodes:
    """A head and a second node; the second can be killed and started again.

    `outside` is where it is reached from outside, as `ray://`. `before` are the words before the
    command of a node, by its place: that of a network namespace.
    """

    def __init__(
        self, logs: Path, head: str = HEAD, before: Mapping[str, Sequence[str]] | None = None
    ) -> None:
        self.logs, self.head, self.before = logs, head, before or {}
        self.begun = 0
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.address, self.outside = f"{head}:{_free(head)}", f"{head}:{_free(head)}"

    def start(self, place: str) -> None:
        """Start the node if it is not there; Ray's own processes are its children."""
        if place in self.processes:
            return
        words = [*self.before.get(place, ()), str(Path(sys.executable).with_name("ray"))]
        words += ["start", "--block"]
        words += [f"--node-ip-address={place}", "--num-cpus=1", "--num-gpus=0"]
        words += ["--disable-usage-stats", f"--object-store-memory={100_000_000}"]
        if place == self.head:
            port = self.address.rpartition(":")[2]
            words += ["--head", f"--port={port}", "--include-dashboard=false"]
            words += [f"--system-config={json.dumps(QUICK)}"]
            words += [f"--ray-client-server-port={self.outside.rpartition(':')[2]}"]
        else:
            words += [f"--address={self.address}"]
        # Nodes find the functions of tests, and compute with one thread, as each has one core.
        paths = [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
        environment.pop("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", None)  # nutgraf's, for one machine
        # As in a job of MPI, or of another program that trains in several processes.
        environment |= {"PMI_SIZE": "4", "PMI_RANK": "1", "ACCELERATE_USE_FSDP": "true"}
        environment |= {"WORLD_SIZE": "4", "RANK": "3", "MASTER_ADDR": "10.255.255.1"}
        self.begun += 1
        self.processes[place] = subprocess.Popen(
            words,
            env=environment,
            stdout=(self.logs / f"{place}.log").open("wb"),
            stderr=subprocess.STDOUT,
        )

    def kill(self, place: str = SECOND) -> None:
        """End a node with all its processes at once, without a word to the others."""
        top = psutil.Process(self.processes.pop(place).pid)
        for process in [*top.children(recursive=True), top]:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        top.wait()

    def wait(self, alive: int) -> None:
        """Until so many nodes are alive and all begun ones are known, a minute at most.

        For a moment a node that was killed counts as alive, and one that began is not there yet.
        """
        import ray

        until = time.monotonic() + 60
        host, _, port = self.address.rpartition(":")
        while time.monotonic() < until:
            with socket.socket() as head:
                if head.connect_ex((host, int(port))) == 0:
                    break
            time.sleep(0.2)
        ray.init(address=self.address, log_to_driver=False, logging_level="ERROR")
        try:
            while sum(n["Alive"] for n in ray.nodes()) != alive or len(ray.nodes()) != self.begun:
                if time.monotonic() > until:
                    raise TimeoutError(f"no {alive} nodes: see {self.logs}")
                time.sleep(0.2)
        finally:
            ray.shutdown()


def _free(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def slowly(row: int, seconds: float) -> tuple[int, str]:
    """A piece of work: the square of a number, and the node that found it."""
    import ray

    time.sleep(seconds)
    return row * row, ray.get_runtime_context().get_node_id()


def refused(row: int, shared: None) -> None:
    """A piece of work that ends as a user's mistake."""
    from nutgraf.core.errors import UserError

    raise UserError("the prompt is too long: lower prompt.max_tokens")


@contextmanager
def started(
    logs: Path, head: str = HEAD, before: Mapping[str, Sequence[str]] | None = None
) -> Iterator[Nodes]:
    """The head node, and what the block starts beside it."""
    nodes = Nodes(logs, head, before)
    nodes.start(head)
    try:
        nodes.wait(1)
        yield nodes
    finally:
        for place in list(nodes.processes):
            nodes.kill(place)
