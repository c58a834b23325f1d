"""The pocket study on two Ray nodes of a core each: what a killed node costs, what a second brings.

First a study runs on both nodes undisturbed. Then the same study, the second node killed in the
middle of its search, of its training and of its generation, and started again after each; then its
driver killed in the generation, and the command given again. What came is compared: losses,
summaries and scores by article. Last, summaries and scores are made by one worker and by two, in
turns, whose times say how much of a second worker is of use (1 = all of it).

    python bench/cluster.py [--namespaces] [--rounds 3] [--examples 256] [--test 200] [--only KIND]

With --namespaces each node is in a network namespace of its own, with an address of its own, and
only a pair of virtual cables between them (root). Else both are on loopback addresses.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pty
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

import pandas as pd

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
os.environ["RAY_AUTH_MODE"] = "disabled"

from helpers.nodes import HEAD, SECOND, Nodes, started

NAMES = ("nutgraf-head", "nutgraf-second")
FAR = ("10.77.0.1", "10.77.0.2")  # addresses in the namespaces
KILLS = {"search": r"trial 2/\d", "train": r"baseline .* articles", "generate": "best: +[1-9]"}


def settings(examples: int, test: int) -> dict[str, str]:
    return {
        "data.train-examples": str(examples),
        "data.validation-examples": "32",
        "data.test-examples": str(test),
        "train.max-examples": str(examples),
        "train.eval-every": str(examples // 4),
        "train.eval-examples": "32",
        "search.trials": "4",
        "search.finalists": "1",
        "search.rouge-examples": "16",
        "generate.batch-size": "8",
        "score.resamples": "1000",
        "ray.train-workers": "2",
    }


class Study:
    """The command in a folder; `when` words come, something is done, once."""

    def __init__(self, nodes: Nodes, folder: Path, options: dict[str, str]) -> None:
        self.nodes, self.folder = nodes, folder
        self.words = [sys.executable, "-m", "nutgraf", "run", "configs/pocket.yaml"]
        self.words += ["--run", str(folder), "--ray.address", nodes.address]
        self.words += [word for name, value in options.items() for word in (f"--{name}", value)]

    def run(self, when: dict[str, Callable[[subprocess.Popen[bytes]], None]]) -> tuple[int, float]:
        """Exit status and seconds."""
        began, left = time.monotonic(), dict(when)
        ours, theirs = pty.openpty()  # progress bars are shown on a terminal only
        termios.tcsetwinsize(theirs, (24, 120))
        process = subprocess.Popen(self.words, stderr=theirs)
        os.close(theirs)
        with (
            open(ours, errors="replace") as screen,
            (self.folder.parent / f"{self.folder.name}.log").open("a") as log,
        ):
            for line in _pieces(screen):
                log.write(line + "\n")
                log.flush()
                if re.search(r"died|carries on|\[\d/7\].*done|chosen|failed", line):
                    print(
                        f"    {time.monotonic() - began:5.0f} s  {line.strip()[:110]}", flush=True
                    )
                for words in [words for words in left if re.search(words, line)]:
                    left.pop(words)(process)
        if left and process.wait() == 0:
            raise SystemExit(f"never seen: {', '.join(left)}")
        return process.wait(), time.monotonic() - began


def _pieces(stream: TextIO) -> Iterator[str]:
    """Lines, and the states of a progress bar."""
    text = ""
    with contextlib.suppress(OSError):  # the other side of a terminal is closed
        while character := stream.read(1):
            if character in "\r\n":
                yield text
                text = ""
            else:
                text += character
    yield text


def disturbed(nodes: Nodes, folder: Path, options: dict[str, str]) -> None:
    study = Study(nodes, folder, options)
    second = FAR[1] if nodes.head == FAR[0] else SECOND

    def kill(name: str) -> Callable[[subprocess.Popen[bytes]], None]:
        def do(process: subprocess.Popen[bytes]) -> None:
            nodes.kill(second)
            print(f"    the second node is killed in {name}", flush=True)
            nodes.start(second)

        return do

    def end(process: subprocess.Popen[bytes]) -> None:
        process.send_signal(signal.SIGKILL)
        print("    the driver is killed in generate", flush=True)

    print("killed in search, train and generate")
    kills = {words: kill(name) for name, words in KILLS.items()}
    status, seconds = study.run(kills | {"zero_shot: +[1-9]": end})
    print(f"  driver ended with {status} after {seconds:.0f} s; the same command again")
    left = {words: do for words, do in kills.items() if words == KILLS["generate"]}
    status, seconds = study.run(left)
    print(f"  ended with {status} after {seconds:.0f} s")


def compare(one: Path, other: Path) -> None:
    for name in ("baseline", "best"):
        curves = [pd.read_csv(f / "models" / name / "history.csv") for f in (one, other)]
        columns = ["train_loss", "validation_loss"]
        apart = (curves[0][columns] - curves[1][columns]).abs().max().max()
        print(f"{name}: losses differ by at most {apart:.1e} nats a token")
    trials = [
        pd.read_csv(f / "search" / "trials.csv").drop(columns="seconds") for f in (one, other)
    ]
    proposed = [t.columns[t.columns.str.contains(r"\.")] for t in trials]
    same = trials[0][proposed[0]].equals(trials[1][proposed[1]])
    print(f"search: settings proposed the {'same' if same else 'DIFFERENT'}")
    for path in sorted((one / "scores").glob("*.jsonl")):
        rows = [
            {row["id"]: row for row in map(json.loads, (f / "scores" / path.name).open())}
            for f in (one, other)
        ]
        assert list(rows[0]) == list(rows[1])
        equal = sum(rows[0][i] == rows[1][i] for i in rows[0])
        print(f"{path.stem:<10} {equal} of {len(rows[0])} articles with the same scores")


def efficiency(nodes: Nodes, folder: Path, rounds: int) -> None:
    """Of a finished study: its summaries and scores again, by one worker and by two."""
    from nutgraf.config.load import load_config, with_overrides
    from nutgraf.data import article_store
    from nutgraf.data.prompts import Renderer
    from nutgraf.generation.backends import open_backend
    from nutgraf.modeling.load import load_tokenizer
    from nutgraf.parallel.ray_cluster import Cluster, join_cluster
    from nutgraf.pipeline.stages import score
    from nutgraf.storage.run_folder import RunFolder

    config = load_config(folder / "config.yaml")
    run = RunFolder(folder)
    test = article_store.read_split(run.data("test"))
    renderer = Renderer(load_tokenizer(config.model), config.prompt)
    prompts = [renderer.prompt(a.article).ids for a in test]
    rows = [(a, {"text": a.article[:400], "finish_reason": "stop"}) for a in test] * 20
    times: dict[tuple[str, int], list[float]] = {}

    def timed(what: str, workers: int, work: Callable[[], object]) -> None:
        began = time.perf_counter()
        work()
        times.setdefault((what, workers), []).append(time.perf_counter() - began)

    with join_cluster(config.ray, folder) as both:
        for number in range(rounds + 1):
            for workers in (1, 2) if number % 2 else (2, 1):
                cluster = Cluster(with_overrides(config, {"ray.workers": workers}).ray)
                with open_backend(config, run.model("best"), cluster) as there:
                    timed("generation", workers, lambda w=there: list(w.summaries(prompts)))
                timed(
                    "scores",
                    workers,
                    lambda mapped=cluster.map_rows: mapped(
                        score._scores, rows, rows_per_process=200
                    ),
                )
        assert both.capacity(1, 0) == 2
    print(
        f"{'':<11} {'rows':>6} {'1 worker, s':>12} {'2 workers, s':>13} {'of a second worker':>19}"
    )
    sizes = {"generation": len(prompts), "scores": len(rows)}
    for what, size in sizes.items():
        one, two = (statistics.median(times[what, n][1:]) for n in (1, 2))  # the first one loads
        print(f"{what:<11} {size:>5} {one:>13.2f} {two:>14.2f} {one / two / 2:>14.2f}")


def namespaces() -> None:
    """Two network namespaces with a cable between them; left as they are, they cost nothing."""
    lines = [
        *(f"ip netns add {name}" for name in NAMES),
        f"ip link add cable0 netns {NAMES[0]} type veth peer name cable1 netns {NAMES[1]}",
    ]
    for number, (name, address) in enumerate(zip(NAMES, FAR, strict=True)):
        lines += [
            f"ip -n {name} addr add {address}/24 dev cable{number}",
            f"ip -n {name} link set cable{number} up",
            f"ip -n {name} link set lo up",
        ]
    if not Path("/run/netns", NAMES[0]).exists():
        for line in lines:
            subprocess.run(line.split(), check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--namespaces", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--examples", type=int, default=256)
    parser.add_argument("--test", type=int, default=200)
    parser.add_argument("--only", choices=("kills", "efficiency"))
    args = parser.parse_args()
    if args.namespaces and "NUTGRAF_INSIDE" not in os.environ:
        namespaces()
        os.environ["NUTGRAF_INSIDE"] = "1"
        os.execvp("ip", ["ip", "netns", "exec", NAMES[0], sys.executable, *sys.argv])
    head, second = FAR if args.namespaces else (HEAD, SECOND)
    before = {second: ["ip", "netns", "exec", NAMES[1]]} if args.namespaces else {}
    options = settings(args.examples, args.test)
    with tempfile.TemporaryDirectory() as scratch, started(Path(scratch), head, before) as nodes:
        nodes.start(second)
        nodes.wait(2)
        whole, broken = Path(scratch) / "whole", Path(scratch) / "broken"
        print("undisturbed")
        status, seconds = Study(nodes, whole, options).run({})
        print(f"  ended with {status} after {seconds:.0f} s")
        if args.only != "efficiency":
            disturbed(nodes, broken, options)
            compare(whole, broken)
        if args.only != "kills":
            nodes.start(second)
            nodes.wait(2)
            efficiency(nodes, whole, args.rounds)


if __name__ == "__main__":
    main()
