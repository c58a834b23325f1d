"""Train: the baseline with the configuration's own settings, the best with the search's."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pandas as pd
import torch

from nutgraf.config import Config
from nutgraf.core.files import read_json, write_json
from nutgraf.core.progress import Progress
from nutgraf.data.examples import Example, Rows
from nutgraf.data.token_store import TokenFile
from nutgraf.modeling.base_identity import base_identity
from nutgraf.parallel.background_jobs import run_jobs
from nutgraf.parallel.executor import open_executor
from nutgraf.pipeline import artifacts
from nutgraf.planning.packing import Choice, choose_packing
from nutgraf.storage.artefact import Artefact
from nutgraf.storage.run_folder import RunFolder
from nutgraf.training.budget import draw_examples, total_examples
from nutgraf.training.fit import fit_adapter
from nutgraf.training.history import Evaluation, TrainingResult
from nutgraf.training.job import TrainingJob
from nutgraf.training.packed.loop import fit_packed
from nutgraf.training.tracking import Curves, track_training

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Training:
    """One model to train; `threads` if trainings share the machine, None if it has all of it."""

    config: Config
    artefact: Artefact
    threads: int | None

    @property
    def name(self) -> str:
        return self.artefact.name.removeprefix("models/")


def run(config: Config, folder: RunFolder, outdated: Sequence[Artefact]) -> None:
    """Make models/baseline and models/best, and both once more a further seed.

    Each holds the adapter, history.csv and train.json. As many are trained at a time as the search
    has trials (`search.concurrent`): two cores do more as two processes than as two threads. If
    the search's trials were faster packed together, these are packed together too.
    """
    on_cluster = config.ray.address is not None
    at_a_time = config.search.parallel_trials
    if on_cluster:
        at_a_time = config.search.concurrent if config.ray.train_workers == 1 else 1
    # Decided by the configuration, not by what is left to do: sums over several threads differ in
    # their last bits from sums over one.
    threads = max(1, int(config.search.cpus_per_trial)) if at_a_time > 1 else None
    configs = artifacts.training_configs(config, folder)
    trainings = [
        _Training(configs[artefact.name.removeprefix("models/")], artefact, threads)
        for artefact in outdated
    ]
    if config.search.together == "auto":
        choice = Choice.from_record(read_json(folder / "search" / "together.json"))
    else:
        choice = choose_packing(config, [])
    if choice.together and not on_cluster:
        _train_packed(trainings, choice.max_packed)
    elif at_a_time > 1:
        run_jobs(_train, trainings, processes=at_a_time)
    else:
        for training in trainings:
            _train(training)


def _train(training: _Training) -> None:
    config = training.config
    if training.threads:
        torch.set_num_threads(training.threads)
    with (
        _open_job(training, _rows([training])) as (job, curves),
        open_executor(config, training.artefact.folder.path) as cluster,
    ):
        if cluster:
            from nutgraf.training.distributed.ray_train import fit_on_workers

            fit = fit_on_workers(cluster, job)
        else:
            fit = fit_adapter(job)
        _write(job, fit, curves)


def _train_packed(trainings: Sequence[_Training], max_packed: int | None) -> None:
    """Train all of them in one process over one base, at most `max_packed` in a pass.

    If one fails the others end as usual, and are sealed by the next run.
    """
    search = trainings[0].config.search
    torch.set_num_threads(max(1, int(search.parallel_trials * search.cpus_per_trial)))
    rows = _rows(trainings)
    names = ", ".join(training.name for training in trainings)
    logger.info(f"{names}: trained together (search.together)")
    with contextlib.ExitStack() as stack:
        jobs = [stack.enter_context(_open_job(training, rows)) for training in trainings]
        results = fit_packed([job for job, _ in jobs], max_packed)
        fits = [result for result in results if isinstance(result, TrainingResult)]
        for error in results:
            if isinstance(error, Exception):
                raise error
        for (job, curves), fit in zip(jobs, fits, strict=True):
            _write(job, fit, curves)


@contextlib.contextmanager
def _open_job(
    training: _Training, rows: tuple[Rows, list[Example]]
) -> Iterator[tuple[TrainingJob, Curves]]:
    """Yield the job of a training and its curves; its artefact is whole after the block."""
    name, config = training.name, training.config
    examples = total_examples(config.train)
    settings = {"model.base": config.model.base} | {
        f"{section}.{setting}": value
        for section, values in config.model_dump(mode="json", include={"lora", "train"}).items()
        for setting, value in values.items()
    }

    def on_eval(evaluation: Evaluation) -> None:
        curves.log_evaluation(evaluation.examples, evaluation.loss)
        logger.info(
            f"{name:<8}  {evaluation.examples:>6,} of {examples:,} articles  "
            f"validation loss {evaluation.loss:.3f}"
        )

    with (
        training.artefact.writing(resume=True) as scratch,
        track_training(config.tracking.to, training.artefact.folder.path, name, settings) as curves,
        Progress(name, examples) as progress,
    ):
        out = scratch / "models" / name
        yield TrainingJob(config, *rows, out, name, on_eval, progress.update), curves


def _rows(trainings: Sequence[_Training]) -> tuple[Rows, list[Example]]:
    """Return the rows to train and to validate on, all that one of the trainings needs."""
    folder = trainings[0].artefact.folder
    stored = TokenFile(folder.tokens("train"))
    drawn: set[int] = set()
    for training in trainings:
        train = training.config.train
        drawn.update(draw_examples(len(stored), total_examples(train), train.seed))
    evaluated = max(training.config.train.eval_examples for training in trainings)
    validation = TokenFile(folder.tokens("validation")).first(evaluated)
    return stored.rows(drawn), [encoded.example for encoded in validation]


def _write(job: TrainingJob, fit: TrainingResult, curves: Curves) -> None:
    history = fit.history_records()
    curves.log_history(history)
    logger.info(
        f"{job.title}: validation loss {fit.best.loss:.3f} after {fit.history.seconds:.0f} s"
    )
    pd.DataFrame(history).to_csv(job.out / "history.csv", index=False)
    record = {**fit.record(job.config), "base": base_identity(job.config.model)}
    write_json(job.out / "train.json", record)
