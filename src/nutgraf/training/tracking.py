"""Log the curves of search and training to TensorBoard, Weights & Biases, MLflow or trackio.

TensorBoard writes files into the run folder. The others are used through their own libraries, and
their own settings say where they write (WANDB_MODE, MLFLOW_TRACKING_URI, TRACKIO_DIR). Each
training is a run of the project `nutgraf`; curves are over articles seen, so that those of
different batches compare. Several trainings of one process can be open at a time.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from nutgraf.core.errors import UserError, one_line

logger = logging.getLogger(__name__)

PROJECT = "nutgraf"

Values = Mapping[str, float]
Settings = Mapping[str, Any]
Log = Callable[[int, Values], None]  # of (articles seen, values by name)


@contextlib.contextmanager
def _tensorboard(run: Path, name: str, settings: Settings) -> Iterator[Log]:
    from tensorboardX import SummaryWriter

    folder = run / "tensorboard" / name
    shutil.rmtree(folder, ignore_errors=True)
    writer = SummaryWriter(logdir=str(folder))
    writer.add_text("settings", "\n".join(f"    {key}: {value}" for key, value in settings.items()))

    def log(examples: int, values: Values) -> None:
        for curve, value in values.items():
            writer.add_scalar(curve, value, examples)
        writer.flush()  # a search ends the process of a trial when it likes

    yield log
    writer.close()


@contextlib.contextmanager
def _wandb(run: Path, name: str, settings: Settings) -> Iterator[Log]:
    import wandb

    training = wandb.init(
        project=PROJECT,
        group=run.name,
        name=f"{run.name}-{name}",
        config=dict(settings),
        reinit="create_new",
        settings=wandb.Settings(silent=True, console="off"),
    )
    # Validation loss comes as it is measured, training loss at the end: not by the order of calls.
    training.define_metric("*", step_metric="examples")
    yield lambda examples, values: training.log({"examples": examples, **values})
    training.finish()


@contextlib.contextmanager
def _mlflow(run: Path, name: str, settings: Settings) -> Iterator[Log]:
    from mlflow import MlflowClient

    client = MlflowClient()  # mlflow.log_metrics would log into the run that was opened last
    experiment = client.get_experiment_by_name(PROJECT)
    project = experiment.experiment_id if experiment else client.create_experiment(PROJECT)
    training = client.create_run(project, run_name=f"{run.name}-{name}", tags={"study": run.name})
    run_id = training.info.run_id
    for key, value in settings.items():
        client.log_param(run_id, key, value)

    def log(examples: int, values: Values) -> None:
        for curve, value in values.items():
            client.log_metric(run_id, curve, value, step=examples)

    yield log
    client.set_terminated(run_id)


@contextlib.contextmanager
def _trackio(run: Path, name: str, settings: Settings) -> Iterator[Log]:
    import trackio

    training = trackio.init(
        project=PROJECT, group=run.name, name=f"{run.name}-{name}", config=dict(settings)
    )
    yield lambda examples, values: training.log(dict(values), step=examples)
    training.finish()


# By name: the library, and how it is opened.
_TRACKERS = {
    "tensorboard": ("tensorboardX", _tensorboard),
    "wandb": ("wandb", _wandb),
    "mlflow": ("mlflow", _mlflow),
    "trackio": ("trackio", _trackio),
}


def installed_trackers(trackers: Sequence[str] | None) -> list[str]:
    """Return the trackers of `tracking.to`; for None TensorBoard, if that is installed.

    Raise UserError for one whose library is not installed.
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
    """The curves of one training, in all its trackers.

    A tracker that fails is reported once, and logs nothing from then on.
    """

    def __init__(self) -> None:
        self.trackers: dict[str, Log] = {}

    def log_evaluation(self, examples: int, loss: float) -> None:
        """Log a validation loss, in nats per token, after so many articles."""
        self._log(examples, {"validation/loss": loss})

    def log_history(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Log training loss and learning rate: the rows of history.csv."""
        for row in rows:
            if row["train_loss"] is not None:
                loss, rate = row["train_loss"], row["learning_rate"]
                self._log(row["examples"], {"train/loss": loss, "train/learning_rate": rate})

    def _log(self, examples: int, values: Values) -> None:
        for name, log in list(self.trackers.items()):
            with self.isolated(name):
                log(examples, values)

    @contextlib.contextmanager
    def isolated(self, name: str) -> Iterator[None]:
        """Leave out the tracker `name` if the block fails."""
        try:
            yield
        except Exception as error:  # of any kind: a curve is no reason to lose a training
            self.trackers.pop(name, None)
            reason = one_line(error, 200) or type(error).__name__
            logger.warning(f"{name}: {reason}; the training goes on without it")


@contextlib.contextmanager
def track_training(
    trackers: Sequence[str] | None, run: Path, name: str, settings: Settings
) -> Iterator[Curves]:
    """Yield the curves of the training `name` of the study in the folder `run`.

    TensorBoard's files go to `run`/tensorboard/`name`, in place of those of an earlier try.
    """
    curves, contexts = Curves(), {}
    for tracker in installed_trackers(trackers):
        with curves.isolated(tracker):
            contexts[tracker] = _TRACKERS[tracker][1](run.resolve(), name, settings)
            curves.trackers[tracker] = contexts[tracker].__enter__()
    try:
        yield curves
    finally:
        for tracker in list(curves.trackers):
            with curves.isolated(tracker):
                contexts[tracker].__exit__(None, None, None)
