"""Run one trial of a search in a process of Ray's, which the next trial uses again.

The trial's folder is its memory: evaluations in trial.json, checkpoints beside the adapter. So a
trial that is started again, in this search or a later one, resumes.
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from ray import tune

from nutgraf.core.errors import Failure, UserError, is_full
from nutgraf.core.fast_import import fast_imports
from nutgraf.search.trial import HANG, SearchInputs, Trial, time_limit

if TYPE_CHECKING:
    from nutgraf.modeling.losses import RowLoss
    from nutgraf.training.history import Evaluation


REPORT_EVERY = 1.0  # seconds


# A function of (overrides, folder, on_eval, on_step) that trains with `overrides` into `folder` and
# returns the rows' losses of the best evaluation. It calls `on_eval` at each evaluation, first for
# those before an interruption, and `on_step` often, with the number of examples seen so far; both
# may end it by raising.
Training: TypeAlias = Callable[
    [Mapping[str, Any], Path, Callable[["Evaluation"], None], Callable[[int], None]],
    Sequence["RowLoss"],
]


def train_trial(
    overrides: Mapping[str, Any],
    folder: Path,
    on_eval: Callable[[Evaluation], None],
    on_step: Callable[[int], None],
    *,
    inputs: SearchInputs,
) -> Sequence[RowLoss]:
    """Train in this process: the Training of a search whose trials are trained alone."""
    with fast_imports():
        from nutgraf.training.fit import fit_adapter

    return fit_adapter(inputs.job(overrides, folder, on_eval, on_step)).best.rows


def run_trial(
    trial: Mapping[str, Any], out: str, training: Training, minutes: float | None
) -> None:
    """Run trial `trial["number"]` in its folder of `out`; report to Ray that there is news.

    An exception is reported as an `error`, with its traceback in error.txt, and leaves the process
    ready for the next trial. A full disk is no fault of the trial: it is reported as `full`, with
    the path. Only the death of the process is a failure to Ray.
    """
    folder = Path(out) / str(trial["number"])
    try:
        with _locked(folder):
            _run_locked(folder, training, minutes)
    except OSError as error:
        if not is_full(error):
            raise
        tune.report({"full": str(error.filename or folder)})


def _run_locked(folder: Path, training: Training, minutes: float | None) -> None:
    trial = Trial.read(folder)
    assert trial is not None  # the search has written its settings
    (folder / "error.txt").unlink(missing_ok=True)  # of an earlier run: it is tried again
    try:
        with _trial_time_limit(folder, minutes, trial.seconds):
            _train(trial, folder, training)
    except Exception as error:
        if isinstance(error, OSError) and is_full(error):
            raise
        (folder / "error.txt").write_text(traceback.format_exc())
        kind = "" if isinstance(error, UserError | Failure) else f"{type(error).__name__}: "
        tune.report({"error": f"{kind}{error}"})


def _train(trial: Trial, folder: Path, training: Training) -> None:
    started = time.monotonic() - trial.seconds
    reported, evaluations = time.monotonic(), 0

    def report(examples: int) -> None:
        nonlocal reported
        reported = time.monotonic()
        tune.report({"evaluations": len(trial.history), "examples": examples})

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
        report(evaluation.examples)

    def on_step(examples: int) -> None:
        """Report progress; the search judges the latest evaluation against new ones again."""
        if time.monotonic() - reported > REPORT_EVERY:
            report(examples)

    if trial.completed:
        return
    if trial.history:
        report(trial.history[-1][0])
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
def _trial_time_limit(folder: Path, minutes: float | None, seconds: float) -> Iterator[None]:
    """End the process when the trial, `seconds` old, gets older than `minutes`.

    Its traceback is in hang.txt then, for which the process that comes after it raises Failure.
    """
    hang = folder / HANG
    if minutes is None:
        yield
        return
    if hang.exists() and hang.stat().st_size:
        raise Failure(f"no result within {minutes:g} minutes: raise search.trial_minutes")
    with hang.open("w") as file, time_limit(max(1.0, 60 * minutes - seconds), file):
        yield
    hang.unlink()
