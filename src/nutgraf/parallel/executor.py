"""Open the Ray cluster that the configuration names, if it names one."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from nutgraf.config import Config

if TYPE_CHECKING:
    from nutgraf.parallel.ray_cluster import Cluster


def open_executor(
    config: Config, folder: Path
) -> contextlib.AbstractContextManager[Cluster | None]:
    """Return a context with the cluster, whose nodes see `folder`; None if this machine works.

    Ray is loaded only for a cluster. Entering it raises as `ray_cluster.join_cluster`.
    """
    if config.ray.address is None:
        return contextlib.nullcontext()
    from nutgraf.parallel.ray_cluster import join_cluster

    return join_cluster(config.ray, folder)
