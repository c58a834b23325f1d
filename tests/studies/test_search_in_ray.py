"""A search in Ray with trials that crash, hang, are killed: undisturbed, and killed and run again.

The trainings are scripted, so that every process fails where it should; all else is real. As a
program this file is the search that the tests start and kill: `test_search_in_ray.py FOLDER
[TRIALS]`.
"""

from __future__ import annotations

import json
import logging
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

LIMIT = 0.1  # minutes, of a trial; so long hangs the one that hangs
LOSS = {1: 0.50, 2: 0.60, 3: 0.40, 4: 0.35, 5: 0.30, 6: 0.25, 7: 0.20, 8: 0.90, 9: 0.15}
STOPPED = {2: 1, 8: 1}  # after this evaluation, by the rule
SLOW = 0.5  # the learning rate of a trial that takes ten times as long


def training(
    values: dict[str, Any],
    folder: Path,
    on_eval: Callable[[Any], None],
    on_step: Callable[[int], None],
) -> list[Any]:
    """Four evaluations, a checkpoint after each; `done-N` counts those really made."""
    number, checkpoint = int(folder.name), folder / "checkpoint"
    (folder.parent.parent / "niceness").write_text(str(os.nice(0)))
    done = folder.parent.parent / f"done-{number}"
    reached = int(checkpoint.read_text()) if checkpoint.exists() else 0
    for evaluation in range(1, 5):
        loss = LOSS[number] + 1 / evaluation
        if evaluation > reached:
            for _ in range(4):
                time.sleep(0.5 if values["train.learning_rate"] == SLOW else 0.05)
                on_step(16 * (evaluation - 1))
            if evaluation == 3:
                loss = _fault(number, folder, loss)
            with done.open("a") as file:
                file.write(f"{evaluation}\n")
            checkpoint.write_text(str(evaluation))
        on_eval(SimpleNamespace(step=evaluation, examples=16 * evaluation, loss=loss))
    (folder / "adapter").mkdir(exist_ok=True)
    return [SimpleNamespace(nll=LOSS[number] * 10, tokens=10)]


def _fault(number: int, folder: Path, loss: float) -> float:
    if number == 3:
        raise ValueError("broken\nin two lines")
    if number == 4 and not (folder / "killed").exists():
        (folder / "killed").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if number == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    if number == 6:
        time.sleep(600)
    return math.nan if number == 7 else loss


def study(trials: int) -> Any:
    """The configuration of a search of so many trials."""
    from nutgraf.config import load

    return load.build_config({
        "train": {"max_examples": 64, "eval_every": 16},
        "search": {"trials": trials, "concurrent": 2, "trial_minutes": LIMIT},
    })  # fmt: skip


def main(folder: Path, trials_of: int) -> None:
    from nutgraf.search import ray_tune
    from nutgraf.search.trial import choose_trial

    class Look(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            print(record.getMessage(), flush=True)
            if not (folder / "ports.json").exists():
                (folder / "ports.json").write_text(json.dumps(sorted(_listening())))

    log = logging.getLogger("nutgraf")
    log.setLevel(logging.INFO)
    log.addHandler(Look())
    config = study(trials_of)
    trials = ray_tune.run_trials(config, training, folder / "trials")
    chosen = choose_trial(trials, config.search.finalists)
    table = [{**trial.record(trial is chosen), "seconds": 0} for trial in trials]
    history = [(trial.number, *point) for trial in trials for point in trial.history]
    result = {"trials": table, "history": history, "best": chosen.values}
    (folder / "result.json").write_text(json.dumps(result))


def _listening() -> Iterator[tuple[str, str]]:
    """Address and program of every socket on which this process and its children listen."""
    me = psutil.Process()
    for process in [me, *me.children(recursive=True)]:
        for socket in process.net_connections(kind="inet"):
            if socket.status == psutil.CONN_LISTEN:
                yield socket.laddr.ip, process.name()


def at_work(session: int) -> list[str]:
    """The trial processes of a session; other helpers of Ray's end later by themselves."""
    names = []
    for process in psutil.process_iter(["name"]):
        try:
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                names.append(process.info["name"])
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return [name for name in names if "Agent" not in name]


class Runs:
    """One search that nobody disturbed, one that was killed twice and run again."""

    def __init__(self, folder: Path) -> None:
        self.undisturbed, self.killed = folder / "undisturbed", folder / "killed"
        self.left: list[list[str]] = []
        self.started: list[subprocess.Popen[bytes]] = []

    def search(self) -> None:
        alone = self._start(self.undisturbed)
        # First when two are at work, one of which is to be stopped, then in the middle of another.
        self._kill_when(lambda: len(self.done(1)) >= 2 and len(self.done(2)) >= 1)
        self.before_2 = self.done(2)
        self._kill_when(lambda: len(self.done(4)) == 3)
        last = self._start(self.killed)
        assert (alone.wait(), last.wait()) == (0, 0), self.said()

    def end(self) -> None:
        for process in self.started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def _start(self, folder: Path, trials: int = len(LOSS)) -> subprocess.Popen[bytes]:
        """The search in a session of its own, so that all its processes can be found and killed."""
        folder.mkdir(exist_ok=True)
        with (folder / "said.txt").open("ab") as said:
            process = subprocess.Popen(
                [sys.executable, __file__, str(folder), str(trials)],
                stdout=said,
                stderr=subprocess.STDOUT,
                env={**os.environ, "RAY_worker_niceness": "1"},
                start_new_session=True,
            )
        self.started.append(process)
        return process

    def _kill_when(self, holds: Callable[[], bool]) -> None:
        process = self._start(self.killed)
        while not holds():
            assert process.poll() is None, self.said()
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        ended = time.monotonic() + 30  # a process that Ray is starting looks for its parent later
        while at_work(process.pid) and time.monotonic() < ended:
            time.sleep(0.1)
        self.left.append(at_work(process.pid))

    def done(self, number: int) -> list[str]:
        file = self.killed / f"done-{number}"
        return file.read_text().split() if file.exists() else []

    def said(self) -> str:
        folders = (self.undisturbed, self.killed)
        return "".join((f / "said.txt").read_text() for f in folders if f.exists())


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    runs = Runs(tmp_path_factory.mktemp("searches"))
    try:
        runs.search()
        yield runs
    finally:
        runs.end()


@pytest.fixture(scope="module")
def table(runs: Runs) -> dict[int, dict[str, Any]]:
    rows = json.loads((runs.undisturbed / "result.json").read_text())["trials"]
    return {row["trial"]: row for row in rows}


def test_killed_twice_and_run_again_the_result_is_as_undisturbed(runs: Runs) -> None:
    undisturbed, killed = (
        json.loads((folder / "result.json").read_text())
        for folder in (runs.undisturbed, runs.killed)
    )
    assert killed == undisturbed


def test_a_killed_search_leaves_no_process_and_what_it_did_is_not_done_again(runs: Runs) -> None:
    assert runs.left == [[], []]
    for number in (1, 4):  # one of each run but the last, though 4 was itself killed in between
        assert runs.done(number) == ["1", "2", "3", "4"]
    assert runs.done(2) == runs.before_2


def test_trials_are_completed_or_stopped_by_the_rule(table: dict[int, dict[str, Any]]) -> None:
    assert list(table) == list(LOSS)
    stopped = {n: row["examples"] // 16 for n, row in table.items() if row["status"] == "stopped"}
    assert stopped == STOPPED
    completed = {n: row["examples"] for n, row in table.items() if row["status"] == "completed"}
    assert completed == {1: 64, 4: 64, 9: 64}
    assert [n for n, row in table.items() if row["chosen"]] == [9]


@pytest.mark.parametrize(
    ("number", "error"),
    [
        (3, "ValueError: broken in two lines"),
        (
            5,
            "its process was killed twice, most likely for want of memory: lower search.concurrent",
        ),
        (6, "no result within 0.1 minutes: raise search.trial_minutes"),
        (7, "the validation loss is nan at step 3: lower the learning rates of search.space"),
    ],
)
def test_a_trial_that_fails_is_a_row_with_fact_and_knob(
    runs: Runs, table: dict[int, dict[str, Any]], number: int, error: str
) -> None:
    assert table[number]["status"] == "error"
    assert table[number]["error"].startswith(error)
    assert table[number]["examples"] == 32  # what it had reported
    said = (runs.undisturbed / "said.txt").read_text()
    assert f"trial {number}/9  failed: {error}" in said


def test_only_the_search_itself_speaks(runs: Runs) -> None:
    said = (runs.undisturbed / "said.txt").read_text().splitlines()
    assert [line for line in said if not line.startswith(("trial ", "search  "))] == []


def test_trials_leave_the_machine_to_others(runs: Runs) -> None:
    assert (runs.undisturbed / "niceness").read_text() == str(max(1, os.nice(0)))


def test_no_port_is_open_beyond_loopback(runs: Runs) -> None:
    listening = json.loads((runs.undisturbed / "ports.json").read_text())
    programs = {program for _, program in listening}
    assert {"gcs_server", "raylet"} <= programs
    assert {address for address, _ in listening} <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


def test_people_steer_a_search_in_ray(tmp_path: Path) -> None:
    """One trial goes on from its checkpoint; one is added, and stopped while it is trained."""
    from nutgraf.search.ledger import LEDGER, Request, ask, read_steers
    from nutgraf.search.scheduler import TrialScheduler

    runs, out = Runs(tmp_path), tmp_path / "killed" / "trials"
    killed = TrialScheduler(study(3), out)  # after the first evaluation of two trials
    for number in (1, 2):
        trial, home = killed.trials[number], out / str(number)
        trial.history = [(16, LOSS[number] + 1)]
        trial.write(home)
        (home / "checkpoint").write_text("1")
        (tmp_path / "killed" / f"done-{number}").write_text("1\n")
    ask(out, Request(do="continue", trial=2, examples=48))
    ask(out, Request(do="add", values={"train.learning_rate": SLOW}))
    try:
        search = runs._start(tmp_path / "killed", trials=3)
        while not runs.done(4):
            assert search.poll() is None, runs.said()
            time.sleep(0.02)
        ask(out, Request(do="stop", trial=4))
        assert search.wait() == 0, runs.said()
    finally:
        runs.end()
    result = json.loads((tmp_path / "killed" / "result.json").read_text())
    rows = [(row["trial"], row["status"], row["proposed_by"]) for row in result["trials"]]
    assert rows == [
        (1, "completed", "random"),
        (2, "stopped", "random"),
        (3, "error", "random"),
        (4, "stopped", "person"),
    ]
    two, four = result["trials"][1], result["trials"][3]
    assert (two["examples"], runs.done(2)) == (48, ["1", "2", "3"])
    assert four["examples"] in (0, 16, 32)
    words = [steer.words.partition(":")[0] for steer in read_steers(out / LEDGER)]
    assert words == [
        "a person let trial 2 go on, from 16 to 48 articles",
        "a person added trial 4",
        f"a person stopped trial 4 after {four['examples']} articles",
    ]


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
