"""Curves for other programs: the same in all of them, and never a reason to lose a training.

W&B, MLflow and trackio are tested where they are installed, each as it works without a server.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nutgraf.core.errors import UserError
from nutgraf.training import tracking
from nutgraf.training.tracking import Curves, Log, installed_trackers, track_training

HISTORY = [
    {"step": 1, "examples": 8, "learning_rate": 2e-3, "train_loss": 3.5, "validation_loss": None},
    {"step": 2, "examples": 16, "learning_rate": None, "train_loss": None, "validation_loss": 2.5},
    {"step": 3, "examples": 24, "learning_rate": 1e-3, "train_loss": 2.0, "validation_loss": None},
]
SETTINGS = {"train.learning_rate": 2e-3, "lora.target_modules": ["q_proj"], "model.base": "pocket"}
LOSS = {16: 2.5, 32: 1.75}


def followed(names: list[str], run: Path, name: str = "best") -> None:
    """A training of two evaluations and a history."""
    with track_training(names, run, name, SETTINGS) as curves:
        for examples, loss in LOSS.items():
            curves.log_evaluation(examples, loss)
        curves.log_history(HISTORY)


def scalars(folder: Path) -> dict[str, dict[int, float]]:
    """Values by name and step in TensorBoard's files, whose records are parsed by tensorboardX."""
    from tensorboardX.proto.event_pb2 import Event

    curves: dict[str, dict[int, float]] = {}
    for file in folder.iterdir():
        data, at = file.read_bytes(), 0
        while at < len(data):  # length, its checksum, the event, its checksum
            size = int.from_bytes(data[at : at + 8], "little")
            event = Event.FromString(data[at + 12 : at + 12 + size])
            at += size + 16
            for value in event.summary.value:
                if value.HasField("simple_value"):
                    curves.setdefault(value.tag, {})[event.step] = value.simple_value
    return curves


def losses(tracker: str, folder: Path, name: str) -> dict[int, float]:
    """Validation losses by articles seen, of one training of the study `pocket` in `folder`."""
    if tracker == "tensorboard":
        return scalars(folder / "pocket" / "tensorboard" / name)["validation/loss"]
    import mlflow

    client = mlflow.MlflowClient()
    project = client.get_experiment_by_name("nutgraf").experiment_id
    runs = {run.info.run_name: run.info.run_id for run in client.search_runs([project])}
    history = client.get_metric_history(runs[f"pocket-{name}"], "validation/loss")
    return {point.step: point.value for point in history}


def test_tensorboard_gets_every_curve_over_articles_seen(tmp_path: Path) -> None:
    followed(["tensorboard"], tmp_path)
    curves = scalars(tmp_path / "tensorboard" / "best")
    assert curves["validation/loss"] == LOSS
    assert curves["train/loss"] == {8: 3.5, 24: 2.0}
    assert curves["train/learning_rate"] == pytest.approx({8: 2e-3, 24: 1e-3})


def test_a_training_that_is_made_again_replaces_its_curves(tmp_path: Path) -> None:
    with track_training(["tensorboard"], tmp_path, "best", {}) as curves:
        curves.log_evaluation(8, 9.0)
    followed(["tensorboard"], tmp_path)
    assert scalars(tmp_path / "tensorboard" / "best")["validation/loss"] == LOSS
    assert [path.name for path in (tmp_path / "tensorboard").iterdir()] == ["best"]


def test_tensorboard_is_followed_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    installed: set[str] = set()
    find = lambda name: name if name in installed else None  # noqa: E731
    monkeypatch.setattr(tracking.importlib.util, "find_spec", find)
    assert installed_trackers(None) == installed_trackers([]) == []
    installed.add("tensorboard")
    assert installed_trackers(None) == ["tensorboard"]
    with pytest.raises(UserError, match="names wandb, which is not installed: pip install wandb"):
        installed_trackers(["wandb"])
    installed.add("wandb")
    assert installed_trackers(["wandb"]) == ["wandb"]


def test_a_tracker_that_fails_is_told_once_and_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def lost(*_: object) -> None:
        raise ConnectionError("no route to the\nserver")

    @contextlib.contextmanager
    def opened(*_: object) -> Iterator[Log]:
        yield lost
        raise AssertionError("it was left out")

    def refused(*_: object) -> Any:
        raise PermissionError("no key")

    monkeypatch.setitem(tracking._TRACKERS, "mlflow", ("", opened))
    monkeypatch.setitem(tracking._TRACKERS, "wandb", ("", refused))
    monkeypatch.setattr(tracking, "installed_trackers", lambda names: names)
    followed(["mlflow", "wandb", "tensorboard"], tmp_path)
    assert capsys.readouterr().err.splitlines() == [
        "wandb: no key; the training goes on without it",
        "mlflow: no route to the server; the training goes on without it",
    ]
    assert scalars(tmp_path / "tensorboard" / "best")["validation/loss"] == LOSS


def test_a_training_that_fails_closes_its_curves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[str] = []

    @contextlib.contextmanager
    def tracker(*_: object) -> Iterator[Log]:
        yield lambda *_: None
        closed.append("closed")

    monkeypatch.setitem(tracking._TRACKERS, "tensorboard", ("tensorboardX", tracker))

    def training() -> None:
        with track_training(["tensorboard"], tmp_path, "best", {}):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        training()
    assert closed == ["closed"]


@pytest.mark.parametrize("tracker", ["tensorboard", "mlflow"])
def test_trainings_that_run_together_keep_their_own_curves(alone: Path, tracker: str) -> None:
    if tracker == "mlflow":
        pytest.importorskip("mlflow")
    with (
        track_training([tracker], alone / "pocket", "baseline", {}) as baseline,
        track_training([tracker], alone / "pocket", "best", {}) as best,
    ):
        baseline.log_evaluation(8, 1.0)
        best.log_evaluation(8, 2.0)
        baseline.log_evaluation(16, 0.5)
    assert losses(tracker, alone, "baseline") == {8: 1.0, 16: 0.5}
    assert losses(tracker, alone, "best") == {8: 2.0}


def test_nothing_is_followed_where_nothing_is_named(tmp_path: Path) -> None:
    followed([], tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder where every tracker keeps what it is told, without a server."""
    monkeypatch.chdir(tmp_path)
    for name, value in {
        "WANDB_MODE": "offline", "WANDB_DIR": str(tmp_path), "WANDB_SILENT": "true",
        "WANDB_CACHE_DIR": str(tmp_path / "cache"), "WANDB_CONFIG_DIR": str(tmp_path / "config"),
        "WANDB_DATA_DIR": str(tmp_path / "data"),
        "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db",
        "TRACKIO_DIR": str(tmp_path / "trackio"),
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    return tmp_path


def test_mlflow_gets_every_curve(alone: Path) -> None:
    mlflow = pytest.importorskip("mlflow")
    followed(["mlflow"], alone / "pocket")
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("nutgraf")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == "pocket-best"
    assert run.info.status == "FINISHED"
    assert run.data.params["model.base"] == "pocket"
    history = client.get_metric_history(run.info.run_id, "validation/loss")
    assert {point.step: point.value for point in history} == LOSS
    assert run.data.metrics["train/loss"] == 2.0


def test_wandb_gets_every_curve(alone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wandb = pytest.importorskip("wandb")
    followed(["wandb"], alone / "pocket")
    wandb.teardown()  # what else happens at the end of a process: all is written
    assert "goes on without it" not in capsys.readouterr().err
    (file,) = alone.glob("wandb/offline-run-*/run-*.wandb")
    content = file.read_bytes()
    for part in (b"validation/loss", b"train/loss", b"train/learning_rate", b"pocket-best"):
        assert part in content


def test_trackio_gets_every_curve(alone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("trackio")
    followed(["trackio"], alone / "pocket")
    assert "goes on without it" not in capsys.readouterr().err
    with contextlib.closing(sqlite3.connect(alone / "trackio" / "nutgraf.db")) as database:
        rows = database.execute("select run_name, step, metrics from metrics").fetchall()
    losses = {step: json.loads(values).get("validation/loss") for _, step, values in rows}
    assert losses == {**LOSS, 8: None, 24: None}
    assert {name for name, *_ in rows} == {"pocket-best"}


def test_curves_can_be_without_a_tracker() -> None:
    curves = Curves()
    curves.log_evaluation(1, 1.0)
