"""Each trial's ROUGE: of the weights that count, whoever trained how far and in which order."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from nutgraf.config import Config, load
from nutgraf.core.errors import Failure
from nutgraf.pipeline.runner import run_stage
from nutgraf.search import ray_tune
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

        def evaluated(found: Any, trial: Any = trial, home: Path = home) -> None:
            trial.history.append((found.examples, found.loss))
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
