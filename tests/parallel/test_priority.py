"""A study leaves the machine to others, who watches it leaves it to the study, and short
commands take it.

A process cannot raise its priority again, so this file is also the program that the test starts.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nutgraf.cli import check
from nutgraf.cli.main import main
from nutgraf.core import priority
from nutgraf.core.errors import UserError
from nutgraf.parallel.background_jobs import run_jobs
from nutgraf.parallel.process_pool import map_rows
from nutgraf.pipeline import runner
from nutgraf.serving import watch

LOW = 7


def niceness(_: object) -> int:
    return os.nice(0)


def observed(folder: str) -> dict[str, list[int]]:
    """The niceness of processes, of a command that checks, and of one that runs a stage."""
    observations: dict[str, list[int]] = {"check": [], "stage": [], "watch": []}

    def look(command: str) -> Any:
        return lambda *arguments, **named: observations[command].append(os.nice(0))

    observations["jobs"] = run_jobs(niceness, [0], processes=1)
    observations["pool"] = map_rows(niceness, [0, 1], rows_per_process=1, processes=2)
    setattr(check, "run", look("check"))  # noqa: B010
    setattr(runner, "run_study", look("stage"))  # noqa: B010
    main(["check"])
    main(["report", "--run", folder])

    def refuse(*arguments: object) -> None:
        look("watch")()
        raise UserError("no address")

    setattr(watch, "bound", refuse)  # noqa: B010
    main(["watch", "--run", folder])
    return observations


def test_what_computes_for_long_has_low_priority(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, __file__, str(tmp_path)],
        env={**os.environ, "RAY_worker_niceness": str(LOW)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    own = os.nice(0)
    low = max(LOW, own)
    assert json.loads(done.stdout) == {
        "check": [own], "stage": [low], "jobs": [low], "pool": [low, low], "watch": [19],
    }  # fmt: skip


@pytest.mark.parametrize("text", ["abc", "", "1.5"])
def test_a_niceness_that_is_no_whole_number_is_refused(
    monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("RAY_worker_niceness", text)
    own = os.nice(0)
    with pytest.raises(UserError) as caught:
        priority.lower_priority()
    assert str(caught.value) == f"RAY_worker_niceness is {text!r}: set it to a whole number"
    assert os.nice(0) == own


if __name__ == "__main__":
    print(json.dumps(observed(sys.argv[1])))
