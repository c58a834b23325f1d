"""Describe the machine and what runs on it: versions, disk, variables of launchers."""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import re
import shutil
from importlib import metadata
from pathlib import Path

from nutgraf import __version__

logger = logging.getLogger(__name__)

# What torchrun, accelerate, DeepSpeed and MPI leave for the processes that they start. accelerate
# and transformers read it: they would wait for other processes, or train with other settings.
_LAUNCHERS = re.compile(
    "(ACCELERATE|FSDP|FP8|MEGATRON_LM|PARALLELISM_CONFIG|TORCHELASTIC|PET|PMI|PMIX|OMPI|MPI|MV2)_.*"
    "|((LOCAL|GROUP|ROLE|NODE|CROSS)_)?(RANK|WORLD_SIZE)|ROLE_NAME|MASTER_(ADDR|PORT)"
    "|CCL_WORKER_COUNT|FORK_LAUNCHED"
)

LIBRARIES = ("torch", "transformers", "trl", "peft", "bitsandbytes", "ray", "optuna", "datasets")


def library_versions() -> dict[str, str]:
    """Return the versions of everything that can change a result, by name."""
    versions = {"nutgraf": __version__, "python": platform.python_version()}
    for name in LIBRARIES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


def machine_info() -> str:
    """Describe the machine in words."""
    return f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPU cores"


def free_disk_bytes(path: Path) -> int:
    """Return the free bytes of the disk on which `path` is, or will be."""
    path = path.absolute()
    return shutil.disk_usage(next(p for p in (path, *path.parents) if p.exists())).free


def ignore_launchers() -> None:
    """Take variables of launchers out of the environment, and warn of them in one line.

    A study trains in one process on one machine, or in those that Ray starts, and passes the
    environment on to processes that it starts.
    """
    names = sorted(filter(_LAUNCHERS.fullmatch, os.environ))
    for name in names:
        del os.environ[name]
    if names:
        more = f" and {len(names) - 4} more" if len(names) > 4 else ""
        logger.warning(
            f"{', '.join(names[:4])}{more} ignored: nutgraf is no program for torchrun, accelerate "
            "or MPI; several processes train if ray.address names a cluster"
        )
