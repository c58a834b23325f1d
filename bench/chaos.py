"""What is lost when a study is killed: nothing, or a difference is printed.

A small pocket study runs once undisturbed. Then the same study is killed at random moments of its
stages, one kill a round, and started again with the same command each time; when it has been killed
in every stage it runs to its end and is compared with the undisturbed one: adapters, summaries and
scores byte for byte, tables without their times. Two kills of three are `kill -9` of the process
group; the third is SIGTERM or Ctrl-C, after which it has to say in its last line, and by its exit
status, that it was stopped.

    python bench/chaos.py [--rounds 30] [--seed 1] [--within 1] [--forked]

With `--forked` each process of the command is forked from one that has loaded the libraries: a
start costs no seconds, and kills come while it works, not while it loads.
"""

from __future__ import annotations

import argparse
import collections
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO, Protocol

import pandas as pd

STAGES = ("prepare", "search", "train", "generate", "score", "compare", "report")
SETTINGS = {
    "data.train-examples": "24",
    "data.validation-examples": "4",
    "data.test-examples": "6",
    "train.max-examples": "24",
    "train.eval-every": "8",
    "train.eval-examples": "4",
    "train.rounds": "1",
    "preference.articles": "6",
    "preference.candidates": "3",
    "lora.dropout": "0.1",
    "search.trials": "3",
    "search.finalists": "1",
    "search.rouge-examples": "2",
    "generate.max-new-tokens": "16",
    "generate.batch-size": "2",
    "score.resamples": "1200",
}
SAME = ("summaries/*.jsonl", "scores/*.jsonl", "models/*/adapter_model.safetensors")
SAME += ("data/*.parquet", "search/best.yaml", "final_best_model/adapter_model.safetensors")
TABLES = ("model_comparison_results.csv", "search/trials.csv", "search/history.csv")
TABLES += ("models/*/history.csv", "analysis/*.csv")
TIMES = ("seconds", "train_seconds", "train s")
ENDED = "after the end"
CARRIES_ON = "; the same command carries on from here"


class Process(Protocol):
    """A running command, in a process group of its own."""

    pid: int

    def poll(self) -> int | None: ...
    def wait(self) -> int: ...


class Forked:
    """The command in a process forked from one that has loaded what all stages need."""

    _context = multiprocessing.get_context("forkserver")

    def __init__(self, words: list[str]) -> None:
        self._context.set_forkserver_preload([f"nutgraf.pipeline.stages.{name}" for name in STAGES])
        ours, theirs = self._context.Pipe(duplex=False)
        self._process = self._context.Process(target=_command, args=(words, theirs))
        self._process.start()
        theirs.close()
        assert self._process.pid
        self.pid = self._process.pid
        self.stderr = os.fdopen(os.dup(ours.fileno()), errors="replace")

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self) -> int:
        self._process.join()
        assert self._process.exitcode is not None
        return self._process.exitcode


def _command(words: list[str], stderr: Connection) -> None:
    """Become `nutgraf WORDS` in a process group of its own."""
    from nutgraf.cli.main import main

    os.setsid()
    os.dup2(stderr.fileno(), 2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    stderr.close()
    sys.exit(main(words))


def _started(words: list[str]) -> tuple[Process, IO[str]]:
    """The command in a new process, and what it says."""
    process = subprocess.Popen(
        [sys.executable, "-m", "nutgraf", *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stderr
    return process, process.stderr


def _forked(words: list[str]) -> tuple[Process, IO[str]]:
    process = Forked(words)
    return process, process.stderr


@dataclass
class Study:
    """The command in a folder, its stages followed in what it says."""

    folder: Path
    forked: bool
    process: Process = field(init=False)
    log: list[str] = field(default_factory=list)
    begun: dict[str, float] = field(default_factory=dict)
    stage: str = "start"

    def start(self) -> None:
        words = [word for name, value in SETTINGS.items() for word in (f"--{name}", value)]
        self.begun.clear()
        self.stage = "start"
        start = _forked if self.forked else _started
        self.process, said = start(["run", "--run", str(self.folder), *words])
        self.reader = threading.Thread(target=self._follow, args=(said,), daemon=True)
        self.reader.start()

    def _follow(self, said: IO[str]) -> None:
        with said:
            for line in said:
                self.log.append(line.rstrip())
                for name in STAGES:
                    if line.startswith("[") and f"] {name} " in line:
                        self.stage = name
                        self.begun.setdefault(name, time.monotonic())

    def finish(self) -> int:
        """Wait for the end; the exit status."""
        status = self.process.wait()
        self.reader.join()
        return status

    def kill(self, how: signal.Signals) -> tuple[str, str]:
        """Send the signal, wait for the end; the stage in which it came, and what was wrong."""
        stage = self.stage
        if self.process.poll() is not None:
            return ENDED, ""
        if how == signal.SIGKILL:
            os.killpg(self.process.pid, how)
            self.finish()
            return stage, ""
        os.kill(self.process.pid, how)
        status, said = self.finish(), self.log[-1] if self.log else "nothing"
        if stage == STAGES[-1] and status in (0, -how):
            return ENDED, ""  # nothing was left to stop, or Python itself was ending
        if stage == "start" and status:  # Python itself is starting, and does not listen yet
            return stage, ""
        said_so = said.startswith(f"nutgraf: stopped by {how.name}") and said.endswith(CARRIES_ON)
        return stage, "" if said_so and status == 128 + how else f"status {status}, said {said!r}"

    def wait_for(self, stage: str) -> bool:
        """Wait until the stage has begun; whether it has before the end of the process."""
        while self.process.poll() is None and stage not in self.begun:
            time.sleep(0.02)
        return stage in self.begun


def undisturbed(folder: Path, forked: bool) -> dict[str, float]:
    """Run it through; seconds of each stage."""
    study = Study(folder, forked)
    study.start()
    assert study.finish() == 0, study.log[-5:]
    ends = [*list(study.begun.values())[1:], time.monotonic()]
    return {name: end - start for (name, start), end in zip(study.begun.items(), ends, strict=True)}


def killed(
    folder: Path,
    stages: list[str],
    lengths: dict[str, float],
    within: float,
    draw: random.Random,
    forked: bool,
) -> Iterator[tuple[str, str, str]]:
    """Kill the study once in each of `stages`, then let it end. Gives signals, stages, and what
    was wrong with its end."""
    study = Study(folder, forked)
    for stage in stages:
        how = (
            signal.SIGKILL
            if draw.random() < 2 / 3
            else draw.choice((signal.SIGTERM, signal.SIGINT))
        )
        study.start()
        if study.wait_for(stage):
            time.sleep(draw.uniform(0, within * lengths[stage]))
        yield how.name, *study.kill(how)
    study.start()
    status = study.finish()
    if status:
        print(f"  ended with {status}: {study.log[-1]}", flush=True)


def differences(expected: Path, actual: Path) -> list[str]:
    """The files in which two run folders differ, times aside."""
    differing = []
    for pattern in (*SAME, *TABLES):
        names = {
            str(p.relative_to(root)) for root in (expected, actual) for p in root.glob(pattern)
        }
        for name in sorted(names):
            one, other = expected / name, actual / name
            if not (one.exists() and other.exists()):
                differing.append(f"{name} is missing")
            elif pattern in TABLES:
                if not _table(one).equals(_table(other)):
                    differing.append(name)
            elif one.read_bytes() != other.read_bytes():
                differing.append(name)
    return differing


def _table(path: Path) -> pd.DataFrame:
    return pd.read_csv(path).drop(columns=list(TIMES), errors="ignore")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=30, help="kills")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--within", type=float, default=1.0, help="share of a stage's length in which kills come"
    )
    parser.add_argument(
        "--forked", action="store_true", help="start processes that have loaded the libraries"
    )
    options = parser.parse_args()
    draw = random.Random(options.seed)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # bit-identical needs the same threads
    kills: collections.Counter[str] = collections.Counter()
    rounds = studies = different = 0
    with tempfile.TemporaryDirectory() as scratch:
        lengths = undisturbed(Path(scratch) / "undisturbed", options.forked)
        print({name: round(s, 1) for name, s in lengths.items()}, flush=True)
        while rounds < options.rounds:
            folder = Path(scratch) / f"killed-{studies}"
            stages = list(STAGES[: options.rounds - rounds])
            for how, stage, wrong in killed(
                folder, stages, lengths, options.within, draw, options.forked
            ):
                if stage == ENDED:
                    continue  # no kill
                rounds += 1
                kills[stage] += 1
                different += bool(wrong)
                print(f"round {rounds}: {how} in {stage} {wrong}".rstrip(), flush=True)
            studies += 1
            actual = differences(Path(scratch) / "undisturbed", folder)
            different += len(actual)
            print(f"study {studies}: {', '.join(actual) or 'no difference'}", flush=True)
    print(f"\n{rounds} rounds, {studies} studies compared, {different} differences")
    for stage in sorted(kills, key=kills.__getitem__, reverse=True):
        print(f"{stage:<12}{kills[stage]:>4} kills")
    print(json.dumps({"rounds": rounds, "kills": kills, "differences": different}))
    sys.exit(different > 0)


if __name__ == "__main__":
    main()
