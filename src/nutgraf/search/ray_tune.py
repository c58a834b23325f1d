"""Run the trials of a search in Ray Tune, as the scheduler names and stops them.

Ray decides nothing and stores nothing: proposals, verdicts and results are the scheduler's.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import logging
import math
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from nutgraf.config import Config
from nutgraf.core.errors import Failure
from nutgraf.core.progress import Progress
from nutgraf.data.examples import Example
from nutgraf.parallel import ray_cluster, ray_session  # before Ray: its environment
from nutgraf.search import trial_worker
from nutgraf.search.packed_client import PackedTraining
from nutgraf.search.scheduler import TrialScheduler
from nutgraf.search.trial import SearchInputs, Trial

# isort: split
from ray import tune
from ray.tune.experiment import Trial as RayTrial
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

# How often the process of a trial may die before the trial counts as failed: on this machine for
# want of memory, on a cluster with its node, whose trials go on elsewhere.
MAX_DEATHS, MAX_DEATHS_ON_CLUSTER = 1, 8

logger = logging.getLogger(__name__)
logging.getLogger("ray.tune").setLevel(logging.CRITICAL)


def run_search(
    config: Config,
    train: Sequence[Example],
    validation: Sequence[Example],
    out: Path,
    together: bool = False,
    max_packed: int | None = None,
    begun_with: int | None = None,
) -> list[Trial]:
    """Try `config.search.trials` settings and return all trials by number.

    The adapter of a completed trial is in `out/<number>/adapter`. If `out` holds what an
    interrupted search with the same arguments left, the search resumes from it. A trial that fails
    is a Trial with its error.

    Args:
        config: The search's configuration.
        train: Rows to train on.
        validation: Rows to evaluate on.
        out: Folder of the trials.
        together: Whether one process trains the trials, packed, in place of a process each.
        max_packed: Trials that are trained in one pass, if `together`; None for all.
        begun_with: `search.concurrent` at the start of the search; None if it starts now.

    Raises:
        Failure: if no trial is completed, or if Ray cannot start.
        OSError: if a disk is full, after which the search can be resumed.
    """
    inputs = SearchInputs(config, train, list(validation))
    alone = functools.partial(trial_worker.train_trial, inputs=inputs)
    training = PackedTraining(inputs, max_packed) if together else alone
    return run_trials(config, training, out.resolve(), begun_with)


def run_trials(
    config: Config,
    training: trial_worker.Training | PackedTraining,
    out: Path,
    begun_with: int | None = None,
) -> list[Trial]:
    """Run the search with any `training`; `out` is an absolute path."""
    scheduler = TrialScheduler(config, out, begun_with)
    if not scheduler.finished:
        _run_in_ray(scheduler, training)
    if scheduler.full_disk:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), scheduler.full_disk)
    if not scheduler.finished:
        raise Failure("Ray ended before the search: run the same command again, which goes on")
    trials = scheduler.results()
    if not any(trial.status == "completed" for trial in trials):
        errors = [trial.error for trial in trials if trial.status == "error"]
        change = "change search.space or raise search.trials"
        if scheduler.ledger.steers:
            change = "let one go on with `nutgraf trial continue`, and run the same command again"
        raise Failure(
            f"none of {len(trials)} trials was completed, {len(errors)} failed, the first with: "
            f"{errors[0] if errors else 'no error'}; {change}"
        )
    scheduler.remove_scratch()
    return trials


def _run_in_ray(
    scheduler: TrialScheduler, training: trial_worker.Training | PackedTraining
) -> None:
    config, packed = scheduler.config, isinstance(training, PackedTraining)
    search = config.search
    max_deaths = MAX_DEATHS_ON_CLUSTER if config.ray.address else MAX_DEATHS
    scratch = scheduler.out / ".ray"
    shutil.rmtree(scratch, ignore_errors=True)
    with contextlib.ExitStack() as stack:
        trials = stack.enter_context(_ray(config, packed, scheduler.out))
        stack.callback(shutil.rmtree, scratch, ignore_errors=True)
        if isinstance(training, PackedTraining):
            training = stack.enter_context(training.open(scheduler.out))
        progress = stack.enter_context(Progress("search", scheduler.progress()[1], at_most=True))
        trainable = tune.with_parameters(
            trial_worker.run_trial,
            out=str(scheduler.out),
            training=training,
            minutes=search.trial_minutes,
        )
        # The engine has the GPU if trials are trained together.
        gpus = 0 if packed else search.gpus_per_trial
        tune.Tuner(
            tune.with_resources(trainable, {"cpu": search.cpus_per_trial, "gpu": gpus}),
            tune_config=tune.TuneConfig(
                num_samples=-1,  # until there is none
                max_concurrent_trials=trials,
                reuse_actors=True,  # the next trial finds the frozen base in memory
                search_alg=_Proposals(scheduler),
                scheduler=_EarlyStopping(scheduler, max_deaths, progress),
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=str(scratch),
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=max_deaths),  # see on_trial_error
            ),
        ).fit()


@contextlib.contextmanager
def _ray(config: Config, packed: bool, out: Path) -> Iterator[int]:
    """Start Ray here or join the cluster; yield how many trials run at a time.

    Packed trials take no core for themselves.
    """
    search = config.search
    if config.ray.address is None:
        trials = search.concurrent if packed else search.parallel_trials
        if trials < search.concurrent:
            logger.warning(
                f"{os.cpu_count()} cores: {trials} instead of {search.concurrent} trials at a time"
            )
        cpus = math.ceil(trials * search.cpus_per_trial)
        with ray_session.local_ray(cpus, search.gpus_per_trial):
            yield trials
        return
    with ray_cluster.join_cluster(config.ray, out) as cluster:
        capacity = cluster.require_capacity(
            search.cpus_per_trial, search.gpus_per_trial, "search", "trial"
        )
        logger.info(
            f"cluster: room for {capacity} trials at a time, search.concurrent is "
            f"{search.concurrent}"
        )
        yield search.concurrent  # if there is less room they wait, for nodes that join too


class _Proposals(Searcher):
    """Gives Ray the scheduler's trials, one after the other."""

    def __init__(self, scheduler: TrialScheduler) -> None:
        super().__init__()
        self.scheduler = scheduler

    def suggest(self, trial_id: str) -> Any:
        """Return the next trial; None, and Ray asks again, while there may be one later."""
        trial = self.scheduler.next()
        if trial is None:
            over = self.scheduler.finished or bool(self.scheduler.full_disk)
            self.scheduler.closed = over  # Ray asks for no further trial
            return Searcher.FINISHED if over else None
        return {"number": trial.number}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Do nothing: `_EarlyStopping` has told the scheduler."""

    def save(self, checkpoint_path: str) -> None:
        """Write the file that Ray asks for; nothing is ever read from it."""
        Path(checkpoint_path).touch()


class _EarlyStopping(FIFOScheduler):
    """Passes Ray's reports on to our scheduler, and its verdicts back to Ray."""

    def __init__(self, scheduler: TrialScheduler, max_deaths: int, progress: Progress) -> None:
        super().__init__()
        self.scheduler, self.max_deaths, self.progress = scheduler, max_deaths, progress

    def on_trial_result(self, tune_controller: Any, trial: RayTrial, result: dict[str, Any]) -> str:
        """Return whether to stop the trial that has reported."""
        number = trial.config["number"]
        self.scheduler.full_disk = self.scheduler.full_disk or result.get("full")
        if self.scheduler.full_disk:
            return self.STOP
        if "error" in result:
            self.scheduler.fail(number, result["error"])
            return self.STOP
        self.scheduler.seen[number] = result["examples"]
        verdict = self.scheduler.update(number)
        self.progress.update(*self.scheduler.progress())
        return self.CONTINUE if verdict.stop is None else self.STOP

    def on_trial_complete(
        self, tune_controller: Any, trial: RayTrial, result: dict[str, Any]
    ) -> None:
        """Read the trial's last results; queue it again if it went on just before it ended."""
        self.scheduler.update(trial.config["number"])
        self.scheduler.requeue(trial.config["number"])

    def on_trial_error(self, tune_controller: Any, trial: RayTrial) -> None:
        """Fail a trial whose process died, the only error that Ray sees, too often.

        If the process had just ended another trial and this one was about to begin, requeue it.
        """
        number = trial.config["number"]
        if not trial.should_recover():
            times = "twice" if self.max_deaths == 1 else f"{self.max_deaths + 1} times"
            self.scheduler.fail(
                number,
                f"its process was killed {times}, most likely for want of memory: lower "
                "search.concurrent, train.micro_batch_size or prompt.max_tokens",
            )
        elif trial.status == RayTrial.PENDING:
            self.scheduler.requeue(number)
