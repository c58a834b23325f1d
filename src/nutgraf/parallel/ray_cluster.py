"""Ray: on this machine for a search, or a cluster that does a study's work in tasks.

Ray tasks, not actors: those of a node that dies are run again elsewhere, by whichever process is
free, while a restarted actor would wait for cores that others hold. Ray reuses the processes of
tasks, so what they have loaded is loaded once.
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
from nutgraf.core.signals import restore_handlers

# Before Ray is imported. Ray takes 127.0.0.1 for the address of a node it starts here, and opens no
# port beyond it, only where it thinks that the machine cannot be part of a cluster.
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# Ctrl-C is for the search: Ray would end with the trials that it has, as if they were all.
os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
# What goes wrong in a trial is one line of ours; Ray would put its own on standard output.
os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")
os.environ.setdefault("TUNE_PRINT_ALL_TRIAL_ERRORS", "0")
os.environ.setdefault("RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS", "0")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

logger = logging.getLogger(__name__)

Row = TypeVar("Row")
Result = TypeVar("Result")

_CALLS = 3  # from outside, before a cluster counts as not there
_RETRIES = 8  # of a piece of work whose process or node died
PATIENCE = 10.0  # seconds that a cluster has for an answer
_CHUNK = 32  # rows of one task, where rows are short work
_SILENT: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
# What has to be the same on every node for the same results.
_ALIKE = ("nutgraf", "python", "torch", "transformers", "peft")


@contextlib.contextmanager
def this_machine(cpus: int, gpus: float) -> Iterator[None]:
    """Run Ray on this machine alone, on the loopback address. Raises Failure if it cannot start."""
    try:
        ray.init(
            address="local",
            num_cpus=cpus,
            num_gpus=None if gpus else 0,
            include_dashboard=False,
            _node_ip_address="127.0.0.1",
            **_SILENT,
        )
    except Exception as error:  # Ray raises many kinds; each means that there is no search
        raise Failure(
            f"Ray could not start ({one_line(str(error), 200)}): free memory and space in /dev/shm "
            "and /tmp, or stop other Ray processes with `ray stop`"
        ) from error
    with _connected():
        yield


@contextlib.contextmanager
def joined(settings: RayConfig, folder: Path) -> Iterator[Cluster]:
    """Yield the cluster at `settings.address`, each of whose nodes has nutgraf and sees `folder`.

    Raises UserError if there is none, and for a node that lacks one of both.
    """
    try:
        _knock(settings.address or "auto")
        ray.init(address=settings.address, **_SILENT)
    except Exception as error:  # as above
        raise UserError(
            f"no Ray cluster at ray.address {settings.address!r} ({one_line(str(error), 200)}): "
            "start one with `ray start --head`, or correct the address"
        ) from error
    with _connected():
        cluster = Cluster(settings)
        cluster.check(folder)
        if not settings.gpus_per_worker and (gpus := cluster.capacity(0, 1)):
            logger.warning(
                f"the cluster has {gpus} GPUs and ray.gpus_per_worker is 0: none of them is used"
            )
        yield cluster


@contextlib.contextmanager
def visited(address: str) -> Iterator[Visited]:
    """Yield the cluster at `ray://HOST:PORT`, of which this machine is not a node.

    What is printed there is printed here. Raises UserError if it cannot be reached.
    """
    try:
        _knock(address.removeprefix("ray://"))
        _call_on(address)
    except Exception as error:  # as above
        raise UserError(
            f"no Ray cluster at ray.address {address!r} ({one_line(str(error), 200)}): correct it, "
            "open its port of clients (10001), and install ray[client] on both sides"
        ) from error
    with _connected():
        yield Visited()


def _call_on(address: str) -> None:
    """Connect; more than once, since the process that Ray forks for it there now and then dies."""
    for left in reversed(range(_CALLS)):
        try:
            ray.init(address, log_to_driver=True, logging_level=logging.ERROR)
            return
        except ConnectionAbortedError:
            ray.shutdown()
            if not left:
                raise


class Visited:
    """What can be done on a cluster from outside it."""

    def run_task(self, function: Callable[[Row], Result], row: Row) -> Result:
        """Return `function(row)`, run on one of its nodes without taking a core from other work."""
        task = ray.remote(num_cpus=0, max_retries=_RETRIES)(function)
        result: Result = _of_task(task.remote(row))
        return result


def _knock(address: str) -> None:
    """Raise OSError where nobody answers at HOST:PORT; Ray would wait for minutes, and then end."""
    host, _, port = address.rpartition(":")
    if host:
        socket.create_connection((host, int(port)), timeout=PATIENCE).close()


@contextlib.contextmanager
def _connected() -> Iterator[None]:
    restore_handlers()  # else SIGTERM would end it with a trace of Ray's, and leave Ray's processes
    try:
        yield
    finally:
        ray.shutdown()


class Cluster:
    """What stages ask of the cluster that this process has joined."""

    def __init__(self, settings: RayConfig) -> None:
        self.settings = settings

    def capacity(self, cpus: float, gpus: float) -> int:
        """Return how many processes with so many cores and GPUs fit on the idle nodes."""
        wanted = {name: n for name, n in (("CPU", cpus), ("GPU", gpus)) if n}
        return sum(
            min(math.floor(node["Resources"].get(name, 0) / n) for name, n in wanted.items())
            for node in ray.nodes()
            if node["Alive"]
        )

    def room(self, cpus: float, gpus: float) -> int:
        """Return the `capacity`, at least one. Raises UserError if there is none."""
        if capacity := self.capacity(cpus, gpus):
            return capacity
        raise UserError(
            f"no node of the cluster has {cpus:g} cores and {gpus:g} GPUs: lower "
            "ray.cpus_per_worker or ray.gpus_per_worker, or add a node"
        )

    def check(self, folder: Path) -> None:
        """Raise UserError for a node with other versions or without the run folder."""
        folder.mkdir(parents=True, exist_ok=True)
        here = {name: library_versions().get(name) for name in _ALIKE}
        mark = folder / f".seen-by-{socket.gethostname()}-{os.getpid()}"
        mark.touch()
        look = ray.remote(num_cpus=0, max_retries=_RETRIES)(_look)
        try:
            asked = {
                node["NodeManagerAddress"]: look.options(
                    scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=True)
                ).remote(str(mark))
                for node in ray.nodes()
                if node["Alive"]
            }
            for name, found in asked.items():
                there, seen = _of_task(found)
                _same(name, here, there)
                if not seen:
                    raise UserError(
                        f"node {name} of the cluster does not see {folder}: put the run folder on "
                        "a file system that every node mounts at the same path"
                    )
        finally:
            mark.unlink()

    def run_tasks(
        self,
        function: Callable[[Row, Any], Result],
        rows: Sequence[Row],
        shared: Any = None,
        gpus: float = 0.0,
    ) -> Iterator[tuple[int, Result]]:
        """Yield (index, `function(row, shared)`) of each row, computed anywhere in the cluster.

        Results come as they are ready. A task whose node or process dies is run again. What
        `function` raises is raised here, and Failure for a task that dies again and again.
        """
        cpus = self.settings.cpus_per_worker
        self.room(cpus, gpus)
        task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=_RETRIES)(function)
        reference = ray.put(shared)
        waiting = iter(enumerate(rows))
        running: dict[Any, int] = {}
        while True:
            # More than there is room for, so that a process that is done finds the next piece.
            at_once = self.settings.workers or 2 * max(1, self.capacity(cpus, gpus))
            while len(running) < at_once and (following := next(waiting, None)) is not None:
                index, row = following
                running[task.remote(row, reference)] = index
            if not running:
                return
            ready, _ = ray.wait(list(running))
            for result in ready:
                yield running.pop(result), _of_task(result)

    def spread(
        self,
        function: Callable[[Row], Result],
        rows: Sequence[Row],
        *,
        rows_per_process: int,
        processes: int | None = None,
        progress: str | None = None,
    ) -> list[Result]:
        """Return `function` of each row in order, as `cores.spread` does, but on the cluster."""
        cpus = self.settings.cpus_per_worker
        at_once = processes or self.settings.workers or self.capacity(cpus, 0)
        size = min(_CHUNK, max(1, math.ceil(len(rows) / max(1, at_once))))
        chunks = [rows[start : start + size] for start in range(0, len(rows), size)]
        results: list[list[Result]] = [[] for _ in chunks]
        with tqdm(total=len(rows), desc=progress, disable=None if progress else True) as bar:
            for index, chunk in self.run_tasks(_each, chunks, function):
                results[index] = chunk
                bar.update(len(chunk))
        return [result for chunk in results for result in chunk]


def placed_here(kind: Callable[..., Result]) -> Result:
    """Return a helper actor on this process's own node, so that it outlives other nodes."""
    here = ray.get_runtime_context().get_node_id()
    strategy = NodeAffinitySchedulingStrategy(here, soft=False)
    return kind(actor_options={"num_cpus": 0, "scheduling_strategy": strategy})


def _each(rows: Sequence[Any], function: Callable[[Any], Any]) -> list[Any]:
    return [function(row) for row in rows]


def _look(mark: str) -> tuple[dict[str, str], bool]:
    """Return a node's versions, and whether it sees a file of the machine that asks."""
    return library_versions(), Path(mark).exists()


def _same(node: str, here: dict[str, Any], there: dict[str, str]) -> None:
    for name, version in here.items():
        if there.get(name) != version:
            raise UserError(
                f"node {node} of the cluster has {name} {there.get(name)}, this machine {version}: "
                "install the same requirements.txt on both"
            )


def _of_task(reference: Any) -> Any:
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
