"""Train: the baseline with the configuration's own settings, the best with the search's.

Then the rounds, each from the model before it.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import pandas as pd
import torch

from nutgraf.config import Config, SearchConfig, systems
from nutgraf.core.files import read_json, write_json, write_records
from nutgraf.core.progress import Progress
from nutgraf.data.examples import Example, Rows
from nutgraf.data.token_store import TokenFile
from nutgraf.modeling.base_identity import base_identity
from nutgraf.modeling.threads import using_threads
from nutgraf.parallel.background_jobs import run_jobs
from nutgraf.parallel.executor import open_executor
from nutgraf.pipeline import artifacts, candidates
from nutgraf.pipeline.pairs import make_pairs
from nutgraf.planning.packing import Choice, choose_packing
from nutgraf.search.trial import ADAPTER
from nutgraf.storage.artefact import Artefact
from nutgraf.storage.run_folder import RunFolder
from nutgraf.training.budget import draw_examples, round_config, total_examples
from nutgraf.training.checkpoints import copy_finished
from nutgraf.training.fit import fit_adapter
from nutgraf.training.history import Evaluation, TrainingResult
from nutgraf.training.job import Preference, TrainingJob
from nutgraf.training.packed.loop import fit_packed
from nutgraf.training.tracking import Curves, track_training

if TYPE_CHECKING:
    from nutgraf.parallel.ray_cluster import Cluster

Callbacks: TypeAlias = tuple[Callable[[Evaluation], None], Callable[[int], None]]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Training:
    """One model to train.

    `threads` if trainings share the machine, None if it has all of it; `start` is the model that a
    round starts from.
    """

    config: Config
    artefact: Artefact
    threads: int | None = None
    start: str | None = None

    @property
    def name(self) -> str:
        return self.artefact.name.removeprefix("models/")


def run(config: Config, folder: RunFolder, outdated: Sequence[Artefact]) -> None:
    """Make models/baseline and models/best, then the rounds, and all once more a further seed.

    Each holds the adapter, history.csv and train.json, with `train.samples` samples.json, and that
    of a round pairs.jsonl and candidates.jsonl. The best is the chosen trial of the search, which
    was the same training; if it is not there any more, or was trained otherwise, it is trained
    again.
    """
    configs = artifacts.training_configs(config, folder)
    first: list[_Training] = []
    rounds: list[_Training] = []
    for artefact in outdated:
        name = artefact.name.removeprefix("models/")
        start = systems.start_of_round(name)
        (rounds if start else first).append(_Training(configs[name], artefact, start=start))
    if first:
        _train_first(config, folder, first)
    for training in rounds:
        _train_round(training)


def _train_first(config: Config, folder: RunFolder, trainings: Sequence[_Training]) -> None:
    """Train baselines and best models, as many at a time as the search has trials.

    Two cores do more as two processes than as two threads (`search.concurrent`). If the search's
    trials were faster packed together, these are packed together too.
    """
    on_cluster = config.ray.address is not None
    at_a_time = config.search.parallel_trials
    if on_cluster:
        at_a_time = config.search.concurrent if config.ray.train_workers == 1 else 1
    # Decided by the configuration, not by what is left to do: sums over several threads differ in
    # their last bits from sums over one.
    if at_a_time > 1:
        threads = max(1, int(config.search.cpus_per_trial))
        trainings = [replace(training, threads=threads) for training in trainings]
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
    with (
        using_threads(training.threads or torch.get_num_threads()),
        _open_job(training, _rows([training])) as (job, curves),
        open_executor(training.config, training.artefact.folder.path) as cluster,
    ):
        _write(job, _fit(job, cluster), curves)


def _fit(job: TrainingJob, cluster: Cluster | None) -> TrainingResult:
    if cluster is None:
        return fit_adapter(job)
    from nutgraf.training.distributed.ray_train import fit_on_workers

    return fit_on_workers(cluster, job)


def _train_round(training: _Training) -> None:
    """Train a model on pairs of its own candidates, with all that the search's trials may use."""
    config, folder, name = training.config, training.artefact.folder, training.name
    assert training.start
    validation = _validation(folder, config.train.eval_examples)
    with (
        using_threads(_all_threads(config.search)),
        training.artefact.writing(resume=True) as scratch,
        open_executor(config, folder.path) as cluster,
    ):
        pairs = make_pairs(config, folder, training.start, scratch, cluster)
        own = round_config(config, len(pairs.records))
        with _followed(name, own, folder) as (callbacks, curves):
            settings = config.preference
            preference = Preference(settings.beta, settings.likelihood, pairs.start_nll)
            job = TrainingJob(
                own,
                pairs.rows,
                validation,
                scratch / "models" / name,
                name,
                *callbacks,
                start=folder.model(training.start).resolve(),  # a node has another current folder
                preference=preference,
            )
            _write(job, _fit(job, cluster), curves)
            write_records(job.out / "pairs.jsonl", pairs.records)
            write_records(job.out / candidates.FILE, pairs.candidates)


def _train_packed(trainings: Sequence[_Training], max_packed: int | None) -> None:
    """Train all of them in one process over one base, at most `max_packed` in a pass.

    If one fails the others end as usual, and are sealed by the next run.
    """
    rows = _rows(trainings)
    names = ", ".join(training.name for training in trainings)
    logger.info(f"{names}: trained together (search.together)")
    with contextlib.ExitStack() as stack:
        stack.enter_context(using_threads(_all_threads(trainings[0].config.search)))
        jobs = [stack.enter_context(_open_job(training, rows)) for training in trainings]
        results = fit_packed([job for job, _ in jobs], max_packed)
        fits = [result for result in results if isinstance(result, TrainingResult)]
        for error in results:
            if isinstance(error, Exception):
                raise error
        for (job, curves), fit in zip(jobs, fits, strict=True):
            _write(job, fit, curves)


def _all_threads(search: SearchConfig) -> int:
    return max(1, int(search.parallel_trials * search.cpus_per_trial))


@contextlib.contextmanager
def _open_job(
    training: _Training, rows: tuple[Rows, list[Example]]
) -> Iterator[tuple[TrainingJob, Curves]]:
    """Yield the job of a training and its curves; its artefact is whole after the block."""
    name, config, artefact = training.name, training.config, training.artefact
    with (
        artefact.writing(resume=True) as scratch,
        _followed(name, config, artefact.folder) as (callbacks, curves),
    ):
        out = scratch / "models" / name
        if name == "best":
            copy_finished(_chosen_trial(artefact.folder) / ADAPTER, out)
        yield TrainingJob(config, *rows, out, name, *callbacks), curves


def _chosen_trial(folder: RunFolder) -> Path:
    trials = pd.read_csv(folder / "search" / "trials.csv")
    return folder / "search" / "trials" / str(trials.loc[trials["chosen"], "trial"].item())


@contextlib.contextmanager
def _followed(name: str, config: Config, folder: RunFolder) -> Iterator[tuple[Callbacks, Curves]]:
    """Yield what a training calls after an evaluation and after a step, and its curves."""
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
        track_training(config.tracking.to, folder.path, name, settings) as curves,
        Progress(name, examples) as progress,
    ):
        yield (on_eval, progress.update), curves


def _rows(trainings: Sequence[_Training]) -> tuple[Rows, list[Example]]:
    """Return the rows to train and to validate on, all that one of the trainings needs."""
    folder = trainings[0].artefact.folder
    stored = TokenFile(folder.tokens("train"))
    drawn: set[int] = set()
    for training in trainings:
        train = training.config.train
        drawn.update(draw_examples(len(stored), total_examples(train), train.seed))
    evaluated = max(training.config.train.eval_examples for training in trainings)
    return stored.rows(drawn), _validation(folder, evaluated)


def _validation(folder: RunFolder, evaluated: int) -> list[Example]:
    rows = TokenFile(folder.tokens("validation")).first(evaluated)
    return [encoded.example for encoded in rows]


def _write(job: TrainingJob, fit: TrainingResult, curves: Curves) -> None:
    history = fit.history_records()
    curves.log_history(history)
    logger.info(
        f"{job.title}: validation loss {fit.best.loss:.3f} after {fit.history.seconds:.0f} s"
    )
    pd.DataFrame(history).to_csv(job.out / "history.csv", index=False)
    record = {**fit.record(job.config), "base": base_identity(job.config.model)}
    if job.preference:
        record["pairs"] = len(job.train) // 2
    write_json(job.out / "train.json", record)
    if fit.history.samples.evaluations:
        write_json(job.out / "samples.json", fit.history.samples.model_dump())
