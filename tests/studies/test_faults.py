"""What goes wrong is told in one line, with the knob, and what was done before it is kept."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import jobs, little

from nutgraf.config import Config
from nutgraf.core.errors import Failure
from nutgraf.parallel.background_jobs import run_jobs
from nutgraf.parallel.process_pool import map_rows
from nutgraf.training.history import Evaluation
from nutgraf.training.sft_trainer import AdapterTrainer

pytestmark = pytest.mark.usefixtures("quick_trainings")

# A loss that is not a number.


def poisoned(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Makes a weight of the adapter nan at the end of the step."""
    ended = AdapterTrainer._maybe_log_save_evaluate

    def poison(self: AdapterTrainer, *args: Any, **kwargs: Any) -> None:
        if self.state.global_step == step:
            weight = next(p for p in self.model.parameters() if p.requires_grad)
            weight.data.fill_(math.nan)
        ended(self, *args, **kwargs)

    monkeypatch.setattr(AdapterTrainer, "_maybe_log_save_evaluate", poison)


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (3, r"the loss is nan at step 4, learning rate 3\.00e-03: lower train\.learning_rate"),
        (4, r"the validation loss is nan after step 4, learning rate 3\.00e-03: lower train\."),
    ],
)
def test_a_loss_that_is_not_a_number_ends_it_with_the_last_good_checkpoint_kept(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int, message: str
) -> None:
    poisoned(monkeypatch, step)
    with pytest.raises(Failure, match=message):
        little.train(tiny_base, tmp_path / "a")
    (checkpoint,) = (tmp_path / ".a.checkpoints").glob("checkpoint-*")
    assert checkpoint.name == "checkpoint-2"
    weights = torch.load(checkpoint / "optimizer.pt", weights_only=True)["state"]
    assert all(torch.isfinite(state["exp_avg"]).all() for state in weights.values())


# No memory on the device.


def without_memory(monkeypatch: pytest.MonkeyPatch, rows: int, after: int = 0) -> list[int]:
    """No micro-batch of more than so many rows fits after that step; gives what was tried."""
    loss, tried = AdapterTrainer.compute_loss, []

    def compute_loss(
        self: AdapterTrainer, model: Any, inputs: Any, *args: Any, **kwargs: Any
    ) -> Any:
        tried.append(len(inputs["input_ids"]))
        if tried[-1] > rows and self.state.global_step >= after:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return loss(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(AdapterTrainer, "compute_loss", compute_loss)
    return tried


def test_a_micro_batch_that_does_not_fit_is_halved_and_the_result_is_that_of_the_smaller_one(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    small, other = tmp_path / "small", tmp_path / "other"
    little.train(tiny_base, small, micro_batch_size=2, gradient_accumulation_steps=4)
    without_memory(monkeypatch, rows=2)
    done = little.train(tiny_base, other)
    assert capsys.readouterr().err == (
        "other: no memory on the device for 4 articles at a time: goes on with 2, 4 times a step "
        "(train.micro_batch_size)\n"
    )
    name = "adapter_model.safetensors"
    assert (small / name).read_bytes() == (other / name).read_bytes()
    record = done.record(Config(train=little.SETTINGS))
    assert (record["micro_batch_size"], record["gradient_accumulation_steps"]) == (2, 4)
    assert record["examples"] == 48


def test_in_the_middle_it_goes_on_from_the_checkpoint_and_a_stop_does_not_forget_it(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    seen: list[Evaluation] = []

    def stop_after_four(evaluation: Evaluation) -> None:
        seen.append(evaluation)
        if evaluation.step == 4:
            raise KeyboardInterrupt

    tried = without_memory(monkeypatch, rows=1, after=3)
    with pytest.raises(KeyboardInterrupt):
        little.train(tiny_base, tmp_path / "a", on_eval=stop_after_four)
    assert [evaluation.step for evaluation in seen] == [2, 4]  # none of them twice
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(":")[2][:40] for line in lines] == [
        " no memory on the device for 4 articles ",
        " carries on from checkpoint-2",
        " no memory on the device for 2 articles ",
        " carries on from checkpoint-2",
    ]
    tried.clear()
    assert little.train(tiny_base, tmp_path / "a").micro_batch_size == 1
    assert set(tried) == {1}
    assert capsys.readouterr().err == "a: carries on from checkpoint-4\n"


def test_where_one_article_does_not_fit_the_knobs_are_told(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_memory(monkeypatch, rows=0)
    message = (
        r"a: no memory on the device for one article of up to \d+ tokens \(CUDA out of memory.*\): "
        r"lower prompt\.max_tokens, or set train\.activation_checkpointing"
    )
    with pytest.raises(Failure, match=message):
        little.train(tiny_base, tmp_path / "a")


# Processes.


@pytest.mark.parametrize(
    ("bad", "message"),
    [("fails", "the loss is nan"), ("killed", "ended with status -9")],
)
def test_where_one_job_goes_wrong_the_other_comes_to_its_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], bad: str, message: str
) -> None:
    with pytest.raises(Failure, match=message):
        run_jobs(jobs.fails_or_takes_longer, [tmp_path / bad, tmp_path / "good"], processes=2)
    assert (tmp_path / "good").read_text() == "done"
    assert "failed, what else is under way goes on: " in capsys.readouterr().err


def test_jobs_give_what_they_return_in_order_however_many_at_a_time(tmp_path: Path) -> None:
    names = ["a", "b", "c"]
    rows = [tmp_path / name for name in names]
    assert run_jobs(jobs.fails_or_takes_longer, rows, processes=2) == names


def test_a_killed_process_of_many_rows_is_a_failure_and_no_endless_wait() -> None:
    with pytest.raises(Failure, match="one of 2 processes was killed"):
        map_rows(jobs.kills_itself, range(8), rows_per_process=1, processes=2)


def until(true: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_jobs_end_with_what_started_them(tmp_path: Path, number: int) -> None:
    """Killed, it takes them along; asked to stop, it lets each come to the end of its step."""
    process = subprocess.Popen(
        [sys.executable, jobs.__file__, str(tmp_path)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip

    def pid(job: str) -> int:
        file = tmp_path / f"{job}.pid"
        return int(file.read_text() or 0) if file.exists() else 0

    until(lambda: all(map(pid, "ab")))
    pids = [pid(job) for job in "ab"]
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    until(lambda: not any(map(alive, pids)))
    saved = [(tmp_path / f"{job}.saved").exists() for job in "ab"]
    if number == signal.SIGKILL:
        assert process.returncode == -signal.SIGKILL
        assert saved == [False, False]
    else:
        assert process.returncode == 128 + number
        assert output == f"stopped by {signal.Signals(number).name}\n"
        assert saved == [True, True]
