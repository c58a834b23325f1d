"""Join a cluster that does a study's work in tasks.

Ray tasks, not actors: those of a node that dies are run again elsewhere, by whichever process is
free, while a restarted actor would wait for cores that others hold. Ray reuses the processes of
tasks, so each library and model is loaded once.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from nutgraf.config import RayConfig
from nutgraf.core.environment import library_versions
from nutgraf.core.errors import Failure, UserError, one_line
from nutgraf.parallel.ray_session import session  # before Ray: its environment

# isort: split
import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

logger = logging.getLogger(__name__)

Row = TypeVar("Row")
Result = TypeVar("Result")

_RETRIES = 8  # of a task whose process or node died
_CHUNK = 32  # rows of one task, if each is short work
# What has to be the same on every node for the same results.
_SAME_VERSIONS = ("nutgraf", "python", "torch", "transformers", "peft")


@contextlib.contextmanager
def join_cluster(settings: RayConfig, folder: Path | None = None) -> Iterator[Cluster]:
    """Yield the cluster at `settings.address`, each of whose nodes has nutgraf and sees `folder`.

    Raise UserError if there is none, and for a node that lacks one of both; without a folder nodes
    are not looked at.
    """

    def problem(reason: str) -> UserError:
        return UserError(
            f"no Ray cluster at ray.address {settings.address!r} ({reason}): start one with "
            "`ray start --head`, or correct the address"
        )

    # A study given from outside is a task of the cluster, which is connected already.
    inside = ray.is_initialized()
    with contextlib.nullcontext() if inside else session(problem, str(settings.address)):
        cluster = Cluster(settings)
        if folder:
            cluster.check_nodes(folder)
        if not settings.gpus_per_worker and (gpus := cluster.capacity(0, 1)):
            logger.warning(
                f"the cluster has {gpus} GPUs and ray.gpus_per_worker is 0: none of them is used"
            )
        yield cluster


def run_task(function: Callable[[Row], Result], row: Row) -> Result:
    """Return `function(row)`, run on a node of the cluster without taking a core from others."""
    result: Result = _result(_task(function).remote(row))
    return result


class Cluster:
    """The cluster that this process has joined."""

    def __init__(self, settings: RayConfig) -> None:
        self.settings = settings

    def capacity(self, cpus: float, gpus: float) -> int:
        """Return how many processes with so many cores and GPUs fit on the idle nodes."""
        needed = {name: n for name, n in (("CPU", cpus), ("GPU", gpus)) if n}
        return sum(
            min(math.floor(node["Resources"].get(name, 0) / n) for name, n in needed.items())
            for node in _live_nodes()
        )

    def require_capacity(
        self, cpus: float, gpus: float, section: str = "ray", worker: str = "worker"
    ) -> int:
        """Return the capacity; raise UserError if it is zero, naming the settings of `section`."""
        capacity = self.capacity(cpus, gpus)
        if not capacity:
            raise UserError(
                f"no node of the cluster has {cpus:g} cores and {gpus:g} GPUs: lower "
                f"{section}.cpus_per_{worker} or {section}.gpus_per_{worker}, or add a node"
            )
        return capacity

    def check_nodes(self, folder: Path) -> None:
        """Raise UserError for a node with other versions or without the run folder."""
        folder.mkdir(parents=True, exist_ok=True)
        own = library_versions()
        marker = folder / f".seen-by-{socket.gethostname()}-{os.getpid()}"
        marker.touch()
        reports = {}
        try:
            for node in _live_nodes():
                near = NodeAffinitySchedulingStrategy(node["NodeID"], soft=True)
                task = _task(_inspect_node).options(scheduling_strategy=near)
                reports[node["NodeManagerAddress"]] = task.remote(marker)
            for name, report in reports.items():
                versions, sees_folder = _result(report)
                for what in _SAME_VERSIONS:
                    if versions.get(what) != own.get(what):
                        raise UserError(
                            f"node {name} of the cluster has {what} {versions.get(what)}, this "
                            f"machine {own.get(what)}: install the same requirements.txt on both"
                        )
                if not sees_folder:
                    raise UserError(
                        f"node {name} of the cluster does not see {folder}: put the run folder on "
                        "a file system that every node mounts at the same path"
                    )
        finally:
            marker.unlink()

    def run_tasks(
        self,
        function: Callable[[Row, Any], Result],
        rows: Sequence[Row],
        shared: Any = None,
        gpus: float = 0.0,
    ) -> Iterator[tuple[int, Result]]:
        """Yield (index, `function(row, shared)`) of each row, computed anywhere in the cluster.

        Results come as they are ready. A task whose node or process dies is run again.

        Args:
            function: It is at the top of a module; what it raises is raised here.
            rows: The first argument of each task.
            shared: The second argument of all tasks.
            gpus: GPUs of one task.

        Raises:
            UserError: if no node has room for a task.
            Failure: if a task dies again and again.
        """
        cpus = self.settings.cpus_per_worker
        self.require_capacity(cpus, gpus)
        task = _task(function, cpus, gpus)
        shared = ray.put(shared)
        waiting = iter(enumerate(rows))
        running: dict[Any, int] = {}
        while True:
            # More than there is room for, so that a free process gets its next task at once.
            max_running = self.settings.workers or 2 * max(1, self.capacity(cpus, gpus))
            while len(running) < max_running and (following := next(waiting, None)) is not None:
                index, row = following
                running[task.remote(row, shared)] = index
            if not running:
                return
            ready, _ = ray.wait(list(running))
            for result in ready:
                yield running.pop(result), _result(result)

    def map_rows(
        self,
        function: Callable[[Row], Result],
        rows: Sequence[Row],
        *,
        rows_per_process: int,
        progress: str | None = None,
    ) -> list[Result]:
        """Return `function` of each row in order, computed on the cluster.

        It is called as `process_pool.map_rows` is; here a worker more costs nothing, so
        `rows_per_process` is not needed.
        """
        cpus = self.settings.cpus_per_worker
        workers = self.settings.workers or self.capacity(cpus, 0)
        size = min(_CHUNK, max(1, math.ceil(len(rows) / max(1, workers))))
        chunks = [rows[start : start + size] for start in range(0, len(rows), size)]
        results: list[list[Result]] = [[] for _ in chunks]
        with tqdm(total=len(rows), desc=progress, disable=None if progress else True) as bar:
            for index, chunk in self.run_tasks(_map_chunk, chunks, function):
                results[index] = chunk
                bar.update(len(chunk))
        return [result for chunk in results for result in chunk]


def local_actor(actor_class: Callable[..., Result]) -> Result:
    """Return a helper actor on this process's own node, so that it outlives other nodes."""
    node = ray.get_runtime_context().get_node_id()
    strategy = NodeAffinitySchedulingStrategy(node, soft=False)
    return actor_class(actor_options={"num_cpus": 0, "scheduling_strategy": strategy})


def _live_nodes() -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]


def _map_chunk(rows: Sequence[Any], function: Callable[[Any], Any]) -> list[Any]:
    return [function(row) for row in rows]


def _inspect_node(marker: Path) -> tuple[dict[str, str], bool]:
    """Return a node's versions, and whether it sees a file of the machine that asks."""
    return library_versions(), marker.exists()


def _task(function: Callable[..., Any], cpus: float = 0, gpus: float = 0) -> Any:
    return ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=_RETRIES)(function)


def _result(reference: Any) -> Any:
    """Return a task's result, or raise what it raised, without Ray's wrapping."""
    try:
        return ray.get(reference)
    except RayTaskError as error:
        if isinstance(error.cause, Exception):
            raise error.cause from None
        raise
    except RayError as error:
        raise Failure(
            f"a piece of work died {_RETRIES + 1} times on the cluster "
            f"({one_line(str(error), 150)}): give it more memory, or lower generate.batch_size; "
            "the same command carries on"
        ) from None
