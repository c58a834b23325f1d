"""The study: its stages in their order, what is done, what is next."""

from __future__ import annotations

import contextlib
import importlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from nutgraf.config import Config
from nutgraf.config.load import to_yaml
from nutgraf.core.fast_import import fast_imports
from nutgraf.core.files import write_text
from nutgraf.pipeline import artifacts
from nutgraf.storage.run_folder import Artefact, RunFolder
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
    """Run the named stages in the folder `config.run`; what is done and unchanged is skipped.

    Returns whether anything had to be made. `force` makes it again all the same. With
    `config.storage` the study is fetched from there first, and what is made is put there.
    """
    folder = RunFolder(config.run)
    with run_lock(folder.path), _kept(config, folder) as keep:
        folder.recover()
        for line in explain_reruns(config, folder, stages):
            logger.info(line)
        write_text(folder.config, to_yaml(config))
        try:
            return _run(config, folder, stages, force, keep)
        except OSError as error:
            error.filename = error.filename or str(folder.path)  # a full disk often names no file
            raise


def explain_reruns(
    config: Config, folder: RunFolder, stages: Sequence[str] = tuple(STAGES)
) -> list[str]:
    """What the named stages will make again or throw away, a line an artefact with the reason."""
    if not folder.is_begun:
        return []
    lines = []
    to_make: set[str] = set()
    for name in stages:
        for made in artifacts.BY_STAGE[name](config, folder):
            stale, useless = _outlook(made, to_make)
            if stale:
                to_make.add(made.name)
                if folder.has(made.name):
                    lines.append(f"{made.name} is made again: {stale}")
            if useless:
                lines.append(f"{made.name}, half made, is thrown away: {useless}")
    return lines


def _outlook(made: Artefact, to_make: set[str]) -> tuple[str | None, str | None]:
    """Why it has to be made, and why what a stopped run left of it is of no use; None if not so."""
    if follows := ", ".join(given for given in made.inputs if given in to_make):
        return f"it follows {follows}", f"it follows {follows}" if made.is_unfinished else None
    return made.outdated, made.claim_mismatch


@contextlib.contextmanager
def _kept(config: Config, folder: RunFolder) -> Iterator[Callable[[], None]]:
    """Keep the study in its storage; gives what is called where all made so far is to be there."""
    if config.storage is None:
        yield lambda: None
        return
    from nutgraf.storage.remote_sync import synced  # with the libraries of file systems

    with synced(config.storage, folder.path) as keep:
        yield keep


def _run(
    config: Config,
    folder: RunFolder,
    stages: Sequence[str],
    force: bool,
    keep: Callable[[], None],
) -> bool:
    anything = False
    for number, name in enumerate(STAGES, 1):
        if name not in stages:
            continue
        title = f"[{number}/{len(STAGES)}] {name:<8}"
        logger.info(f"{title} {STAGES[name]}")
        started = time.perf_counter()
        if not force and all(made.is_current for made in artifacts.BY_STAGE[name](config, folder)):
            logger.info(f"{title} unchanged, skipped")
            continue
        _stage(name).run(config, folder, force=force)
        anything = True
        keep()
        logger.info(f"{title} done in {time.perf_counter() - started:.0f} s")
    return anything


def _stage(name: str) -> Any:
    """Imported when it has something to do: what is done needs neither torch nor Ray."""
    with fast_imports():
        return importlib.import_module(f"nutgraf.pipeline.stages.{name}")
