"""bench/gpu.py, rehearsed on the CPU, and what brings it to a machine without a network."""

from __future__ import annotations

import json
import math
import os
import random
import sys
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gpu
import pytest
import torch

from tools.gpu import gather, join

BENCH = Path(gpu.__file__)
# A worker that measures a little, and stops as the name of its part says.
WORKER = """
    import os, sys, time
    from pathlib import Path
    time.sleep(0.5)  # as if it loaded libraries
    from gpu import Report
    report = Report(Path(sys.argv[1]))
    for part in sys.argv[sys.argv.index("--worker") + 1 :]:
        report.begin(part, 0.1)
        report.add(figure=1.5)
        if part == "train":
            os.abort()
        if part == "generate":
            time.sleep(60)
        report.record("ends", "well")
"""


def work_here(command: Sequence[str], parts: Sequence[str], _: gpu.Report, minutes: float) -> None:
    """Do a worker's work in this process, which has loaded the libraries."""
    python, *argv = command
    assert python == sys.executable
    end = time.time() + 60 * minutes
    sys.argv = [*argv, "--until", str(end), "--worker", *parts]
    gpu.main()


@pytest.mark.usefixtures("quick_trainings")
def test_the_rehearsal_measures_every_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(gpu, "supervise", work_here)
    monkeypatch.setattr(sys, "argv", [str(BENCH), "--rehearse", "--out", str(tmp_path)])
    gpu.main()
    printed = capsys.readouterr()
    (path,) = tmp_path.glob("results-*.jsonl")
    lines = gpu.Report(path).events()
    ended = [line["part"] for line in lines if "ends" in line]
    assert ended == list(gpu.PARTS), printed.out + printed.err
    assert not [line for line in lines if {"failed", "skipped", "missing"} & set(line)]

    def column(part: str, name: str) -> list[Any]:
        return [line[name] for line in lines if line["part"] == part and name in line]

    first = json.dumps(lines[:4])
    assert "torch" in first
    assert "CPU cores" in first
    assert "bf16_product_TFLOPs" in first
    whats = " ".join(column("train", "what"))
    for word in ("nutgraf, NF4", "TRL", "fused AdamW", "compiled", "packed"):
        assert word in whats
    apart, mixed = (
        column("train", name) for name in ("largest_difference_apart", "and_if_they_were_not")
    )
    assert all(10 * a < b for a, b in zip(apart, mixed, strict=True))
    assert column("together", "trials")
    assert column("together", "processes")
    assert set(column("generate", "candidates")) == {1, 2}
    assert column("recipe", "what") == ["baseline", "seed 2", "seed 3"]
    assert all("nan" not in interval for interval in column("recipe", "ROUGE_Lsum"))
    assert len(column("fp16", "validation_loss")) == 3
    assert len(column("plan", "planned")) == len(column("plan", "measured")) == 3
    assert len(column("levers", "what")) == 2
    figures = [value for line in lines for value in line.values() if isinstance(value, float)]
    assert all(map(math.isfinite, figures))
    rows = [line for line in printed.out.splitlines() if line.startswith("| ")]
    assert len(rows) >= sum("share_of_peak" in line for line in lines)


def test_after_a_part_that_dies_or_hangs_the_next_one_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu, "STUCK", 1.0)
    monkeypatch.setattr(gpu, "GRACE", 0.2)
    report = gpu.Report(tmp_path / "results.jsonl")
    command = [sys.executable, "-c", textwrap.dedent(WORKER), str(report.path)]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(BENCH.parent), *sys.path]))
    parts = ["train", "together", "generate", "fp16"]
    gpu.supervise(command, parts, report, minutes=1)
    lines = report.events()
    assert [line["part"] for line in lines if "figure" in line] == parts  # all are kept
    assert {line["part"]: line["failed"] for line in lines if "failed" in line} == {
        "train": "its process ended with status -6",
        "generate": "ended: its time was over",
    }
    assert [line["part"] for line in lines if "ends" in line] == ["together", "fp16"]
    assert "train failed: its process ended" in capfd.readouterr().out
    with pytest.raises(SystemExit, match="plan, levers not measured: its process ended"):
        gpu.supervise([sys.executable, "-c", "exit(1)"], ["plan", "levers"], report, minutes=1)
    gpu.supervise(command, ["plan"], report, minutes=0)
    assert report.events()[-1]["skipped"] == "no time is left"


def test_a_part_gets_what_the_later_ones_leave() -> None:
    shares = {name: part.share for name, part in gpu.PARTS.items()}
    assert sum(shares.values()) < 8 * 60
    left = shares["fp16"] + shares["plan"] + 7
    assert gpu.share_of_time("fp16", ["plan", "levers"], left) == shares["fp16"] + 7
    assert gpu.share_of_time("train", ["plan"], 500) == 500 - shares["plan"]
    assert gpu.share_of_time("train", ["together", "recipe"], 140) == shares["train"]
    assert gpu.share_of_time("levers", [], 40) == 40


def test_pieces_are_small_and_come_together_only_whole(tmp_path: Path) -> None:
    content = random.Random(0).randbytes(50_000)
    (tmp_path / "large").write_bytes(content)
    folder = tmp_path / "pieces"
    folder.mkdir()
    files = {"wheels/large.whl": tmp_path / "large", "bench/gpu.py": BENCH}
    pieces = gather.write_pieces(files, folder, size=16_384)
    assert len(pieces) > 3
    assert all(piece.stat().st_size <= 16_384 for piece in pieces)
    join.unpack(folder, tmp_path / "there")
    assert (tmp_path / "there" / "wheels" / "large.whl").read_bytes() == content
    pieces[1].write_bytes(b"?" + pieces[1].read_bytes()[1:])
    with pytest.raises(SystemExit, match="piece-001 is missing or damaged"):
        join.unpack(folder, tmp_path / "again")
    assert not (tmp_path / "again").exists()
