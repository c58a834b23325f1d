"""The machine and what runs on it: versions, memory, disk."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from nutgraf import __version__

LIBRARIES = ("torch", "transformers", "trl", "peft", "bitsandbytes", "ray", "optuna", "datasets")


@dataclass(frozen=True)
class Memory:
    """Bytes of the machine's memory: what a new process can have, and all of it."""

    free: int
    total: int


def library_versions() -> dict[str, str]:
    """Return the versions of everything that can change a result, by name."""
    found = {"nutgraf": __version__, "python": platform.python_version()}
    for name in LIBRARIES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def machine_info() -> str:
    """Describe the machine in words."""
    return f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPU cores"


def memory_info() -> Memory:
    """Return the memory as the kernel estimates it; if it does not (not Linux), the free pages."""
    page = os.sysconf("SC_PAGE_SIZE")
    total = page * os.sysconf("SC_PHYS_PAGES")
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except FileNotFoundError:
        return Memory(page * os.sysconf("SC_AVPHYS_PAGES"), total)
    (free,) = (line.split()[1] for line in lines if line.startswith("MemAvailable:"))
    return Memory(int(free) * 1024, total)


def free_disk_bytes(path: Path) -> int:
    """Return the free bytes of the disk on which `path` is, or will be."""
    there = path.absolute()
    while not there.exists():
        there = there.parent
    return shutil.disk_usage(there).free
