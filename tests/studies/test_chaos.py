"""A study killed once in each of its stages ends as one that nobody disturbed: bench/chaos.py."""

from __future__ import annotations

import json
import subprocess
import sys

from helpers.places import ROOT

BENCH = ROOT / "bench" / "chaos.py"
STAGES = ("prepare", "search", "train", "generate", "score", "compare", "report")


def test_killed_once_in_each_stage_a_study_ends_as_if_undisturbed() -> None:
    done = subprocess.run(
        # Early in each stage, so that none is over before its kill on a machine that got faster.
        [sys.executable, str(BENCH), "--rounds", str(len(STAGES)), "--within", "0.3", "--forked"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert (result["rounds"], result["differences"]) == (len(STAGES), 0)
    # Stages that take a second or two may be over before their kill, which comes in the next.
    assert {"search", "train"} <= set(result["kills"]), done.stdout
    assert sum(result["kills"].get(stage, 0) for stage in STAGES) == len(STAGES), done.stdout
