"""Measure the machine and find out whether a process runs a study."""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
import sys
from pathlib import Path
from typing import Any

import psutil

# struct flock: type, whence, start, length, process, in the order of the system.
_FLOCK = "qqihh" if sys.platform == "darwin" else "hhqqi"


def machine(folder: Path) -> dict[str, Any]:
    """Return load in percent of all cores over 0.1 s, memory and disk in bytes.

    They are rounded, so that noise is no news.
    """
    memory, step = psutil.virtual_memory(), 50_000_000
    return {
        "cores": os.cpu_count(),
        "load": round(psutil.cpu_percent(interval=0.1) / 5) * 5,
        "memory": round((memory.total - memory.available) / step) * step,
        "of_memory": memory.total,
        "free_disk": round(shutil.disk_usage(folder).free / step) * step,
    }


def holder(lock: Path) -> str | None:
    """Return who holds the lock of a run folder, in the lock's words; None if nobody does.

    To ask takes no lock, so it keeps no study from beginning. Whoever asks must not hold the lock
    themselves: the system lets go of all locks of a process with the first file that it closes.
    """
    try:
        with lock.open("rb") as file:
            kind = (fcntl.F_WRLCK, os.SEEK_SET)
            fields = (0, 0, 0, *kind) if sys.platform == "darwin" else (*kind, 0, 0, 0)
            answer = fcntl.fcntl(file, fcntl.F_GETLK, struct.pack(_FLOCK, *fields))
            unpacked = struct.unpack(_FLOCK, answer)
            if unpacked[3 if sys.platform == "darwin" else 0] == fcntl.F_UNLCK:
                return None
            return file.read(300).decode("utf-8", "replace").strip() or "another process"
    except FileNotFoundError:
        return None
