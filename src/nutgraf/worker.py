"""One trial of a search, in a process of Ray's that keeps what it has loaded for the next one.

The trial's folder is its memory: evaluations in trial.json, checkpoints beside the adapter. So a
trial that is started again, in this search or a later one, goes on where it was.
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

from nutgraf import config as configuration
from nutgraf.files import is_full
from nutgraf.loading import quickly
from nutgraf.problems import Failure, UserError
from nutgraf.trials import HANG, Trial, evaluated_weights

if TYPE_CHECKING:
    from nutgraf.inference import RowLoss
    from nutgraf.prompts import Example
    from nutgraf.settings import Config
    from nutgraf.trainer import Evaluation

REPORT_EVERY = 1.0  # seconds


class Training(Protocol):
    """Train with `values` into `folder`; the validation rows of the best evaluation.

    It calls `on_eval` at each evaluation, those made before it was interrupted first, and
    `on_step` often; both may end it by raising.
    """

    def __call__(
        self,
        values: Mapping[str, Any],
        folder: Path,
        on_eval: Callable[[Evaluation], None],
        on_step: Callable[[], None],
    ) -> Sequence[RowLoss]: ...


def fitting(
    values: Mapping[str, Any],
    folder: Path,
    on_eval: Callable[[Evaluation], None],
    on_step: Callable[[], None],
    *,
    config: Config,
    train: Sequence[Example],
    validation: Sequence[Example],
) -> Sequence[RowLoss]:
    """The Training of a search: `fit()` with `config`, in which `values` are replaced."""
    with quickly():
        from nutgraf.checkpoints import copy_best
        from nutgraf.model import choose_device, fresh_adapter, load_base, load_tokenizer
        from nutgraf.trainer import fit

    def evaluated(found: Evaluation) -> None:
        copy_best(folder / "adapter", found.step, evaluated_weights(folder, found.examples))
        on_eval(found)

    settings = configuration.replace(config, values)
    base = load_base(settings.model)
    with fresh_adapter(base, settings.lora, settings.train.seed) as model:
        done = fit(
            model,
            load_tokenizer(settings.model),
            train,
            validation,
            settings.train,
            choose_device(settings.model),
            folder / "adapter",
            on_eval=evaluated,
            on_step=on_step,
        )
    return done.best.rows


def work(given: Mapping[str, Any], out: str, training: Training, minutes: float | None) -> None:
    """Do trial `given["number"]` in its folder of `out`; report to Ray that there is something new.

    What goes wrong is reported as an `error` and leaves the process ready for the next trial;
    the traceback stands in error.txt. A full disk is no fault of the trial: it is reported as
    `full`, with the place. Only the death of the process is a failure to Ray.
    """
    folder = Path(out) / str(given["number"])
    try:
        with _alone(folder):
            _attempt(folder, training, minutes)
    except OSError as error:
        if not is_full(error):
            raise
        tune.report({"full": str(error.filename or folder)})


def _attempt(folder: Path, training: Training, minutes: float | None) -> None:
    trial = Trial.read(folder)
    assert trial is not None  # the search has written its settings
    try:
        with _limited(folder, minutes, trial.seconds):
            _do(trial, folder, training)
    except Exception as error:
        if isinstance(error, OSError) and is_full(error):
            raise
        (folder / "error.txt").write_text(traceback.format_exc())
        kind = "" if isinstance(error, UserError | Failure) else f"{type(error).__name__}: "
        tune.report({"error": f"{kind}{error}"})


def _do(trial: Trial, folder: Path, training: Training) -> None:
    started = time.monotonic() - trial.seconds
    reported = 0.0
    evaluations = 0

    def report() -> None:
        nonlocal reported
        reported = time.monotonic()
        tune.report({"evaluations": len(trial.history)})

    def evaluated(found: Evaluation) -> None:
        nonlocal evaluations
        evaluations += 1
        if evaluations <= len(trial.history):
            return  # known from before the interruption
        if not math.isfinite(found.loss):
            raise Failure(
                f"the validation loss is {found.loss} at step {found.step}: lower the learning "
                "rates of search.space or train.max_grad_norm, or set model.dtype to fp32"
            )
        trial.history.append((found.examples, found.loss))
        trial.seconds = time.monotonic() - started
        trial.write(folder)
        report()

    def still_wanted() -> None:
        """Let the search judge the latest evaluation again: it may have learned of others."""
        if trial.history and time.monotonic() - reported > REPORT_EVERY:
            report()

    if trial.completed:
        return
    still_wanted()
    rows = training(trial.values, folder, evaluated, still_wanted)
    trial.row_nll, trial.row_tokens = [r.nll for r in rows], [r.tokens for r in rows]
    trial.seconds = time.monotonic() - started
    trial.write(folder)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Wait until no other process works in `folder`: one of a killed search may be about to end."""
    with (folder / ".lock").open("w") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _limited(folder: Path, minutes: float | None, seconds: float) -> Iterator[None]:
    """End the process when the trial, `seconds` old, gets older than `minutes`.

    What hangs outside Python hears neither an exception nor a signal handler, so the process goes,
    and leaves in hang.txt where it stood. Raises Failure in the process that comes after it.
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
