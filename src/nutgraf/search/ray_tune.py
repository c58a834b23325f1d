"""The search over settings: Ray Tune runs the trials that the ledger names, and stops the losers.

Ray decides nothing and remembers nothing: what is proposed, stopped and kept is the ledger's.
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
from nutgraf.core.errors import Failure, UserError
from nutgraf.data.prompts import Example
from nutgraf.parallel import ray_cluster  # before Ray: its environment
from nutgraf.search import trial_worker
from nutgraf.search.packed_client import PackedTraining
from nutgraf.search.scheduler import TrialScheduler
from nutgraf.search.trial import Trial

# isort: split
from ray import tune
from ray.tune.experiment import Trial as RayTrial
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

# How often the process of a trial may die before the trial counts as failed: here for want of
# memory, on a cluster with its node, whose trials go on elsewhere.
FORGIVEN_HERE, FORGIVEN_ON_A_CLUSTER = 1, 8


logger = logging.getLogger(__name__)
logging.getLogger("ray.tune").setLevel(logging.CRITICAL)


def run_search(
    config: Config,
    train: Sequence[Example],
    validation: Sequence[Example],
    out: Path,
    together: bool = False,
    max_packed: int | None = None,
) -> list[Trial]:
    """Try `config.search.trials` settings and return all trials by number.

    The adapter of a completed trial lies in `out/<number>/adapter`. Trials have a process each that
    trains, or are trained `together` by one, at most `max_packed` in a pass. If `out` holds what
    an interrupted search with the same arguments left, the search goes on from there. A trial that
    fails is a Trial with its error; raises Failure only if none is completed, or if Ray cannot
    start, and OSError where the disk is full, after which the search can go on.
    """
    training: trial_worker.Training | PackedTraining = functools.partial(
        trial_worker.train_trial, config=config, train=train, validation=list(validation)
    )
    if together:
        training = PackedTraining(config, train, validation, max_packed)
    return run(config, training, out.resolve())


def run(
    config: Config,
    training: trial_worker.Training | PackedTraining,
    out: Path,
) -> list[Trial]:
    """Run the search with any `training`; `out` is an absolute path."""
    ledger = TrialScheduler(config, out)
    if not ledger.finished:
        _run_in_ray(ledger, training, config)
    if ledger.full:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), ledger.full)
    if not ledger.finished:
        raise Failure("Ray ended before the search: run the same command again, which goes on")
    trials = ledger.table()
    if not any(trial.status == "completed" for trial in trials):
        errors = [trial.error for trial in trials if trial.status == "error"]
        raise Failure(
            f"none of {len(trials)} trials was completed, {len(errors)} failed, the first with: "
            f"{errors[0] if errors else 'no error'}; change search.space or raise search.trials"
        )
    ledger.tidy()
    return trials


def _run_in_ray(
    ledger: TrialScheduler,
    training: trial_worker.Training | PackedTraining,
    config: Config,
) -> None:
    search, packed = config.search, training if isinstance(training, PackedTraining) else None
    forgiven = FORGIVEN_ON_A_CLUSTER if config.ray.address else FORGIVEN_HERE
    scratch = ledger.out / ".ray"
    shutil.rmtree(scratch, ignore_errors=True)
    with _ray(config, packed is not None, ledger.out) as trials:
        trainable = tune.with_resources(
            tune.with_parameters(
                trial_worker.work,
                out=str(ledger.out),
                training=packed.begin(ledger.out) if packed else training,
                minutes=search.trial_minutes,
            ),
            # The engine has the GPU, where trials are trained together.
            {"cpu": search.cpus_per_trial, "gpu": 0 if packed else search.gpus_per_trial},
        )
        try:
            tune.Tuner(
                trainable,
                tune_config=tune.TuneConfig(
                    num_samples=-1,  # until there is none
                    max_concurrent_trials=trials,
                    reuse_actors=True,  # the next trial finds the frozen base in memory
                    search_alg=_Next(ledger),
                    scheduler=_Judge(ledger, forgiven),
                ),
                run_config=tune.RunConfig(
                    name="tune",
                    storage_path=str(scratch),
                    verbose=0,
                    failure_config=tune.FailureConfig(max_failures=forgiven),  # see on_trial_error
                ),
            ).fit()
        finally:
            if packed:
                packed.end(ledger.out)
            shutil.rmtree(scratch, ignore_errors=True)


@contextlib.contextmanager
def _ray(config: Config, together: bool, out: Path) -> Iterator[int]:
    """Ray here or the cluster, and how many trials at a time.

    Those that are trained together take no core for themselves.
    """
    search = config.search
    if config.ray.address is None:
        trials = search.concurrent if together else search.parallel_trials
        if trials < search.concurrent:
            logger.warning(
                f"{os.cpu_count()} cores: {trials} instead of {search.concurrent} trials at a time"
            )
        with ray_cluster.this_machine(
            math.ceil(trials * search.cpus_per_trial), search.gpus_per_trial
        ):
            yield trials
        return
    with ray_cluster.joined(config.ray, out) as joined:
        room = joined.capacity(search.cpus_per_trial, search.gpus_per_trial)
        if room == 0:
            raise UserError(
                f"no node of the cluster has room for a trial of {search.cpus_per_trial:g} cores "
                f"and {search.gpus_per_trial:g} GPUs: lower search.cpus_per_trial or "
                "search.gpus_per_trial, or add a node"
            )
        logger.info(
            f"cluster: room for {room} trials at a time, search.concurrent is {search.concurrent}"
        )
        yield search.concurrent  # where there is less room they wait, for nodes that join too


class _Next(Searcher):
    """Gives Ray the ledger's trials, one after the other."""

    def __init__(self, ledger: TrialScheduler) -> None:
        super().__init__()
        self.ledger = ledger

    def suggest(self, trial_id: str) -> Any:
        """Return the next trial; None, and Ray asks again, while there may be one later."""
        trial = self.ledger.next()
        if trial is None:
            return Searcher.FINISHED if self.ledger.finished or self.ledger.full else None
        return {"number": trial.number}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Nothing: the scheduler has heard of it."""

    def save(self, checkpoint_path: str) -> None:
        """Ray asks for a file; nothing is ever read from it."""
        Path(checkpoint_path).touch()


class _Judge(FIFOScheduler):
    """Tells the ledger what Ray hears of a trial, and Ray which trial the ledger has stopped."""

    def __init__(self, ledger: TrialScheduler, forgiven: int) -> None:
        super().__init__()
        self.ledger, self.forgiven = ledger, forgiven

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        number = trial.config["number"]
        self.ledger.full = self.ledger.full or result.get("full")
        if self.ledger.full:
            return self.STOP
        if "error" in result:
            self.ledger.fail(number, result["error"])
            return self.STOP
        return self.CONTINUE if self.ledger.look(number).stop is None else self.STOP

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        self.ledger.look(trial.config["number"])

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """Only the death of its process comes here, of which Ray forgives the first ones.

        But not that of a process that ended one trial, and was about to begin with this one.
        """
        if trial.should_recover():
            if trial.status == RayTrial.PENDING:
                self.ledger.again(trial.config["number"])
        else:
            times = "twice" if self.forgiven == 1 else f"{self.forgiven + 1} times"
            self.ledger.fail(
                trial.config["number"],
                f"its process was killed {times}, most likely for want of memory: lower "
                "search.concurrent, train.micro_batch_size or prompt.max_tokens",
            )
