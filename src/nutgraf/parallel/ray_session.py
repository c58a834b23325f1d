"""Start Ray on this machine, or connect to it elsewhere, with the settings that a study needs.

Import this module before any other of Ray's: Ray reads its environment as it is loaded.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

from nutgraf.core.errors import Failure, NutgrafError, UserError, one_line
from nutgraf.core.priority import missing_niceness
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
        # Ray adds it to the niceness that a process of a trial inherits.
        "RAY_worker_niceness": str(missing_niceness()),
    }
)
import ray

logger = logging.getLogger(__name__)

_CONNECTION_ATTEMPTS = 3  # before a cluster counts as missing, or Ray as unable to start
_LATE = "timed out during startup"  # what Ray says of a node that it has started
_CONNECTION_TIMEOUT = 10.0  # seconds
# Of named actors. With Ray's own, a new one each time, what a killed run left would not be found.
_NAMESPACE = "nutgraf"
_LONGEST_PLACE = 36  # bytes: Ray adds up to 70, and the system takes 107 for a socket


@contextlib.contextmanager
def local_ray(cpus: int, gpus: float) -> Iterator[None]:
    """Run Ray on this machine alone, on the loopback address. Raise Failure if it cannot start."""
    options: dict[str, Any] = {"num_cpus": cpus, "num_gpus": None if gpus else 0}

    def problem(reason: str) -> Failure:
        return Failure(
            f"Ray could not start ({reason}): free memory and space in /dev/shm and /tmp "
            "(RAY_TMPDIR names another folder), stop other Ray processes with `ray stop`, or let "
            "programs end that keep all processors busy"
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
        stack.enter_context(session(problem, "local", **options))
        yield


@contextlib.contextmanager
def connect_client(address: str) -> Iterator[None]:
    """Connect to the cluster at `ray://HOST:PORT`, of which this machine is not a node.

    The log of its nodes is printed here. Raise UserError if it cannot be reached.
    """

    def problem(reason: str) -> UserError:
        return UserError(
            f"no Ray cluster at ray.address {address!r} ({reason}): correct it, open its port of "
            "clients (10001), and install ray[client] on both sides"
        )

    with session(problem, address, log_to_driver=True):
        yield


@contextlib.contextmanager
def session(problem: Callable[[str], NutgrafError], address: str, **options: Any) -> Iterator[None]:
    """Connect to Ray, and disconnect after the block; if that fails raise `problem(reason)`."""
    try:
        quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
        _connect(address, {"namespace": _NAMESPACE, **quiet, **options})
    except Exception as error:  # Ray raises many kinds; each means that there is no Ray
        raise problem(one_line(str(error), 200)) from error
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
        except Exception as error:
            # The process that a cluster forks for a client may die. And on a busy machine Ray gives
            # the helpers of a node too little time; what they import is in the disk's cache then.
            passing = isinstance(error, ConnectionAbortedError) or _LATE in str(error)
            if passing:
                ray.shutdown()
            if not (passing and attempts_left):
                raise
