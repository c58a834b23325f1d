"""Each trial's ROUGE: of the weights that count, whoever trained how far and in which order."""

from __future__ import annotations

import contextlib
import itertools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from helpers import command
from helpers.killer import Killed

from nutgraf.config import Config, load
from nutgraf.core.errors import Failure
from nutgraf.pipeline import steering
from nutgraf.pipeline.runner import run_stage
from nutgraf.search import ray_tune, trial_worker
from nutgraf.search.ledger import LEDGER
from nutgraf.search.scheduler import TrialScheduler
from nutgraf.storage.run_folder import RunFolder

SMALL = {
    "data": {"train_examples": 24, "validation_examples": 6, "test_examples": 4},
    "prompt": {"max_tokens": 320, "max_article_tokens": 240},
    "train": {"max_examples": 24, "eval_every": 8, "eval_examples": 6},
    "search": {"trials": 2, "together": "off", "rouge_examples": 4},
    "generate": {"max_new_tokens": 24},
    "tracking": {"to": []},
}


class Stopped(Exception):
    """Ends the training of a trial that has lost."""


def work(scheduler: TrialScheduler, training: Any, backwards: bool, patient: bool) -> None:
    """Train both trials in this process instead of Ray's.

    `patient` trains a trial that has lost to its end, as one that hears of it late.
    """
    numbers = [trial.number for trial in iter(scheduler.next, None)]
    for number in reversed(numbers) if backwards else numbers:
        trial, home = scheduler.trials[number], scheduler.out / str(number)

        def evaluated(evaluation: Any, trial: Any = trial, home: Path = home) -> None:
            trial.history.append((evaluation.examples, evaluation.loss))
            trial.write(home)
            if not patient and scheduler.update(trial.number).stop is not None:
                raise Stopped

        try:
            rows = training(trial.values, home, evaluated, lambda examples: None)
        except Stopped:
            continue
        trial.row_nll, trial.row_tokens = [r.nll for r in rows], [r.tokens for r in rows]
        trial.write(home)
        scheduler.update(number)


def searched(folder: Path, monkeypatch: pytest.MonkeyPatch, **how: bool) -> pd.DataFrame:
    config: Config = load.build_config({**SMALL, "run": str(folder)})
    monkeypatch.setattr(
        ray_tune, "_run_in_ray", lambda scheduler, training, *_: work(scheduler, training, **how)
    )
    run = RunFolder(config.run)
    run_stage("prepare", config, run)
    run_stage("search", config, run)
    return pd.read_csv(folder / "search" / "trials.csv").drop(columns="seconds")


def test_a_trial_whose_weights_are_lost_is_trained_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As in a search that is restored on another machine without them."""
    config = load.build_config({**SMALL, "run": str(tmp_path / "lossy")})
    run, losses = RunFolder(config.run), itertools.count(1)
    run_stage("prepare", config, run)

    def lossy(scheduler: TrialScheduler, training: Any, *_: object) -> None:
        work(scheduler, training, backwards=False, patient=False)
        for folder in scheduler.out.glob("*/evaluated") if next(losses) <= often else ():
            shutil.rmtree(folder)

    monkeypatch.setattr(ray_tune, "_run_in_ray", lossy)
    often = 2
    with pytest.raises(Failure, match=r"trials \[\d\] have lost the weights .* twice"):
        run_stage("search", config, run)
    often = 0
    run_stage("search", config, run)
    assert sum("is trained again: it has lost its weights" in line for line in caplog.messages) == 2
    again = pd.read_csv(run / "search" / "trials.csv").drop(columns="seconds")
    undisturbed = searched(tmp_path / "whole", monkeypatch, backwards=False, patient=False)
    pd.testing.assert_frame_equal(again, undisturbed)


def test_rouge_is_of_the_weights_that_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once = searched(tmp_path / "at-once", monkeypatch, backwards=False, patient=False)
    late = searched(tmp_path / "late", monkeypatch, backwards=True, patient=True)
    assert sorted(at_once["status"]) == ["completed", "stopped"]
    assert (at_once["rougeLsum"] > 0).all()
    pd.testing.assert_frame_equal(at_once, late)
    trials = tmp_path / "late" / "search" / "trials"
    assert not list(trials.glob("*/evaluated"))
    assert len(list(trials.glob("*/adapter"))) == 1


class Ended(BaseException):
    """The end of a trial's process, which the search has stopped."""


@pytest.mark.usefixtures("quick_trainings")
def test_a_steered_search_that_was_killed_ends_as_a_replay_of_its_ledger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_base: Path
) -> None:
    """A trial is stopped, goes on from its checkpoint, and is killed; another is added, stopped."""
    config: Config = load.build_config({**SMALL, "run": str(tmp_path / "steered")})
    little = {"search.rouge_examples": 1, "generate.max_new_tokens": 9}
    config = load.with_overrides(config, {"model.base": str(tiny_base), **little})
    run = RunFolder(config.run)
    run_stage("prepare", config, run)
    run.config.write_text(load.to_yaml(config))
    shutil.copytree(run.path, tmp_path / "replayed")
    again = RunFolder(tmp_path / "replayed")
    done: list[tuple[int, int]] = []

    def steer(*words: str) -> None:
        said = command.run("trial", *words, "--run", str(run.path)).stdout
        assert said.startswith("Noted. Nothing runs this study")

    def person(number: int, evaluation: int) -> None:
        done.append((number, evaluation))
        if done == [(1, 1)]:
            steer("stop", "1")
        elif (number, evaluation) == (2, 1):
            steer("continue", "1")
            steer("add", "--like", "1", "--train.learning-rate", "3e-4")
        elif (number, evaluation) == (3, 2):
            steer("stop", "3")
        elif done.count((1, 2)) == 1:
            raise Killed

    def work(happens: Callable[[int, int], None]) -> Callable[..., None]:
        def run_all(scheduler: TrialScheduler, training: Any, *_: object) -> None:
            while trial := scheduler.next():
                number, evaluations = trial.number, {0}

                def report(
                    result: dict[str, Any],
                    number: int = number,
                    evaluations: set[int] = evaluations,
                ) -> None:
                    # A slow machine also reports in between, that a trial goes on.
                    if result["evaluations"] not in evaluations:
                        evaluations.add(result["evaluations"])
                        happens(number, result["evaluations"])
                    if scheduler.update(number).stop is not None:
                        raise Ended

                monkeypatch.setattr(trial_worker.tune, "report", report)
                with contextlib.suppress(Ended):
                    out = str(scheduler.out)
                    trial_worker.run_trial({"number": number}, out, training, None)
                scheduler.update(number)
                scheduler.requeue(number)

        return run_all

    def kill(*_: object) -> None:
        raise Killed

    def search(folder: RunFolder, works: Callable[..., None]) -> pd.DataFrame:
        monkeypatch.setattr(ray_tune, "_run_in_ray", works)
        run_stage("search", config, folder)
        return pd.read_csv(folder / "search" / "trials.csv").drop(columns="seconds")

    with pytest.raises(Killed):
        search(run, work(person))
    table = search(run, work(person))
    assert done.count((1, 2)) == 2  # once before the kill
    by_number = table.set_index("trial")
    assert by_number["status"].to_dict() == {
        1: "completed",
        2: by_number["status"][2],
        3: "stopped",
    }
    assert by_number["examples"].to_dict()[3] == 16
    assert by_number["proposed_by"].to_dict() == {1: "random", 2: "random", 3: "person"}
    assert table["rougeLsum"].notna().all()
    assert [words.split(":")[0] for _, words in steering.describe_steers(run)] == [
        "a person stopped trial 1 after 8 articles",
        "a person let trial 1 go on, from 8 to 24 articles",
        "a person added trial 3",
        "a person stopped trial 3 after 16 articles",
    ]
    refused = command.run("trial", "stop", "2", "--run", str(run.path), status=2).stderr
    assert refused.endswith("has ended: trials are steered while it runs\n")
    # In the replay trial 1 is trained in one go.
    with pytest.raises(Killed):
        search(again, kill)
    shutil.copy(run / "search" / "trials" / LEDGER, steering.trials_folder(again.path))
    pd.testing.assert_frame_equal(search(again, work(lambda *_: None)), table)
