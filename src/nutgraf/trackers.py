"""The curves of search and training for those who follow them elsewhere.

TensorBoard writes files into the run folder; Weights & Biases, MLflow and trackio are told by their
own libraries, and where they keep it is set as their documentation says (WANDB_MODE,
MLFLOW_TRACKING_URI, TRACKIO_DIR). Each training is a run of the project `nutgraf`; curves are over
articles seen, so that those of different batches compare.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from nutgraf.problems import UserError

logger = logging.getLogger(__name__)

PROJECT = "nutgraf"
_LIBRARIES = {name: name for name in ("wandb", "mlflow", "trackio")} | {
    "tensorboard": "tensorboardX"
}

Values = Mapping[str, float]


class _Tracker(Protocol):
    def log(self, examples: int, values: Values) -> None: ...

    def close(self) -> None: ...


def named(trackers: Sequence[str] | None) -> list[str]:
    """The trackers asked for; for None TensorBoard, where that is installed.

    Raises UserError for one whose library is not installed.
    """
    if trackers is None:
        return ["tensorboard"] if importlib.util.find_spec("tensorboard") else []
    for name in trackers:
        if importlib.util.find_spec(_LIBRARIES[name]) is None:
            raise UserError(
                f"tracking.to names {name}, which is not installed: pip install "
                f"{_LIBRARIES[name]}, or leave it out"
            )
    return list(trackers)


class Curves:
    """One training's curves, to all trackers. One that fails is told once and left out."""

    def __init__(self, trackers: Mapping[str, _Tracker]) -> None:
        self._trackers = dict(trackers)

    def evaluated(self, examples: int, loss: float) -> None:
        """A validation loss, in nats a token, after so many articles."""
        self._log(examples, {"validation/loss": loss})

    def history(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Training loss and learning rate: the rows of history.csv."""
        for row in rows:
            if row["train_loss"] is not None:
                loss, rate = row["train_loss"], row["learning_rate"]
                self._log(row["examples"], {"train/loss": loss, "train/learning_rate": rate})

    def close(self) -> None:
        """The end of the run, for those that want to know it."""
        self._each(lambda tracker: tracker.close())

    def _log(self, examples: int, values: Values) -> None:
        self._each(lambda tracker: tracker.log(examples, values))

    def _each(self, do: Callable[[_Tracker], None]) -> None:
        for name, tracker in list(self._trackers.items()):
            try:
                do(tracker)
            except Exception as error:  # of any kind: a curve is no reason to lose a training
                del self._trackers[name]
                reason = " ".join(str(error).split())[:200] or type(error).__name__
                logger.warning(f"{name}: {reason}; the training goes on without it")


@contextlib.contextmanager
def following(
    trackers: Sequence[str] | None, run: Path, name: str, settings: Mapping[str, Any]
) -> Iterator[Curves]:
    """The curves of the training `name` of the study in the folder `run`, until the block's end.

    TensorBoard's files go to `run`/tensorboard/`name`, in place of those of an earlier try.
    """
    run = run.resolve()
    makers: dict[str, Callable[..., _Tracker]] = {
        "tensorboard": _TensorBoard,
        "wandb": _Wandb,
        "mlflow": _MLflow,
        "trackio": _Trackio,
    }
    opened: dict[str, _Tracker] = {}
    for tracker in named(trackers):
        try:
            opened[tracker] = makers[tracker](run, name, settings)
        except Exception as error:  # as in Curves
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            logger.warning(f"{tracker}: {reason}; the training goes on without it")
    curves = Curves(opened)
    try:
        yield curves
    finally:
        curves.close()


class _TensorBoard:
    def __init__(self, run: Path, name: str, settings: Mapping[str, Any]) -> None:
        from tensorboardX import SummaryWriter

        folder = run / "tensorboard" / name
        shutil.rmtree(folder, ignore_errors=True)
        self._writer = SummaryWriter(logdir=str(folder))
        told = "\n".join(f"    {key}: {value}" for key, value in settings.items())
        self._writer.add_text("settings", told)

    def log(self, examples: int, values: Values) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, examples)
        self._writer.flush()  # a search ends the process of a trial when it likes

    def close(self) -> None:
        self._writer.close()


class _Wandb:
    def __init__(self, run: Path, name: str, settings: Mapping[str, Any]) -> None:
        import wandb

        self._run = wandb.init(
            project=PROJECT,
            group=run.name,
            name=f"{run.name}-{name}",
            config=dict(settings),
            reinit="create_new",
            settings=wandb.Settings(silent=True, console="off"),
        )
        # Validation loss is told as it comes, training loss at the end: not by the order of calls.
        self._run.define_metric("*", step_metric="examples")

    def log(self, examples: int, values: Values) -> None:
        self._run.log({"examples": examples, **values})

    def close(self) -> None:
        self._run.finish()


class _MLflow:
    def __init__(self, run: Path, name: str, settings: Mapping[str, Any]) -> None:
        from mlflow import MlflowClient

        self._client = MlflowClient()
        experiment = self._client.get_experiment_by_name(PROJECT)
        found = experiment.experiment_id if experiment else self._client.create_experiment(PROJECT)
        made = self._client.create_run(
            found, run_name=f"{run.name}-{name}", tags={"study": run.name}
        )
        self._id = made.info.run_id
        for key, value in settings.items():
            self._client.log_param(self._id, key, value)

    def log(self, examples: int, values: Values) -> None:
        for name, value in values.items():
            self._client.log_metric(self._id, name, value, step=examples)

    def close(self) -> None:
        self._client.set_terminated(self._id)


class _Trackio:
    def __init__(self, run: Path, name: str, settings: Mapping[str, Any]) -> None:
        import trackio

        self._run = trackio.init(
            project=PROJECT, group=run.name, name=f"{run.name}-{name}", config=dict(settings)
        )

    def log(self, examples: int, values: Values) -> None:
        self._run.log(dict(values), step=examples)

    def close(self) -> None:
        self._run.finish()
