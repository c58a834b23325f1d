"""Train: the baseline with the configuration's own settings, the best with those of the search."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch

from nutgraf import artefacts
from nutgraf.budget import at_once, drawn, examples_of
from nutgraf.cores import side_by_side
from nutgraf.encoded import EncodedFile
from nutgraf.gain import Choice, choose
from nutgraf.history import Fit
from nutgraf.identity import identity
from nutgraf.member import Job
from nutgraf.members import fit_together
from nutgraf.model import Device, choose_device, fresh_adapter, load_base, load_tokenizer
from nutgraf.prompts import Example, Rows
from nutgraf.runfolder import Artefact, RunFolder, read_json, write_json
from nutgraf.settings import Config
from nutgraf.trackers import Curves, following, named
from nutgraf.trainer import Evaluation, fit
from nutgraf.workplace import workplace

logger = logging.getLogger(__name__)

Report = Callable[[Evaluation], None]


@dataclass(frozen=True)
class _Training:
    """One model to train; `threads` where trainings share the machine, else None: all of it."""

    name: str
    config: Config
    folder: RunFolder
    made: Artefact
    threads: int | None


def run(config: Config, folder: RunFolder, force: bool = False) -> bool:
    """Make models/baseline and models/best, and both once more a further seed.

    Each holds the adapter, history.csv and train.json. As many are trained at a time as the search
    has trials (`search.concurrent`): two cores do more as two processes than as two threads. Where
    the search found its trials faster together, these are trained together too.
    """
    named(config.tracking.to)  # a UserError, where one is not installed
    folder.manifest("search")  # a Failure that says what to run, where there is none
    missing = []
    for training in _trainings(config, folder):
        if training.made.is_current and not force:
            logger.info(f"{training.name}: done before")
        else:
            missing.append(training)
    choice = _chosen(config, folder)
    at_a_time = _at_a_time(config)
    if choice.together and missing:
        _train_together(missing, choice.most)
    elif at_a_time > 1:
        side_by_side(_train, missing, processes=at_a_time)
    else:
        for training in missing:
            _train(training)
    return bool(missing)


def _chosen(config: Config, folder: RunFolder) -> Choice:
    """Whether to train together: what the settings say, or what the search found with `auto`."""
    if config.ray.address is not None:
        return Choice(False, "a training on a cluster is the work of its own processes")
    if config.search.together != "auto":
        return choose(config, [])
    return Choice(**read_json(folder / "search" / "together.json"))


def _at_a_time(config: Config) -> int:
    """Trainings at a time; on a cluster as many as asked for, if one is the work of one process."""
    if config.ray.address is None:
        return at_once(config.search)
    return config.search.concurrent if config.ray.train_workers == 1 else 1


def _trainings(config: Config, folder: RunFolder) -> list[_Training]:
    """All trainings of the study, those of `best` with what the search in the folder has chosen."""
    # Decided by the configuration, not by what is left to do: sums over several threads differ in
    # their last bits from sums over one.
    threads = max(1, int(config.search.cpus_per_trial)) if _at_a_time(config) > 1 else None
    settings = artefacts.trainings(config, folder)
    return [
        _Training(name, own, folder, made, threads)
        for (name, own), made in zip(settings.items(), artefacts.train(config, folder), strict=True)
    ]


def _train(training: _Training) -> None:
    name, config = training.name, training.config
    if training.threads:
        torch.set_num_threads(training.threads)
    train, validation = _rows([training])
    bar = training.threads is None and config.ray.address is None
    with (
        training.made.writing(resume=True) as scratch,
        _followed(training, told=not bar) as (curves, report),
        workplace(config, training.folder.path) as cluster,
    ):
        out = scratch / "models" / name
        if cluster:
            from nutgraf.group import fit_on

            done, device = fit_on(cluster, config, train, validation, out, name, report)
        else:
            done, device = _fit_here(config, train, validation, out, report, training)
        curves.history(done.history_records())
        _write(training, done, device, out)


def _train_together(trainings: Sequence[_Training], most: int | None) -> None:
    """All of them in one process, at most `most` in a pass over one base.

    Where one fails the others end as they would, and only begin where they are the next time.
    """
    config = trainings[0].config
    torch.set_num_threads(max(1, int(at_once(config.search) * config.search.cpus_per_trial)))
    train, validation = _rows(trainings)
    device, base = choose_device(config.model), load_base(config.model)
    logger.info(
        f"{', '.join(training.name for training in trainings)}: trained together (search.together)"
    )
    with contextlib.ExitStack() as stack:
        homes, curves, jobs = [], [], []
        for training in trainings:
            name, own = training.name, training.config
            scratch = stack.enter_context(training.made.writing(resume=True))
            follower, report = stack.enter_context(_followed(training, told=True))
            homes.append(scratch / "models" / name)
            curves.append(follower)
            adapted = functools.partial(fresh_adapter, base, own.lora, own.train.seed)
            jobs.append(Job(adapted, own.train, homes[-1], on_eval=report, title=name))
        pad = load_tokenizer(config.model).pad_token_id
        found = fit_together(base, pad, train, validation, jobs, device, most)
        for failed in found:
            if isinstance(failed, Exception):
                raise failed
        for training, done, out, follower in zip(trainings, found, homes, curves, strict=True):
            assert isinstance(done, Fit)
            follower.history(done.history_records())
            _write(training, done, device, out)


def _rows(trainings: Sequence[_Training]) -> tuple[Rows, list[Example]]:
    """To train and to validate on, all that one of the trainings needs."""
    folder = trainings[0].folder
    stored = EncodedFile(folder.tokens("train"))
    settings = [training.config.train for training in trainings]
    wanted = [i for one in settings for i in drawn(len(stored), examples_of(one), one.seed)]
    most = max(one.eval_examples for one in settings)
    held_out = EncodedFile(folder.tokens("validation")).first(most)
    return stored.rows(wanted), [ids.example for ids in held_out]


@contextlib.contextmanager
def _followed(training: _Training, told: bool) -> Iterator[tuple[Curves, Report]]:
    """Where its curves go, and what hears of its evaluations; `told` where there is no bar."""
    config, budget = training.config, examples_of(training.config.train)

    def report(found: Evaluation) -> None:
        curves.evaluated(found.examples, found.loss)
        if told:
            logger.info(
                f"{training.name:<8}  {found.examples:>6,} of {budget:,} articles  "
                f"validation loss {found.loss:.3f}"
            )

    settings = _told(config)
    with following(config.tracking.to, training.folder.path, training.name, settings) as curves:
        yield curves, report


def _write(training: _Training, done: Fit, device: Device, out: Path) -> None:
    config = training.config
    logger.info(f"{training.name}: validation loss {done.best.loss:.3f} after {done.seconds:.0f} s")
    pd.DataFrame(done.history_records()).to_csv(out / "history.csv", index=False)
    write_json(
        out / "train.json",
        {
            **done.record(config.train),
            "lora_r": config.lora.r,
            "lora_alpha": config.lora.alpha,
            "device": device.name,
            "dtype": device.dtype_name,
            "base": identity(config.model),
        },
    )


def _fit_here(
    config: Config,
    train: Sequence[Example],
    validation: Sequence[Example],
    out: Path,
    report: Report,
    training: _Training,
) -> tuple[Fit, Device]:
    device, base = choose_device(config.model), load_base(config.model)
    with fresh_adapter(base, config.lora, config.train.seed) as model:
        done = fit(
            model,
            load_tokenizer(config.model),
            train,
            validation,
            config.train,
            device,
            out,
            on_eval=report,
            progress=None if training.threads else training.name,
        )
    return done, device


def _told(config: Config) -> dict[str, object]:
    """The settings of a training by their names."""
    told: dict[str, object] = {"model.base": config.model.base}
    for section in ("lora", "train"):
        own = getattr(config, section).model_dump(mode="json")
        told |= {f"{section}.{name}": value for name, value in own.items()}
    return told
