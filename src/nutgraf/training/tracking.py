"""The curves of search and training for those who follow them elsewhere.

TensorBoard writes files into the run folder; Weights & Biases, MLflow and trackio are used through
their own libraries, and where they keep it is set as their documentation says (WANDB_MODE,
MLFLOW_TRACKING_URI, TRACKIO_DIR). Each training is a run of the project `nutgraf`; curves are over
articles seen, so that those of different batches compare. Several trainings of one process can be
open at a time.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import logging
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nutgraf.core.errors import UserError

logger = logging.getLogger(__name__)

PROJECT = "nutgraf"

Values = Mapping[str, float]
Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Tracker:
    """One training in one library: `log(articles seen, values by name)`, and its end."""

    log: Callable[[int, Values], None]
    close: Callable[[], None]


def _tensorboard(run: Path, name: str, settings: Settings) -> Tracker:
    from tensorboardX import SummaryWriter

    folder = run / "tensorboard" / name
    shutil.rmtree(folder, ignore_errors=True)
    writer = SummaryWriter(logdir=str(folder))
    writer.add_text("settings", "\n".join(f"    {key}: {value}" for key, value in settings.items()))

    def log(examples: int, values: Values) -> None:
        for curve, value in values.items():
            writer.add_scalar(curve, value, examples)
        writer.flush()  # a search ends the process of a trial when it likes

    return Tracker(log, writer.close)


def _wandb(run: Path, name: str, settings: Settings) -> Tracker:
    import wandb

    opened = wandb.init(
        project=PROJECT,
        group=run.name,
        name=f"{run.name}-{name}",
        config=dict(settings),
        reinit="create_new",
        settings=wandb.Settings(silent=True, console="off"),
    )
    # Validation loss comes as it is measured, training loss at the end: not by the order of calls.
    opened.define_metric("*", step_metric="examples")

    def log(examples: int, values: Values) -> None:
        opened.log({"examples": examples, **values})

    return Tracker(log, opened.finish)


def _mlflow(run: Path, name: str, settings: Settings) -> Tracker:
    from mlflow import MlflowClient

    client = MlflowClient()  # mlflow.log_metrics would log into the run that was opened last
    experiment = client.get_experiment_by_name(PROJECT)
    project = experiment.experiment_id if experiment else client.create_experiment(PROJECT)
    opened = client.create_run(project, run_name=f"{run.name}-{name}", tags={"study": run.name})
    identifier = opened.info.run_id
    for key, value in settings.items():
        client.log_param(identifier, key, value)

    def log(examples: int, values: Values) -> None:
        for curve, value in values.items():
            client.log_metric(identifier, curve, value, step=examples)

    return Tracker(log, lambda: client.set_terminated(identifier))


def _trackio(run: Path, name: str, settings: Settings) -> Tracker:
    import trackio

    opened = trackio.init(
        project=PROJECT, group=run.name, name=f"{run.name}-{name}", config=dict(settings)
    )
    return Tracker(lambda examples, values: opened.log(dict(values), step=examples), opened.finish)


_TRACKERS: dict[str, tuple[str, Callable[[Path, str, Settings], Tracker]]] = {
    "tensorboard": ("tensorboardX", _tensorboard),
    "wandb": ("wandb", _wandb),
    "mlflow": ("mlflow", _mlflow),
    "trackio": ("trackio", _trackio),
}  # each with the library that it needs


def named(trackers: Sequence[str] | None) -> list[str]:
    """Return the trackers asked for; for None TensorBoard, if that is installed.

    Raises UserError for one whose library is not installed.
    """
    if trackers is None:
        return ["tensorboard"] if importlib.util.find_spec("tensorboard") else []
    for name in trackers:
        library, _ = _TRACKERS[name]
        if importlib.util.find_spec(library) is None:
            raise UserError(
                f"tracking.to names {name}, which is not installed: pip install {library}, or "
                "leave it out"
            )
    return list(trackers)


class Curves:
    """One training's curves, to all its trackers. One that fails is reported once and left out."""

    def __init__(self) -> None:
        self._open: dict[str, Tracker] = {}

    def open(self, name: str, tracker: Callable[[], Tracker]) -> None:
        """Add a tracker, unless it cannot be opened."""
        with self._left_out_if_it_fails(name):
            self._open[name] = tracker()

    def evaluated(self, examples: int, loss: float) -> None:
        """Log a validation loss, in nats a token, after so many articles."""
        self._log(examples, {"validation/loss": loss})

    def history(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Log training loss and learning rate: the rows of history.csv."""
        for row in rows:
            if row["train_loss"] is not None:
                loss, rate = row["train_loss"], row["learning_rate"]
                self._log(row["examples"], {"train/loss": loss, "train/learning_rate": rate})

    def close(self) -> None:
        """End the run, for those that want to know it."""
        for name, tracker in list(self._open.items()):
            with self._left_out_if_it_fails(name):
                tracker.close()

    def _log(self, examples: int, values: Values) -> None:
        for name, tracker in list(self._open.items()):
            with self._left_out_if_it_fails(name):
                tracker.log(examples, values)

    @contextlib.contextmanager
    def _left_out_if_it_fails(self, name: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # of any kind: a curve is no reason to lose a training
            self._open.pop(name, None)
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            logger.warning(f"{name}: {reason}; the training goes on without it")


@contextlib.contextmanager
def following(
    trackers: Sequence[str] | None, run: Path, name: str, settings: Settings
) -> Iterator[Curves]:
    """Follow the training `name` of the study in the folder `run`, until the block's end.

    TensorBoard's files go to `run`/tensorboard/`name`, in place of those of an earlier try.
    """
    curves = Curves()
    for tracker in named(trackers):
        _, opener = _TRACKERS[tracker]
        curves.open(tracker, functools.partial(opener, run.resolve(), name, settings))
    try:
        yield curves
    finally:
        curves.close()
