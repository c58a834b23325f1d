"""The search over settings: Ray Tune runs the trials that the ledger names, and stops the losers.

Ray decides nothing and remembers nothing: what is proposed, stopped and kept is the ledger's.
"""

from __future__ import annotations

import errno
import functools
import logging
import math
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from nutgraf.budget import at_once
from nutgraf.ledger import Ledger
from nutgraf.problems import Failure
from nutgraf.prompts import Example
from nutgraf.settings import Config, SearchConfig
from nutgraf.stopping import listen_again
from nutgraf.trials import Trial

# Before Ray is imported. Ray takes 127.0.0.1 for the address of its node, and opens no port beyond
# it, only where it thinks that the machine cannot be part of a cluster.
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# Ctrl-C is for the search: Ray would end with the trials that it has, as if they were all.
os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
# What goes wrong in a trial is one line of ours; Ray would put its own on standard output.
os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")
os.environ.setdefault("TUNE_PRINT_ALL_TRIAL_ERRORS", "0")
os.environ.setdefault("RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS", "0")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import ray
from ray import tune
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

from nutgraf import worker
from nutgraf.asking import Together

logging.getLogger("ray.tune").setLevel(logging.CRITICAL)


def search(
    config: Config,
    train: Sequence[Example],
    validation: Sequence[Example],
    out: Path,
    say: Callable[[str], None],
    together: bool = False,
    most: int | None = None,
) -> list[Trial]:
    """Try `config.search.trials` settings and return all trials by number.

    The adapter of a completed trial lies in `out/<number>/adapter`. Trials have a process each that
    trains, or are trained `together` by one, at most `most` in a pass. Where `out` holds what an
    interrupted search with the same arguments left, the search goes on from there. A trial that
    fails is a Trial with its error; raises Failure only if none is completed, or if Ray cannot
    start, and OSError where the disk is full, after which the search can go on.
    """
    training: worker.Training | Together = functools.partial(
        worker.fitting, config=config, train=list(train), validation=list(validation)
    )
    if together:
        training = Together(config, train, validation, most)
    return run(config, training, out.resolve(), say)


def run(
    config: Config,
    training: worker.Training | Together,
    out: Path,
    say: Callable[[str], None],
) -> list[Trial]:
    """The search with any `training`; `out` is an absolute path."""
    ledger = Ledger(config, out, say)
    if not ledger.finished:
        _run_in_ray(ledger, training, config.search, say)
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
    ledger: Ledger,
    training: worker.Training | Together,
    search: SearchConfig,
    say: Callable[[str], None],
) -> None:
    together = isinstance(training, Together)  # whose trials take no core for themselves
    trials = search.concurrent if together else at_once(search)
    if trials < search.concurrent:
        say(f"{os.cpu_count()} cores: {trials} instead of {search.concurrent} trials at a time")
    scratch = ledger.out / ".ray"
    shutil.rmtree(scratch, ignore_errors=True)
    _start_ray(math.ceil(trials * search.cpus_per_trial), search.gpus_per_trial)
    try:
        trainable = tune.with_resources(
            tune.with_parameters(
                worker.work,
                out=str(ledger.out),
                training=training.begin(ledger.out) if isinstance(training, Together) else training,
                minutes=search.trial_minutes,
            ),
            # The engine has the GPU, where trials are trained together.
            {"cpu": search.cpus_per_trial, "gpu": 0 if together else search.gpus_per_trial},
        )
        tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                num_samples=search.trials,
                max_concurrent_trials=trials,
                reuse_actors=True,  # the next trial finds the frozen base in memory
                search_alg=_Next(ledger),
                scheduler=_Judge(ledger),
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=str(scratch),
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=1),  # see on_trial_error
            ),
        ).fit()
    finally:
        if isinstance(training, Together):
            training.end(ledger.out)
        ray.shutdown()
        shutil.rmtree(scratch, ignore_errors=True)


def _start_ray(cpus: int, gpus: float) -> None:
    try:
        ray.init(
            address="local",
            num_cpus=cpus,
            num_gpus=None if gpus else 0,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            _node_ip_address="127.0.0.1",
        )
    except Exception as error:  # Ray raises many kinds; each means that there is no search
        reason = " ".join(str(error).split())[:200]
        raise Failure(
            f"Ray could not start ({reason}): free memory and space in /dev/shm and /tmp, "
            "or stop other Ray processes with `ray stop`"
        ) from error
    listen_again()  # else SIGTERM would end it with a trace of Ray's, and leave Ray's processes


class _Next(Searcher):
    """Gives Ray the ledger's trials, one after the other."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__()
        self.ledger = ledger

    def suggest(self, trial_id: str) -> Any:
        """The next trial; None, and Ray asks again, while its settings wait for results."""
        trial = self.ledger.next()
        if trial is None:
            return Searcher.FINISHED if self.ledger.given else None
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

    def __init__(self, ledger: Ledger) -> None:
        super().__init__()
        self.ledger = ledger

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
        """Only the death of its process comes here, of which Ray forgives the first."""
        if not trial.should_recover():
            self.ledger.fail(
                trial.config["number"],
                "its process was killed twice, most likely for want of memory: lower "
                "search.concurrent, train.micro_batch_size or prompt.max_tokens",
            )
