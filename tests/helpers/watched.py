"""An invented study in the middle of its search, and the server of the page that shows it."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from helpers.loopback import answered
from nutgraf.config import Config
from nutgraf.config.load import to_yaml, with_overrides
from nutgraf.core.files import write_json, write_text
from nutgraf.serving import judge
from nutgraf.serving.watch import Streams, create_app
from nutgraf.watching.snapshot import Watcher

TOKEN = "the-token"
CONFIG = with_overrides(
    Config(),
    {"train.max_examples": 320, "train.eval_every": 80, "search.trials": 6, "search.concurrent": 2},
)
TRIALS = Path(".making/search/search/trials")
_HOLD = """
import fcntl, sys
file = open(sys.argv[1], "a+")
fcntl.lockf(file, fcntl.LOCK_EX)
file.write("process 7 on vm since yesterday\\n")
print(file.flush(), flush=True)
sys.stdin.read()
"""


def write_trial(folder: Path, number: int, losses: Sequence[float], whole: bool = False) -> None:
    """Write a trial with its evaluations so far, whose process has begun."""
    home = folder / TRIALS / str(number)
    record = {
        "values": {"train.learning_rate": number / 1000, "lora.alpha": 2 ** (number % 8)},
        "history": [[80 * (i + 1), loss] for i, loss in enumerate(losses)],
        "seconds": 7.5,
        "row_nll": [1.0] if whole else [],
        "row_tokens": [1] if whole else [],
    }
    write_text(home / "trial.json", json.dumps(record))
    (home / ".lock").touch()


def write_curves(folder: Path, number: int, examples: int) -> None:
    """Write the curves of a trial until so many articles."""
    rows = [
        {"step": n, "examples": n, "learning_rate": 1e-3, "train_loss": 5 - n / examples,
         "validation_loss": None, "seconds": n / 8, "grad_norm": 1.5}
        for n in range(8, examples + 1, 8)
    ]  # fmt: skip
    write_json(folder / TRIALS / str(number) / "adapter.curves.json", rows)


def write_samples(folder: Path, number: int, *texts: str) -> None:
    """Write what a trial wrote of one article at its evaluations."""
    evaluations = [
        {"examples": 80 * i, "loss": 3 - i / 5, "texts": [text]} for i, text in enumerate(texts, 1)
    ]
    articles = [{"article": "A <b>mill</b> burned. " * 40, "reference": "A mill burned."}]
    samples = {"articles": articles, "evaluations": evaluations}
    write_json(folder / TRIALS / str(number) / "adapter.samples.json", samples)


def write_search(folder: Path, error: str = "ValueError: a <b>bad</b> thing") -> None:
    """Write a search: trial 1 whole, 2 stopped, 3 in error, 4 between evaluations, 5 in the queue.

    Two run at a time, so the first two are judged against each other.
    """
    write_text(folder / "config.yaml", to_yaml(CONFIG))
    write_json(folder / ".making/search/claim.json", {})
    write_json(folder / "manifests/data.json", {
        "artefact": "data", "created": 1000.0, "seconds": 5.0, "carried_on": False})  # fmt: skip
    write_json(folder / ".making/search/search/plan.json", {
        "stages": [{"name": "search", "seconds": 90.0, "starting": 10.0}]})  # fmt: skip
    write_trial(folder, 1, [3.0, 2.5, 2.2, 2.1], whole=True)
    write_trial(folder, 2, [4.0, 3.9])
    write_trial(folder, 3, [2.9])
    (folder / TRIALS / "3" / "error.txt").write_text(f"Traceback:\n  File x\n{error}\n")
    os.utime(folder / TRIALS / "3" / "trial.json", (1, 1))
    write_trial(folder, 4, [2.8])
    write_curves(folder, 4, 120)
    write_samples(folder, 4, "<img src=x onerror='document.title = 1'> burned.")
    write_trial(folder, 5, [])
    (folder / TRIALS / "5" / ".lock").unlink()


def snapshot(folder: Path) -> dict[str, Any]:
    """Return all that a run folder says now."""
    return Watcher(folder).latest()


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold the lock of the run folder in another process."""
    command = [sys.executable, "-S", "-c", _HOLD, str(folder / ".lock")]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield
        finally:
            process.kill()


@contextlib.contextmanager
def watching(folder: Path) -> Iterator[str]:
    """Serve the page of a run folder; yield its address, without the token."""
    streams = Streams(Watcher(folder))
    with (
        judge.tab(folder, TOKEN) as judging,
        answered(create_app(streams, TOKEN, judging), streams) as (port, _),
    ):
        yield f"http://127.0.0.1:{port}"
