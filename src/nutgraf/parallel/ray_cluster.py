"""Start Ray on this machine for a search, or join a cluster that does a study's work in tasks.

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
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from nutgraf.config import RayConfig
from nutgraf.core.environment import library_versions
from nutgraf.core.errors import Failure, NutgrafError, UserError, one_line
from nutgraf.core.signals import restore_handlers

os.environ.update(
    {
        "RAY_USAGE_STATS_ENABLED": "0",
        # An error in a trial is one line of ours; Ray would put its own on standard output.
        "RAY_DEDUP_LOGS_SKIP_REGEX": ".",
        "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
        "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        "RAY_AIR_NEW_OUTPUT": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        **os.environ,
        # Ray takes 127.0.0.1 for the address of a node it starts here, and opens no port beyond it,
        # only if it thinks that the machine cannot be part of a cluster.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        # Ctrl-C is for the search: Ray would end with the trials that it has, as if they were all.
        "TUNE_DISABLE_SIGINT_HANDLER": "1",
        # Trials read relative paths, as in HF_HOME, where the study does.
        "RAY_CHDIR_TO_TRIAL_DIR": "0",
    }
)
import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

logger = logging.getLogger(__name__)

Row = TypeVar("Row")
Result = TypeVar("Result")

_CONNECTION_ATTEMPTS = 3  # from outside, before a cluster counts as missing
_RETRIES = 8  # of a task whose process or node died
_CONNECTION_TIMEOUT = 10.0  # seconds
_LONGEST_PLACE = 36  # bytes: Ray adds up to 70, and the system takes 107 for a socket
_CHUNK = 32  # rows of one task, if each is short work
# What has to be the same on every node for the same results.
_SAME_VERSIONS = ("nutgraf", "python", "torch", "transformers", "peft")


@contextlib.contextmanager
def local_ray(cpus: int, gpus: float) -> Iterator[None]:
    """Run Ray on this machine alone, on the loopback address. Raise Failure if it cannot start."""
    options: dict[str, Any] = {"num_cpus": cpus, "num_gpus": None if gpus else 0}
    problem = Failure(
        "Ray could not start (REASON): free memory and space in /dev/shm and /tmp (RAY_TMPDIR "
        "names another folder), or stop other Ray processes with `ray stop`"
    )
    place = tempfile.gettempdir()
    with contextlib.ExitStack() as stack:
        if "RAY_TMPDIR" not in os.environ and len(os.fsencode(place)) > _LONGEST_PLACE:
            logger.info(f"{place} (TMPDIR) is too long for Ray's sockets: they are in /tmp")
            short = tempfile.TemporaryDirectory(
                prefix="ray-", dir="/tmp", ignore_cleanup_errors=True
            )
            options["_temp_dir"] = stack.enter_context(short)
        options |= {"include_dashboard": False, "_node_ip_address": "127.0.0.1"}
        stack.enter_context(_session(problem, "local", **options))
        yield


@contextlib.contextmanager
def join_cluster(settings: RayConfig, folder: Path | None = None) -> Iterator[Cluster]:
    """Yield the cluster at `settings.address`, each of whose nodes has nutgraf and sees `folder`.

    Raise UserError if there is none, and for a node that lacks one of both; without a folder nodes
    are not looked at.
    """
    problem = UserError(
        f"no Ray cluster at ray.address {settings.address!r} (REASON): start one with "
        "`ray start --head`, or correct the address"
    )
    with _session(problem, str(settings.address)):
        cluster = Cluster(settings)
        if folder:
            cluster.check_nodes(folder)
        if not settings.gpus_per_worker and (gpus := cluster.capacity(0, 1)):
            logger.warning(
                f"the cluster has {gpus} GPUs and ray.gpus_per_worker is 0: none of them is used"
            )
        yield cluster


@contextlib.contextmanager
def connect_client(address: str) -> Iterator[None]:
    """Connect to the cluster at `ray://HOST:PORT`, of which this machine is not a node.

    The log of its nodes is printed here. Raise UserError if it cannot be reached.
    """
    problem = UserError(
        f"no Ray cluster at ray.address {address!r} (REASON): correct it, open its port of clients "
        "(10001), and install ray[client] on both sides"
    )
    with _session(problem, address, log_to_driver=True):
        yield


@contextlib.contextmanager
def _session(problem: NutgrafError, address: str, **options: Any) -> Iterator[None]:
    """Connect to Ray, and disconnect after the block; if that fails raise `problem`.

    A task of the cluster is connected already, and stays so: a study given from outside is one.
    """
    if ray.is_initialized():
        yield
        return
    try:
        _connect(address, {"log_to_driver": False, "logging_level": logging.ERROR, **options})
    except Exception as error:  # Ray raises many kinds; each means that there is no Ray
        reason = one_line(str(error), 200)
        raise type(problem)(str(problem).replace("REASON", reason)) from error
    restore_handlers()  # else SIGTERM would end it with a trace of Ray's, and leave Ray's processes
    try:
        yield
    finally:
        ray.shutdown()


def _connect(address: str, options: dict[str, Any]) -> None:
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host:  # if nobody answers there Ray would wait for minutes
        socket.create_connection((host, int(port)), timeout=_CONNECTION_TIMEOUT).close()
    for attempts_left in reversed(range(_CONNECTION_ATTEMPTS)):
        try:
            ray.init(address=address, **options)
            return
        except ConnectionAbortedError:  # the process that a cluster forks for a client may die
            ray.shutdown()
            if not attempts_left:
                raise


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
        processes: int | None = None,
        progress: str | None = None,
    ) -> list[Result]:
        """Return `function` of each row in order, as `process_pool.map_rows`, on the cluster."""
        cpus = self.settings.cpus_per_worker
        workers = processes or self.settings.workers or self.capacity(cpus, 0)
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
