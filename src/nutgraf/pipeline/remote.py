"""Run a study on a cluster from outside it (`ray://HOST:PORT`), and fetch the result.

This machine is no node of the cluster and does none of the work. Both sides reach the storage.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from nutgraf.config import Config
from nutgraf.config.load import with_overrides
from nutgraf.core.console import show_log
from nutgraf.core.errors import UserError
from nutgraf.parallel.ray_cluster import visited
from nutgraf.pipeline import runner
from nutgraf.storage.remote_copy import RemoteCopy

logger = logging.getLogger(__name__)


def run(config: Config, stages: Sequence[str], force: bool = False) -> bool:
    """Do what `runner.run_study` does on the cluster, then fetch the run folder `config.run`.

    The folder has the same path on every node, and all nodes see it. If this program ends, so does
    the study; the same command carries it on. Raises as `run_study`, and UserError without a
    storage or an absolute path.
    """
    address = str(config.ray.address)
    if config.storage is None:
        raise UserError(
            f"ray.address is {address!r} and storage null: a cluster is reached from outside by a "
            "storage that both sides reach; set storage, or give the command on one of its nodes"
        )
    if not Path(config.run).is_absolute():
        raise UserError(
            f"ray.address is {address!r} and run {config.run!r}: give the absolute path of a "
            "folder that every node sees"
        )
    on_cluster = with_overrides(config, {"ray.address": "auto"})
    logger.info(f"the study runs on the cluster at {address}, in {config.run}")
    with visited(address) as cluster:
        anything = cluster.run_task(_run_study, (on_cluster, tuple(stages), force))
    RemoteCopy(config.storage, config.run).pull()
    logger.info(f"fetched from the storage into {config.run}")
    return anything


def _run_study(arguments: tuple[Config, tuple[str, ...], bool]) -> bool:
    show_log()  # Ray prints it on the standard error of the machine that started the study
    return runner.run_study(*arguments)
