"""Run the stages of a study in their order, and skip what is finished."""

from __future__ import annotations

import contextlib
import functools
import importlib
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

from nutgraf.config import Config, effects
from nutgraf.config.load import to_yaml, with_overrides
from nutgraf.core.console import show_log
from nutgraf.core.errors import UserError
from nutgraf.core.fast_import import fast_imports
from nutgraf.core.files import write_text
from nutgraf.pipeline import artifacts, preflight
from nutgraf.pipeline.run_log import DONE_BEFORE, logged
from nutgraf.storage.artefact import Artefact
from nutgraf.storage.run_folder import RunFolder
from nutgraf.storage.run_lock import run_lock

logger = logging.getLogger(__name__)

STAGES = {
    "prepare": "articles in, cleaned, split, counted",
    "search": "settings tried on train and validation",
    "train": "the baseline and the best",
    "generate": "summaries of the test articles by every system",
    "score": "ROUGE and indicators, article by article",
    "compare": "the table, the analysis, the model to take away",
    "report": "figures, report.html, report.md",
}


WITH_MODELS = ("prepare", "search", "train", "generate")


def run_study(config: Config, stages: Sequence[str] = tuple(STAGES), force: bool = False) -> bool:
    """Run stages in the folder `config.run`, and return whether anything had to be made.

    With `config.storage` the study is fetched from there first, and what is made is put there. If
    `config.ray.address` is `ray://HOST:PORT`, the stages run on that cluster.

    Args:
        config: The study's configuration.
        stages: The names of those to run.
        force: Whether to make again what is finished and unchanged, which is skipped otherwise.
    """
    if (config.ray.address or "").startswith("ray://"):
        return _run_on_cluster(config, stages, force)
    preflight.require(preflight.of_settings(config))
    for line in effects.idle(config):
        logger.warning(line)
    folder = RunFolder(config.run)
    check = functools.cache(lambda: preflight.require(preflight.of_models(config)))
    anything = False
    with run_lock(folder.path), _synced(config, folder) as push, logged(folder.path) as log:
        folder.recover()
        for line in _explain_reruns(config, folder, stages):
            logger.info(line)
        write_text(folder.config, to_yaml(config))
        for number, name in enumerate(STAGES, 1):
            if name not in stages:
                continue
            title, log.stage = f"[{number}/{len(STAGES)}] {name:<8}", name
            logger.info(f"{title} {STAGES[name]}")
            started = time.perf_counter()
            try:
                if not run_stage(name, config, folder, force, check):
                    logger.info(f"{title} unchanged, skipped")
                    continue
                push()
            except OSError as error:
                error.filename = error.filename or str(folder.path)  # a full disk often names none
                raise
            anything = True
            logger.info(f"{title} done in {time.perf_counter() - started:.0f} s")
    return anything


def run_stage(
    name: str,
    config: Config,
    folder: RunFolder,
    force: bool = False,
    check: Callable[[], None] = lambda: None,
) -> bool:
    """Make the artefacts of a stage that are not current, or all; return whether there were any.

    `check` is called before a stage that uses models.
    """
    outdated: list[Artefact] = []
    current: list[Artefact] = []
    for artefact in artifacts.BY_STAGE[name](config, folder):
        follows = any(earlier.name in artefact.sources for earlier in outdated)
        (outdated if follows or not artefact.is_current or force else current).append(artefact)
    if outdated:
        if name in WITH_MODELS:
            check()
        for artefact in current:
            logger.info(artefact.name + DONE_BEFORE)
        _stage(name).run(config, folder, outdated)
    return bool(outdated)


def _explain_reruns(config: Config, folder: RunFolder, stages: Sequence[str]) -> list[str]:
    """Return what the stages will make again or throw away, a line an artefact with the reason."""
    if not folder.is_begun:
        return []
    lines = []
    to_make: set[str] = set()
    for stage in stages:
        for artefact in artifacts.BY_STAGE[stage](config, folder):
            remade = " or ".join(sorted({n.partition("/")[0] for n in artefact.sources & to_make}))
            known = not remade or all(folder.has(source) for source in artefact.sources)
            stale, abandoned = (
                (artefact.outdated, artefact.claim_mismatch) if known else (None, None)
            )
            if stale:
                reason = f"{'goes on' if artefact.goes_on else 'is made again'}: {stale}"
            else:
                reason = f"is made again if {remade} changes"
            if stale or remade:
                to_make.add(artefact.name)
                if folder.has(artefact.name):
                    lines.append(f"{artefact.name} {reason}")
            if abandoned:
                lines.append(f"{artefact.name}, half made, is thrown away: {abandoned}")
            elif remade and artefact.is_unfinished:
                lines.append(f"{artefact.name}, half made, is thrown away if {remade} changes")
    return lines


def _synced(config: Config, folder: RunFolder) -> AbstractContextManager[Callable[[], None]]:
    """Copy the study to its storage during the block; yield a function that does so at once."""
    if config.storage is None:
        return contextlib.nullcontext(lambda: None)
    from nutgraf.storage.remote_sync import synced  # with the libraries of file systems

    return synced(config.storage, folder.path)


def _run_on_cluster(config: Config, stages: Sequence[str], force: bool) -> bool:
    """Run a study on a cluster from outside it, then fetch the run folder from the storage.

    This machine is no node and does none of the work. The run folder has the same path on every
    node, and all nodes see it. If this program ends, so does the study; the same command carries
    it on. Raises as `run_study`, and UserError without a storage.
    """
    from nutgraf.parallel.ray_cluster import run_task
    from nutgraf.parallel.ray_session import connect_client
    from nutgraf.storage.remote_copy import RemoteCopy

    address = str(config.ray.address)
    if config.storage is None:
        raise UserError(
            f"ray.address is {address!r} and storage null: a cluster is reached from outside by a "
            "storage that both sides reach; set storage, or give the command on one of its nodes"
        )
    on_cluster = with_overrides(config, {"ray.address": "auto"})
    logger.info(f"the study runs on the cluster at {address}, in {config.run}")
    with connect_client(address):
        anything = run_task(_run_there, (on_cluster, tuple(stages), force))
    RemoteCopy(config.storage, config.run).pull()
    logger.info(f"fetched from the storage into {config.run}")
    return anything


def _run_there(arguments: tuple[Config, tuple[str, ...], bool]) -> bool:
    show_log()  # Ray prints it on the standard error of the machine that started the study
    return run_study(*arguments)


def _stage(name: str) -> Any:
    """Import a stage that has work to do: finished ones need neither torch nor Ray."""
    with fast_imports():
        return importlib.import_module(f"nutgraf.pipeline.stages.{name}")
