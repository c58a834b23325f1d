"""The search over settings: Ray Tune runs it, Optuna's TPE proposes, ASHA stops the losers.

TPE: Bergstra et al. 2011. ASHA: halving.py.
"""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nutgraf import config as configuration
from nutgraf.budget import at_once, steps_of
from nutgraf.problems import Failure
from nutgraf.prompts import Example
from nutgraf.section import Choices, Range
from nutgraf.settings import Config, LoraSettings, TrainConfig

# Before Ray is imported: no usage report, no port beyond loopback, results as they come.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS", "0")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import optuna
import ray
from ray import tune
from ray.tune.search.optuna import OptunaSearch

from nutgraf.halving import Halving
from nutgraf.trials import Trial

REPORT_EVERY = 1.0  # seconds

optuna.logging.set_verbosity(optuna.logging.WARNING)


def search(
    config: Config,
    train: Sequence[Example],
    validation: Sequence[Example],
    out: Path,
    say: Callable[[str], None],
) -> list[Trial]:
    """Try `config.search.trials` settings and return all trials in the order of their start.

    The adapter of a completed trial lies in `out/<number>/adapter`. A trial that fails is a Trial
    with its error; raises Failure only if none is completed, or if Ray cannot start.
    """
    out = out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    trials = at_once(config.search)
    if trials < config.search.concurrent:
        wanted = config.search.concurrent
        say(f"{os.cpu_count()} cores: {trials} instead of {wanted} trials at a time")
    _start_ray(math.ceil(trials * config.search.cpus_per_trial), config.search.gpus_per_trial)
    try:
        watch = _Watch(out, config, say)
        rows = {"train": list(train), "validation": list(validation)}
        trainable = tune.with_resources(
            tune.with_parameters(
                _trial, config=config.model_dump(mode="json"), rows=rows, out=str(out)
            ),
            {"cpu": config.search.cpus_per_trial, "gpu": config.search.gpus_per_trial},
        )
        tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                num_samples=config.search.trials,
                max_concurrent_trials=trials,
                reuse_actors=True,  # the next trial finds the frozen base in memory
                search_alg=OptunaSearch(
                    space=_space(config.search.space),
                    metric="validation_loss",
                    mode="min",
                    seed=config.search.seed,
                ),
                scheduler=Halving(
                    "validation_loss",
                    config.search.grace_evaluations,
                    config.search.reduction_factor,
                ),
            ),
            run_config=tune.RunConfig(
                name="ray", storage_path=str(out.parent), verbose=0, callbacks=[watch]
            ),
        ).fit()
    finally:
        ray.shutdown()
    found = watch.finished()
    if not any(trial.status == "completed" for trial in found):
        errors = [trial.error for trial in found if trial.status == "error"]
        raise Failure(
            f"none of {len(found)} trials was completed, {len(errors)} failed, the first with: "
            f"{errors[0] if errors else 'no error'}; change search.space or raise search.trials"
        )
    return found


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


def _space(space: Mapping[str, Range | Choices]) -> dict[str, Any]:
    return {name: _domain(name, domain) for name, domain in space.items()}


def _domain(name: str, domain: Range | Choices) -> Any:
    if isinstance(domain, Choices):
        # As JSON text, since Optuna's categories are scalars and a choice may be a list of layers.
        return tune.choice([json.dumps(choice) for choice in domain.choices])
    section, last = name.split(".")
    fields = (TrainConfig if section == "train" else LoraSettings).model_fields
    if fields[last].annotation is int:
        draw = tune.lograndint if domain.log else tune.randint
        return draw(int(domain.low), int(domain.high) + 1)
    return (tune.loguniform if domain.log else tune.uniform)(domain.low, domain.high)


def _decoded(values: Mapping[str, Any]) -> dict[str, Any]:
    return {k: json.loads(v) if isinstance(v, str) else v for k, v in values.items()}


def _trial(values: dict[str, Any], config: dict[str, Any], rows: Any, out: str) -> None:
    """One trial, in a worker that keeps the base for the next one."""
    from nutgraf.model import choose_device, fresh_adapter, load_base, load_tokenizer
    from nutgraf.trainer import Evaluation, fit

    settings = configuration.replace(configuration.build(config), _decoded(values))
    folder = Path(out) / tune.get_context().get_trial_id()
    latest: dict[str, Any] = {"evaluation": 0}
    reported = time.monotonic()

    def report(found: Evaluation) -> None:
        nonlocal latest
        count = latest["evaluation"] + 1
        latest = {
            "evaluation": count,
            "examples": found.examples,
            "validation_loss": found.loss,
            "last": found.step == steps_of(settings.train),
        }
        again()

    def again() -> None:
        nonlocal reported
        reported = time.monotonic()
        tune.report(latest)

    def still_wanted() -> None:
        """Let the scheduler judge the latest evaluation again: others may have overtaken it."""
        if latest["evaluation"] and time.monotonic() - reported > REPORT_EVERY:
            again()

    try:
        base = load_base(settings.model)
        with fresh_adapter(base, settings.lora, settings.train.seed) as model:
            done = fit(
                model,
                load_tokenizer(settings.model),
                rows["train"],
                rows["validation"],
                settings.train,
                choose_device(settings.model),
                folder / "adapter",
                on_eval=report,
                on_step=still_wanted,
            )
    except Exception:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "error.txt").write_text(traceback.format_exc())
        raise
    (folder / "rows.json").write_text(
        json.dumps(
            {"nll": [r.nll for r in done.best.rows], "tokens": [r.tokens for r in done.best.rows]}
        )
    )


class _Watch(tune.Callback):
    """Collects trials as Ray reports them and says one line a result."""

    def __init__(self, out: Path, config: Config, say: Callable[[str], None]) -> None:
        self.out = out
        self.say = say
        self.budget = config.search.trials
        self.trials: dict[str, Trial] = {}
        self.started: dict[str, float] = {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        number = len(self.trials) + 1
        self.trials.setdefault(trial.trial_id, Trial(number, _decoded(trial.config), "stopped"))
        self.started.setdefault(trial.trial_id, time.monotonic())

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        here = self.trials[trial.trial_id]
        if (
            "validation_loss" not in result
            or (result["examples"], result["validation_loss"]) in here.history
        ):
            return
        here.history.append((result["examples"], result["validation_loss"]))
        here.seconds = time.monotonic() - self.started[trial.trial_id]
        self.say(
            f"trial {here.number}/{self.budget}  {result['examples']:>6,} articles  "
            f"validation loss {result['validation_loss']:.3f}  {here.seconds:.0f} s  "
            + ", ".join(f"{k.split('.')[-1]} {_short(v)}" for k, v in here.values.items())
        )

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        here = self.trials[trial.trial_id]
        here.status = "error"
        here.seconds = time.monotonic() - self.started[trial.trial_id]
        file = self.out / trial.trial_id / "error.txt"
        lines = file.read_text().strip().splitlines() if file.exists() else [str(trial.error_file)]
        here.error = lines[-1]
        self.say(f"trial {here.number}/{self.budget}  failed: {here.error}")

    def finished(self) -> list[Trial]:
        """All trials; the folders of the completed ones renamed to their numbers."""
        for key, trial in self.trials.items():
            folder = self.out / key
            rows = folder / "rows.json"
            if trial.status != "error" and rows.exists():
                found = json.loads(rows.read_text())
                trial.row_nll, trial.row_tokens = found["nll"], found["tokens"]
                trial.status = "completed"
                folder.rename(self.out / str(trial.number))
            elif folder.exists():
                shutil.rmtree(folder)
        return list(self.trials.values())


def _short(value: Any) -> str:
    return f"{value:.2g}" if isinstance(value, float) else str(value)
