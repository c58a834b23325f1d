"""What a trial's process does beside training: it works alone in its folder."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from nutgraf.search.trial_worker import _locked

HOLD = """
import fcntl, sys, time
file = open(sys.argv[1], "w")
fcntl.lockf(file, fcntl.LOCK_EX)
print("held", flush=True)
time.sleep(0.5)
print("released", time.monotonic(), flush=True)
"""


def test_a_trial_waits_for_the_process_of_a_killed_search_to_end(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path / ".lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout
        assert other.stdout.readline() == "held\n"
        with _locked(tmp_path):
            entered = time.monotonic()
        released = float(other.stdout.readline().split()[1])
    assert entered >= released
