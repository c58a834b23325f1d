"""Where a study's work is done: on this machine, or on the Ray cluster that the settings name."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from nutgraf.config import Config

if TYPE_CHECKING:
    from nutgraf.parallel.ray_cluster import Cluster


@contextlib.contextmanager
def open_executor(config: Config, folder: Path) -> Iterator[Cluster | None]:
    """The cluster, for which the run folder is `folder`; None where this machine does it all.

    Ray is loaded only for a cluster. Raises as `cluster.joined`.
    """
    if config.ray.address is None:
        yield None
        return
    from nutgraf.parallel.ray_cluster import joined

    with joined(config.ray, folder) as cluster:
        yield cluster
