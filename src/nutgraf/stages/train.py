"""Train: the baseline with the configuration's own settings, the best with those of the search."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
import torch

from nutgraf import artefacts, articles
from nutgraf.budget import at_once, effective_batch, steps_of
from nutgraf.cores import side_by_side
from nutgraf.identity import identity
from nutgraf.model import choose_device, fresh_adapter, load_base, load_tokenizer
from nutgraf.progress import say
from nutgraf.prompts import Renderer
from nutgraf.runfolder import Artefact, RunFolder, write_json
from nutgraf.settings import Config
from nutgraf.trackers import following, named
from nutgraf.trainer import Evaluation, fit


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
    has trials (`search.concurrent`): two cores do more as two processes than as two threads.
    """
    named(config.tracking.to)  # a UserError, where one is not installed
    folder.manifest("search")  # a Failure that says what to run, where there is none
    missing = []
    for training in _trainings(config, folder):
        if training.made.is_current and not force:
            say(f"{training.name}: done before")
        else:
            missing.append(training)
    together = at_once(config.search)
    if together > 1:
        side_by_side(_train, missing, processes=together)
    else:
        for training in missing:
            _train(training)
    return bool(missing)


def _trainings(config: Config, folder: RunFolder) -> list[_Training]:
    """All trainings of the study, those of `best` with what the search in the folder has chosen."""
    # Decided by the configuration, not by what is left to do: sums over several threads differ in
    # their last bits from sums over one.
    threads = max(1, int(config.search.cpus_per_trial)) if at_once(config.search) > 1 else None
    settings = artefacts.trainings(config, folder)
    return [
        _Training(name, own, folder, made, threads)
        for (name, own), made in zip(settings.items(), artefacts.train(config, folder), strict=True)
    ]


def _train(training: _Training) -> None:
    name, config, folder = training.name, training.config, training.folder
    if training.threads:
        torch.set_num_threads(training.threads)
    budget = steps_of(config.train) * effective_batch(config.train)

    def report(found: Evaluation) -> None:
        curves.evaluated(found.examples, found.loss)
        if training.threads:  # two bars would write over one another
            say(
                f"{name:<8}  {found.examples:>6,} of {budget:,} articles  "
                f"validation loss {found.loss:.3f}"
            )

    with training.made.writing(resume=True) as scratch:
        out = scratch / "models" / name
        tokenizer = load_tokenizer(config.model)
        renderer = Renderer(tokenizer, config.prompt)
        train, validation = (
            [renderer.example(a.article, a.highlights) for a in articles.read(folder.data(split))]
            for split in ("train", "validation")
        )
        device, base = choose_device(config.model), load_base(config.model)
        with (
            fresh_adapter(base, config.lora, config.train.seed) as model,
            following(config.tracking.to, folder.path, name, _told(config)) as curves,
        ):
            done = fit(
                model,
                tokenizer,
                train,
                validation,
                config.train,
                device,
                out,
                on_eval=report,
                progress=None if training.threads else name,
            )
            curves.history(done.history_records())
        say(f"{name}: validation loss {done.best.loss:.3f} after {done.seconds:.0f} s")
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


def _told(config: Config) -> dict[str, object]:
    """The settings of a training by their names."""
    told: dict[str, object] = {"model.base": config.model.base}
    for section in ("lora", "train"):
        own = getattr(config, section).model_dump(mode="json")
        told |= {f"{section}.{name}": value for name, value in own.items()}
    return told
