"""Does a study that is killed again and again end as one that nothing disturbs?

    python bench/kills.py --kills 20 --seed 1 [--from train] [--section.field VALUE ...]

runs a small study once, then the same command in another folder, ended at random moments in random
ways (the whole process group killed, the first process alone killed, SIGTERM, Ctrl-C) until it has
been ended so often; then it may come to its end. Prints each end, and which files differ. With
`--from` the stages before are taken from the first folder.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SMALL = {
    "data.train-examples": "160", "data.validation-examples": "12", "data.test-examples": "24",
    "train.max-examples": "128", "train.eval-every": "16", "train.eval-examples": "8",
    "lora.dropout": "0.1", "search.trials": "3", "search.rouge-examples": "4",
    "generate.max-new-tokens": "48", "generate.batch-size": "6",
}  # fmt: skip
ARTEFACTS = {
    "prepare": ["data"], "search": ["search"], "train": ["models"], "generate": ["summaries"],
    "score": ["scores"],
    "compare": ["comparison", "analysis", "model_comparison_results.csv", "final_best_model"],
    "report": ["figures", "report"],
}  # fmt: skip
ENDS = ("group", "parent", "SIGTERM", "SIGINT")
COSTS = {"seconds", "peak_memory_bytes", "train_seconds", "created"}


def start(folder: Path, settings: list[str]) -> subprocess.Popen[bytes]:
    words = [word for name, value in SMALL.items() for word in (f"--{name}", value)]
    log = (folder.parent / f"{folder.name}.log").open("ab")
    return subprocess.Popen(
        [sys.executable, "-m", "nutgraf.cli", "run", "--run", str(folder), *words, *settings],
        stdout=log, stderr=log, start_new_session=True,
    )  # fmt: skip


def end(process: subprocess.Popen[bytes], how: str) -> int:
    if how == "group":
        os.killpg(process.pid, signal.SIGKILL)
    else:
        number = {"parent": signal.SIGKILL}.get(how) or signal.Signals[how]
        os.kill(process.pid, number)
    return process.wait()


def contents(folder: Path) -> dict[str, Any]:
    """What must be the same, by name: files whole, tables and records without times and memory."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if not path.is_file() or name.split("/")[0] in ("manifests", "figures", "search", ".lock"):
            continue
        if name.startswith(("report.", "config.yaml", "final_best_model/README")):
            continue  # they tell times, and the folder's name
        if path.suffix == ".csv":
            with path.open(newline="") as file:
                rows = list(csv.DictReader(file))
            found[name] = [{k: v for k, v in row.items() if k not in COSTS} for row in rows]
        elif path.suffix == ".json":
            found[name] = plain(json.loads(path.read_text()))
        else:
            found[name] = path.read_bytes()
    return found


def plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items() if k not in COSTS}
    return value


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--longest", type=float, default=40, help="seconds until an end, at most")
    parser.add_argument("--from", dest="first", choices=ARTEFACTS, default="prepare")
    parser.add_argument("--in", dest="place", type=Path, default=None)
    options, settings = parser.parse_known_args()
    place = options.place or Path(tempfile.mkdtemp(prefix="kills-"))
    whole, ended = place / "whole", place / "ended"
    if not (whole / "report.md").exists() and start(whole, settings).wait():
        print((place / "whole.log").read_text()[-2000:])
        return 1
    shutil.rmtree(ended, ignore_errors=True)
    shutil.copytree(whole, ended)
    for stage in list(ARTEFACTS)[list(ARTEFACTS).index(options.first) :]:
        for name in ARTEFACTS[stage]:
            shutil.rmtree(ended / name, ignore_errors=True)
            for path in [*ended.glob(f"{name}.*"), *ended.glob(f"manifests/{name}*")]:
                path.unlink()
    draw = random.Random(options.seed)
    for number in range(1, options.kills + 1):
        process = start(ended, settings)
        seconds, how = draw.uniform(0, options.longest), draw.choice(ENDS)
        try:
            print(f"{number}: ended by itself with {process.wait(timeout=seconds)}")
            break
        except subprocess.TimeoutExpired:
            status = end(process, how)
        lines = (place / "ended.log").read_bytes().decode().splitlines()
        last = lines[-1][-100:] if lines else ""
        print(f"{number}: {how} after {seconds:.1f} s, status {status}: {last}", flush=True)
        time.sleep(0.2)
    started = time.monotonic()
    status = start(ended, settings).wait()
    print(f"then undisturbed: status {status} after {time.monotonic() - started:.0f} s")
    one, other = contents(whole), contents(ended)
    different = [name for name in one.keys() | other.keys() if one.get(name) != other.get(name)]
    print(f"{len(one)} files, {len(different)} differ: {', '.join(sorted(different)) or 'none'}")
    return 1 if different or status else 0


if __name__ == "__main__":
    sys.exit(main())
