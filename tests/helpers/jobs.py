"""Jobs for processes of their own; `python tests/helpers/jobs.py FOLDER` has two of them."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from nutgraf.core import signals
from nutgraf.core.errors import Failure
from nutgraf.parallel.background_jobs import run_jobs


def fails_or_takes_longer(path: Path) -> str:
    """A job that fails, one that is killed, or one that takes longer, by the name of its file."""
    if path.name == "fails":
        raise Failure("the loss is nan")
    if path.name == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.5)
    path.write_text("done")
    return path.name


def kills_itself(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def steps_until_stopped(path: Path) -> None:
    """Says its process in a file, and in another one that it came to the end of its step."""
    with signals.deferred_stop() as asked:
        path.with_suffix(".pid").write_text(str(os.getpid()))
        while not asked():
            time.sleep(0.05)
        path.with_suffix(".saved").write_text("")


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    try:
        with signals.stop_on_signals():
            run_jobs(steps_until_stopped, [folder / "a", folder / "b"], processes=2)
    except signals.Stopped as stop:
        print(stop, flush=True)
        sys.exit(stop.exit_code)
