"""Train the baseline with the configuration's own settings, the best with those of the search."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch

from nutgraf.config import Config
from nutgraf.core.files import read_json, write_json
from nutgraf.data.prompts import Example, Rows
from nutgraf.data.token_store import TokenFile
from nutgraf.modeling.base_identity import base_identity
from nutgraf.parallel.background_jobs import run_jobs
from nutgraf.parallel.executor import open_executor
from nutgraf.pipeline import artifacts
from nutgraf.planning.packing import Choice, choose_packing
from nutgraf.storage.run_folder import Artefact, RunFolder
from nutgraf.training.budget import draw_examples, total_examples
from nutgraf.training.fit import fit_adapter
from nutgraf.training.history import Evaluation, Fit
from nutgraf.training.job import TrainingJob
from nutgraf.training.packed.loop import fit_packed
from nutgraf.training.tracking import Curves, following, named

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Training:
    """One model to train; `threads` if trainings share the machine, None if it has all of it."""

    name: str
    config: Config
    folder: RunFolder
    artefact: Artefact
    threads: int | None


def run(config: Config, folder: RunFolder, force: bool = False) -> bool:
    """Make models/baseline and models/best, and both once more a further seed.

    Each holds the adapter, history.csv and train.json. As many are trained at a time as the search
    has trials (`search.concurrent`): two cores do more as two processes than as two threads. If
    the search's trials were faster packed together, these are packed together too.
    """
    named(config.tracking.to)  # a UserError, where one is not installed
    folder.manifest("search")  # a Failure that says what to run, where there is none
    missing = []
    for training in _trainings(config, folder):
        if training.artefact.is_current and not force:
            logger.info(f"{training.name}: done before")
        else:
            missing.append(training)
    choice = _chosen(config, folder)
    at_a_time = _at_a_time(config)
    if choice.together and missing:
        _train_packed(missing, choice.max_packed)
    elif at_a_time > 1:
        run_jobs(_train, missing, processes=at_a_time)
    else:
        for training in missing:
            _train(training)
    return bool(missing)


def _chosen(config: Config, folder: RunFolder) -> Choice:
    """Return whether to train together: as the settings say, or as the search chose."""
    if config.ray.address is not None:
        return Choice(False, "a training on a cluster is the work of its own processes")
    if config.search.together != "auto":
        return choose_packing(config, [])
    return Choice.from_record(read_json(folder / "search" / "together.json"))


def _at_a_time(config: Config) -> int:
    """Return the trainings at a time: on a cluster `search.concurrent`, if each is one process."""
    if config.ray.address is None:
        return config.search.parallel_trials
    return config.search.concurrent if config.ray.train_workers == 1 else 1


def _trainings(config: Config, folder: RunFolder) -> list[_Training]:
    """Return all trainings of the study, those of `best` with what the search chose."""
    # Decided by the configuration, not by what is left to do: sums over several threads differ in
    # their last bits from sums over one.
    threads = max(1, int(config.search.cpus_per_trial)) if _at_a_time(config) > 1 else None
    settings = artifacts.training_configs(config, folder)
    return [
        _Training(name, own, folder, artefact, threads)
        for (name, own), artefact in zip(
            settings.items(), artifacts.train(config, folder), strict=True
        )
    ]


def _train(training: _Training) -> None:
    config = training.config
    if training.threads:
        torch.set_num_threads(training.threads)
    rows = _rows([training])
    bar = training.threads is None and config.ray.address is None
    with (
        _prepared(training, rows, bar) as (job, curves),
        open_executor(config, training.folder.path) as cluster,
    ):
        if cluster:
            from nutgraf.training.distributed.ray_train import fit_on_workers

            result = fit_on_workers(cluster, job)
        else:
            result = fit_adapter(job)
        _write(job, result, curves)


def _train_packed(trainings: Sequence[_Training], max_packed: int | None) -> None:
    """Train all of them in one process over one base, at most `max_packed` in a pass.

    If one fails the others end as usual, and are sealed by the next run.
    """
    config = trainings[0].config
    torch.set_num_threads(max(1, int(config.search.parallel_trials * config.search.cpus_per_trial)))
    rows = _rows(trainings)
    logger.info(
        f"{', '.join(training.name for training in trainings)}: trained together (search.together)"
    )
    with contextlib.ExitStack() as stack:
        prepared = [stack.enter_context(_prepared(each, rows, bar=False)) for each in trainings]
        results = fit_packed([job for job, _ in prepared], max_packed)
        for result in results:
            if isinstance(result, Exception):
                raise result
        for (job, curves), result in zip(prepared, results, strict=True):
            assert isinstance(result, Fit)
            _write(job, result, curves)


@contextlib.contextmanager
def _prepared(
    training: _Training, rows: tuple[Rows, list[Example]], bar: bool
) -> Iterator[tuple[TrainingJob, Curves]]:
    """Yield the job of a training and its curves; its artefact is whole after the block.

    Evaluations go to the curves, and to the log if there is no progress bar.
    """
    name, config = training.name, training.config
    examples = total_examples(config.train)

    def on_eval(evaluation: Evaluation) -> None:
        curves.evaluated(evaluation.examples, evaluation.loss)
        if not bar:
            logger.info(
                f"{name:<8}  {evaluation.examples:>6,} of {examples:,} articles  "
                f"validation loss {evaluation.loss:.3f}"
            )

    with (
        training.artefact.writing(resume=True) as scratch,
        following(config.tracking.to, training.folder.path, name, _settings(config)) as curves,
    ):
        out = scratch / "models" / name
        yield TrainingJob(config, *rows, out, name, on_eval, progress_bar=bar), curves


def _rows(trainings: Sequence[_Training]) -> tuple[Rows, list[Example]]:
    """Return the rows to train and to validate on, all that one of the trainings needs."""
    folder = trainings[0].folder
    stored = TokenFile(folder.tokens("train"))
    settings = [training.config.train for training in trainings]
    wanted = [
        i for one in settings for i in draw_examples(len(stored), total_examples(one), one.seed)
    ]
    evaluated = max(one.eval_examples for one in settings)
    held_out = TokenFile(folder.tokens("validation")).first(evaluated)
    return stored.rows(wanted), [ids.example for ids in held_out]


def _write(job: TrainingJob, result: Fit, curves: Curves) -> None:
    curves.history(result.history_records())
    logger.info(f"{job.title}: validation loss {result.best.loss:.3f} after {result.seconds:.0f} s")
    pd.DataFrame(result.history_records()).to_csv(job.out / "history.csv", index=False)
    record = {**result.record(job.config), "base": base_identity(job.config.model)}
    write_json(job.out / "train.json", record)


def _settings(config: Config) -> dict[str, Any]:
    """Return the settings of a training by their full names, for trackers."""
    settings: dict[str, Any] = {"model.base": config.model.base}
    for section in ("lora", "train"):
        own = getattr(config, section).model_dump(mode="json")
        settings |= {f"{section}.{name}": value for name, value in own.items()}
    return settings
