"""What a trial's process does beside training: it works alone in its folder."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from nutgraf.modeling.losses import RowLoss
from nutgraf.search import trial_worker
from nutgraf.search.trial import Trial
from nutgraf.search.trial_worker import _locked, run_trial

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


def test_a_trial_that_succeeds_at_last_leaves_no_error_of_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reports: list[dict[str, Any]] = []
    monkeypatch.setattr(trial_worker.tune, "report", reports.append)
    trial = Trial(3, {"lora.r": 4})
    (tmp_path / "3").mkdir()
    trial.write(tmp_path / "3")

    def fails(*_: object) -> list[RowLoss]:
        raise ValueError("no such layer")

    run_trial({"number": 3}, str(tmp_path), fails, None)
    assert reports == [{"error": "ValueError: no such layer"}]
    assert "no such layer" in (tmp_path / "3" / "error.txt").read_text()
    run_trial({"number": 3}, str(tmp_path), lambda *_: [RowLoss(2.0, 4)], None)
    saved = Trial.read(tmp_path / "3")
    assert saved is not None
    assert saved.completed
    assert not (tmp_path / "3" / "error.txt").exists()
    assert len(reports) == 1
