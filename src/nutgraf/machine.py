"""The machine and what runs on it: versions, memory, disk; whether the Hub answers."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import urllib.error
import urllib.request
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from nutgraf import __version__

LIBRARIES = ("torch", "transformers", "trl", "peft", "bitsandbytes", "ray", "optuna", "datasets")
PATIENCE = 3.0  # seconds that the Hub has for an answer


@dataclass(frozen=True)
class Memory:
    """Bytes of the machine's memory: what a new process can have, and all of it."""

    free: int
    total: int


def versions() -> dict[str, str]:
    """Versions of everything that can change a result."""
    found = {"nutgraf": __version__, "python": platform.python_version()}
    for name in LIBRARIES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def machine() -> str:
    """The machine in words."""
    return f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPU cores"


def memory() -> Memory:
    """As the kernel estimates it; where it does not (not Linux), the pages that are free."""
    page = os.sysconf("SC_PAGE_SIZE")
    total = page * os.sysconf("SC_PHYS_PAGES")
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except FileNotFoundError:
        return Memory(page * os.sysconf("SC_AVPHYS_PAGES"), total)
    (free,) = (line.split()[1] for line in lines if line.startswith("MemAvailable:"))
    return Memory(int(free) * 1024, total)


def disk_free(path: Path) -> int:
    """Bytes free where `path` is, or will be."""
    there = path.absolute()
    while not there.exists():
        there = there.parent
    return shutil.disk_usage(there).free


def hub_trouble() -> str | None:
    """Why the Hub cannot be reached, in a few words; None where it answers, whatever it says."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    request = urllib.request.Request(constants.ENDPOINT, method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=PATIENCE).close()
    except urllib.error.HTTPError:
        return None
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        return " ".join(str(reason).split())[:100] or type(error).__name__
    return None


def in_hub_cache(repository: str, kind: str) -> bool:
    """Whether the cache has it: a `model` with weights, a `dataset` as `datasets` prepares it."""
    from huggingface_hub import constants

    if kind == "dataset":
        own = os.environ.get("HF_DATASETS_CACHE") or Path(constants.HF_HOME) / "datasets"
        return (Path(own) / repository.replace("/", "___")).is_dir()
    folder = Path(constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}"
    return any(folder.glob("snapshots/*/*.safetensors"))
