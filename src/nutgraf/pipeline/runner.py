"""Run the stages of a study in their order, and skip what is finished."""

from __future__ import annotations

import contextlib
import importlib
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

from nutgraf.config import Config
from nutgraf.config.load import to_yaml
from nutgraf.core.fast_import import fast_imports
from nutgraf.core.files import write_text
from nutgraf.pipeline import artifacts
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


def run_study(config: Config, stages: Sequence[str] = tuple(STAGES), force: bool = False) -> bool:
    """Run stages in the folder `config.run`, and return whether anything had to be made.

    With `config.storage` the study is fetched from there first, and what is made is put there.

    Args:
        config: The study's configuration.
        stages: The names of those to run.
        force: Whether to make again what is finished and unchanged, which is skipped otherwise.
    """
    folder = RunFolder(config.run)
    with run_lock(folder.path), _synced(config, folder) as push:
        folder.recover()
        for line in explain_reruns(config, folder, stages):
            logger.info(line)
        write_text(folder.config, to_yaml(config))
        anything = False
        try:
            for number, name in enumerate(STAGES, 1):
                if name in stages:
                    title = f"[{number}/{len(STAGES)}] {name:<8}"
                    anything |= _run_stage(name, title, config, folder, force, push)
        except OSError as error:
            error.filename = error.filename or str(folder.path)  # a full disk often names no file
            raise
        return anything


def explain_reruns(
    config: Config, folder: RunFolder, stages: Sequence[str] = tuple(STAGES)
) -> list[str]:
    """Return what the stages will make again or throw away, a line an artefact with the reason."""
    if not folder.is_begun:
        return []
    lines = []
    to_make: set[str] = set()
    for stage in stages:
        for artefact in artifacts.BY_STAGE[stage](config, folder):
            if remade := ", ".join(name for name in artefact.inputs if name in to_make):
                stale: str | None = f"it follows {remade}"
                abandoned = stale if artefact.is_unfinished else None
            else:
                stale, abandoned = artefact.outdated, artefact.claim_mismatch
            if stale:
                to_make.add(artefact.name)
                if folder.has(artefact.name):
                    lines.append(f"{artefact.name} is made again: {stale}")
            if abandoned:
                lines.append(f"{artefact.name}, half made, is thrown away: {abandoned}")
    return lines


def _synced(config: Config, folder: RunFolder) -> AbstractContextManager[Callable[[], None]]:
    """Keep the study in its storage; yield what is called when all made so far is to be there."""
    if config.storage is None:
        return contextlib.nullcontext(lambda: None)
    from nutgraf.storage.remote_sync import synced  # with the libraries of file systems

    return synced(config.storage, folder.path)


def _run_stage(
    name: str, title: str, config: Config, folder: RunFolder, force: bool, push: Callable[[], None]
) -> bool:
    logger.info(f"{title} {STAGES[name]}")
    started = time.perf_counter()
    if not force and all(a.is_current for a in artifacts.BY_STAGE[name](config, folder)):
        logger.info(f"{title} unchanged, skipped")
        return False
    _stage(name).run(config, folder, force=force)
    push()
    logger.info(f"{title} done in {time.perf_counter() - started:.0f} s")
    return True


def _stage(name: str) -> Any:
    """Import a stage that has work to do: finished ones need neither torch nor Ray."""
    with fast_imports():
        return importlib.import_module(f"nutgraf.pipeline.stages.{name}")
