"""Describe the machine and what runs on it: versions and disk."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
from importlib import metadata
from pathlib import Path

from nutgraf import __version__

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
