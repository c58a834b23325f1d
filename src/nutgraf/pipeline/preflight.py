"""Find before the first stage of a study what a later one would refuse: the same for `check`.

`of_settings` needs no model. `of_models` reads what decides whether a base and a rival can be used,
but no weights.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

import psutil

from nutgraf.config import Config, LoraSettings, systems
from nutgraf.config.load import with_overrides
from nutgraf.config.types import Choices
from nutgraf.core.errors import Failure, UserError
from nutgraf.core.units import memory
from nutgraf.evaluation.significance import check_resamples
from nutgraf.modeling.base_files import base_source
from nutgraf.modeling.model_folder import check_folder
from nutgraf.planning.memory import ADAPTER_BYTES
from nutgraf.storage.run_folder import MANIFESTS
from nutgraf.training.budget import round_config, total_steps, warmup_steps
from nutgraf.training.tracking import installed_trackers


def of_settings(config: Config) -> list[str]:
    """Return a line for each setting that a stage would refuse."""
    return _collect(config, (_places, _resamples, _warmup, _trackers))


def of_models(config: Config) -> list[str]:
    """Return a line for each setting that base, rivals, devices or a cluster do not go with.

    Raises Failure if the Hub does not give what has to be read.
    """
    cluster = config.ray.address is not None
    return _collect(config, [_devices, _base, _rivals, *([_cluster] if cluster else [])])


def of_storage(config: Config) -> list[str]:
    """Return a line if the storage cannot be read."""
    return _collect(config, [_storage])


def require(problems: Iterable[str]) -> None:
    """Raise UserError with all problems, if there are any."""
    if text := "; ".join(problems):
        raise UserError(text)


def _collect(config: Config, checks: Iterable[Callable[[Config], None]]) -> list[str]:
    problems = []
    for check in checks:
        try:
            check(config)
        except UserError as error:
            problems.append(str(error))
    return list(dict.fromkeys(problems))


def _places(config: Config) -> None:
    """Refuse a run folder or a storage on this machine that cannot be written to."""
    if (config.ray.address or "").startswith("ray://"):
        return  # they are places of the cluster
    if "://" in config.run:
        raise UserError(f"run is {config.run!r}: give a folder here, and set storage to that")
    places = {"run": Path(config.run)}
    if config.storage and "://" not in config.storage:
        places["storage"] = Path(config.storage)
    for setting, path in places.items():
        try:
            nearest = next(p for p in (path, *path.parents) if p.exists())
            fine = nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)
            why = f"{nearest} is no folder that you may write to"
        except OSError as error:  # the name is too long, say
            fine, why = False, str(error.strerror)
        if not fine:
            raise UserError(f"{setting} {path} cannot be made ({why}): give another folder")
    run, *storage = (path.resolve() for path in places.values())
    if any(run in (place, *place.parents) or place in run.parents for place in storage):
        raise UserError(f"storage {config.storage} and run overlap: give another folder")


def _storage(config: Config) -> None:
    if config.storage:
        from nutgraf.storage.remote_files import RemoteFiles, Unreachable

        try:
            RemoteFiles(config.storage).names(MANIFESTS)
        except Unreachable as error:
            raise UserError(str(error)) from error


def _resamples(config: Config) -> None:
    pairs = systems.compared_pairs(config)
    check_resamples(config.score.resamples, len(pairs))


def _trackers(config: Config) -> None:
    installed_trackers(config.tracking.to)


def _warmup(config: Config) -> None:
    """Refuse a rise that takes all of a training: of the baseline, or a trial with large steps."""
    batch = ("micro_batch_size", "gradient_accumulation_steps")
    largest = config.search.largest("train.warmup_steps", *(f"train.{name}" for name in batch))
    trial = with_overrides(config, largest)
    checked = [(config.train, ""), (trial.train, " with the largest of search.space")]
    if config.train.rounds:
        own = round_config(config, config.preference.articles).train
        checked.append((own, " in a round (preference.articles)"))
    for train, where in checked:
        steps, warmup = total_steps(train), warmup_steps(train)
        if warmup >= steps:
            raise UserError(
                f"train.warmup_steps is {train.warmup_steps:g} and a training has {steps} "
                f"step{'s' * (steps > 1)}{where}: the learning rate would never reach its peak; "
                "lower it, or raise train.max_examples or train.max_steps"
            )


def _devices(config: Config) -> None:
    import torch

    from nutgraf.modeling.load import choose_device

    if config.ray.address is None:  # else those of the cluster count
        choose_device(config.model)
        gpus, there = config.search.gpus_per_trial, torch.cuda.device_count()
        if gpus > there:
            what = f"there are {there} GPUs here" if there else "there is no GPU here"
            raise UserError(f"search.gpus_per_trial {gpus:g} → {there} ({what})")


def _base(config: Config) -> None:
    """Refuse a base that cannot have each adapter of the study, or that is too short."""
    from nutgraf.modeling.shape import read_dims

    if config.model.base != "pocket":
        check_folder("model.base", base_source(config.model), gguf=True)
    domain = config.search.space.get("lora.target_modules")
    choices = domain.choices if isinstance(domain, Choices) else ()
    largest = config.search.largest("lora.r")
    for targets in (config.lora.target_modules, *choices):
        lora = with_overrides(config, {"lora.target_modules": targets, **largest}).lora
        dims = read_dims(config.model, lora)
        there = psutil.virtual_memory().total
        if config.ray.address is None and dims.adapter * ADAPTER_BYTES > there:
            raise UserError(
                f"lora.r {lora.r} → a smaller one (the adapter is trained in "
                f"{memory(dims.adapter * ADAPTER_BYTES)}, and this machine has {memory(there)})"
            )
        if config.search.together == "on":
            _check_packed(config, lora)
    prompt, new = config.prompt.max_tokens, config.generate.max_new_tokens
    if prompt + new > dims.positions:
        change = (
            f"prompt.max_tokens {prompt:,} → {dims.positions - new:,}",
            "generate.max_new_tokens",
        )
        if new >= dims.positions // 2:  # little or nothing would be left for an article
            room = max(1, dims.positions - prompt)
            change = f"generate.max_new_tokens {new:,} → {room:,}", "prompt.max_tokens"
        raise UserError(
            f"{change[0]} (with {change[1]} {prompt + new:,} tokens, and the base was made for "
            f"{dims.positions:,})"
        )


def _check_packed(config: Config, lora: LoraSettings) -> None:
    """Raise UserError if trainings with these adapters are not done together."""
    import torch
    from transformers import AutoModelForCausalLM

    from nutgraf.modeling.adapters import fresh_adapter
    from nutgraf.modeling.load import choose_device, load_architecture
    from nutgraf.training.packed.loop import PackedTrainer
    from nutgraf.training.packed.lora import PackedAdapter

    device = choose_device(config.model)
    try:
        with torch.device("meta"):
            empty = AutoModelForCausalLM.from_config(load_architecture(config.model))
            empty.train()
            PackedTrainer(empty, 0, device)
            with fresh_adapter(empty, lora, seed=0) as model:
                PackedAdapter(model, 0, device)
    except Failure as error:
        raise UserError(str(error)) from error


def _rivals(config: Config) -> None:
    from nutgraf.generation.external import load_rival

    for name, rival in config.rivals.items():
        if rival.model:
            check_folder(f"rivals.{name}.model", rival.model)
            load_rival(name, rival, "cpu")


def _cluster(config: Config) -> None:
    """Refuse a cluster that is not there, or without room for one trial or worker."""
    from nutgraf.parallel.ray_cluster import join_cluster

    with join_cluster(config.ray) as cluster:
        search, ray = config.search, config.ray
        cluster.require_capacity(search.cpus_per_trial, search.gpus_per_trial, "search", "trial")
        cluster.require_capacity(ray.cpus_per_worker, ray.gpus_per_worker)
