"""One trial of a search, in a process of Ray's that keeps what it has loaded for the next one.

The trial's folder is its memory: evaluations in trial.json, checkpoints beside the adapter. So a
trial that is started again, in this search or a later one, resumes.
"""

from __future__ import annotations

import contextlib
import faulthandler
import fcntl
import math
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ray import tune

from nutgraf.config import load
from nutgraf.core.errors import Failure, UserError
from nutgraf.core.fast_import import fast_imports
from nutgraf.core.files import is_full
from nutgraf.search.trial import HANG, Trial, evaluated_weights

if TYPE_CHECKING:
    from nutgraf.config import Config
    from nutgraf.data.prompts import Example
    from nutgraf.modeling.losses import RowLoss
    from nutgraf.training.history import Evaluation


REPORT_EVERY = 1.0  # seconds


class Training(Protocol):
    """Train with `overrides` into `folder`; return the rows' losses of the best evaluation.

    It calls `on_eval` at each evaluation, first for those before an interruption, and `on_step`
    often; both may end it by raising.
    """

    def __call__(
        self,
        overrides: Mapping[str, Any],
        folder: Path,
        on_eval: Callable[[Evaluation], None],
        on_step: Callable[[], None],
    ) -> Sequence[RowLoss]: ...


def train_trial(
    overrides: Mapping[str, Any],
    folder: Path,
    on_eval: Callable[[Evaluation], None],
    on_step: Callable[[], None],
    *,
    config: Config,
    train: Sequence[Example],
    validation: Sequence[Example],
) -> Sequence[RowLoss]:
    """Train with `overrides` to `config`: the Training of a search whose trials train alone."""
    with fast_imports():
        from nutgraf.training.checkpoints import copy_best
        from nutgraf.training.fit import fit_adapter
        from nutgraf.training.job import TrainingJob

    out = folder / "adapter"

    def copy_and_report(evaluation: Evaluation) -> None:
        copy_best(out, evaluation.step, evaluated_weights(folder, evaluation.examples))
        on_eval(evaluation)

    job = TrainingJob(
        load.with_overrides(config, overrides),
        train,
        validation,
        out,
        title=f"trial {folder.name}",
        on_eval=copy_and_report,
        on_step=on_step,
    )
    return fit_adapter(job).best.rows


def work(trial: Mapping[str, Any], out: str, training: Training, minutes: float | None) -> None:
    """Do trial `trial["number"]` in its folder of `out`; report to Ray that there is news.

    What goes wrong is reported as an `error` and leaves the process ready for the next trial;
    the traceback is in error.txt. A full disk is no fault of the trial: it is reported as `full`,
    with the place. Only the death of the process is a failure to Ray.
    """
    folder = Path(out) / str(trial["number"])
    try:
        with _locked(folder):
            _attempt(folder, training, minutes)
    except OSError as error:
        if not is_full(error):
            raise
        tune.report({"full": str(error.filename or folder)})


def _attempt(folder: Path, training: Training, minutes: float | None) -> None:
    trial = Trial.read(folder)
    assert trial is not None  # the search has written its settings
    try:
        with _time_limit(folder, minutes, trial.seconds):
            _train(trial, folder, training)
    except Exception as error:
        if isinstance(error, OSError) and is_full(error):
            raise
        (folder / "error.txt").write_text(traceback.format_exc())
        kind = "" if isinstance(error, UserError | Failure) else f"{type(error).__name__}: "
        tune.report({"error": f"{kind}{error}"})


def _train(trial: Trial, folder: Path, training: Training) -> None:
    started = time.monotonic() - trial.seconds
    reported = 0.0
    evaluations = 0

    def report() -> None:
        nonlocal reported
        reported = time.monotonic()
        tune.report({"evaluations": len(trial.history)})

    def on_eval(evaluation: Evaluation) -> None:
        nonlocal evaluations
        evaluations += 1
        if evaluations <= len(trial.history):
            return  # from before the interruption
        if not math.isfinite(evaluation.loss):
            raise Failure(
                f"the validation loss is {evaluation.loss} at step {evaluation.step}: lower the "
                "learning rates of search.space or train.max_grad_norm, or set model.dtype to fp32"
            )
        trial.history.append((evaluation.examples, evaluation.loss))
        trial.seconds = time.monotonic() - started
        trial.write(folder)
        report()

    def on_step() -> None:
        """Report again, so that the search can judge the latest evaluation against new ones."""
        if trial.history and time.monotonic() - reported > REPORT_EVERY:
            report()

    if trial.completed:
        return
    on_step()
    rows = training(trial.values, folder, on_eval, on_step)
    trial.row_nll, trial.row_tokens = [row.nll for row in rows], [row.tokens for row in rows]
    trial.seconds = time.monotonic() - started
    trial.write(folder)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Wait until no other process works in `folder`: that of a killed search may be ending."""
    with (folder / ".lock").open("w") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _time_limit(folder: Path, minutes: float | None, seconds: float) -> Iterator[None]:
    """End the process when the trial, `seconds` old, gets older than `minutes`.

    Code that hangs outside Python runs neither exceptions nor signal handlers, so the process ends
    and leaves its traceback in hang.txt. Raises Failure in the process that comes after it.
    """
    if minutes is None:
        yield
        return
    hang = folder / HANG
    if hang.exists() and hang.stat().st_size:
        raise Failure(f"no result within {minutes:g} minutes: raise search.trial_minutes")
    with hang.open("w") as file:
        left = max(1.0, 60 * minutes - seconds)
        faulthandler.dump_traceback_later(left, exit=True, file=file)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()
    hang.unlink()
