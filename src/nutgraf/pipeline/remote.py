"""A study given to a cluster from outside it (`ray://HOST:PORT`): it runs there, and is fetched.

The machine that gives it is no node, so it has no part in the work. What both sides reach is the
storage.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from nutgraf.config import Config
from nutgraf.config.load import replace_settings
from nutgraf.core.console import show_log
from nutgraf.core.errors import UserError
from nutgraf.parallel.ray_cluster import visited
from nutgraf.pipeline import runner
from nutgraf.storage.remote_copy import RemoteCopy

logger = logging.getLogger(__name__)


def run(config: Config, stages: Sequence[str], force: bool = False) -> bool:
    """`study.run` on the cluster; then what it made is fetched into the folder `config.run` here.

    The folder has the same path on every node, which all see. Where this program ends, so does the
    study there; the same command carries it on. Raises as `study.run`, and UserError without a
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
    there = replace_settings(config, {"ray.address": "auto"})
    logger.info(f"the study runs on the cluster at {address}, in {config.run}")
    with visited(address) as cluster:
        made = cluster.run_task(_study, (there, tuple(stages), force))
    RemoteCopy(config.storage, config.run).pull()
    logger.info(f"fetched from the storage into {config.run}")
    return made


def _study(given: tuple[Config, tuple[str, ...], bool]) -> bool:
    config, stages, force = given
    show_log()  # Ray prints it on the standard error of the machine that gave the study
    return runner.run_study(config, stages, force=force)
