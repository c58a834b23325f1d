"""Trials that train nothing themselves: each asks the engine of its node, one of Ray's actors.

To Ray Tune a trial is what it always is, with a process of its own; but that loads no torch.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray.util import list_named_actors
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from nutgraf.budget import at_once
from nutgraf.engine import Engine

if TYPE_CHECKING:
    from nutgraf.prompts import Example
    from nutgraf.settings import Config

NAME = "engine-"  # and the node: an actor's


@dataclass(frozen=True)
class Together:
    """The Training of a search whose trials are trained together, to `begin` once Ray runs."""

    config: Config
    train: Sequence[Example]
    validation: Sequence[Example]
    most: int | None = None  # trials in a pass

    def begin(self, out: Path) -> Any:
        """The Training itself; engines keep notes in `out` until the `end`."""
        search = self.config.search
        self.end(out)
        started = functools.partial(
            _engine,
            given=ray.put((self.config, self.train, list(self.validation), self.most)),
            out=str(out),
            threads=max(1, int(at_once(search) * search.cpus_per_trial)),
            gpus=1 if search.gpus_per_trial else 0,
            minutes=search.trial_minutes,
            waiting=2 * search.concurrent + 2,  # those of processes that died, and `leave`, too
        )
        return functools.partial(through, started=started)

    def end(self, out: Path) -> None:
        """End the engines that there are, and forget what they noted."""
        for name in list_named_actors():
            if name.startswith(NAME):
                ray.kill(ray.get_actor(name))
        for notes in out.glob(f".{NAME}*"):
            notes.unlink()


def _engine(
    given: Any, out: str, threads: int, gpus: int, minutes: float | None, waiting: int
) -> Any:
    """The engine of this node, which the first that asks for it starts."""
    node = ray.get_runtime_context().get_node_id()
    options = {
        "name": f"{NAME}{node}",
        "get_if_exists": True,
        "lifetime": "detached",  # its own, not that of the trial that comes first
        "num_cpus": 0,  # the trials have those that it uses
        "num_gpus": gpus,
        "max_restarts": -1,
        "max_task_retries": -1,
        "max_concurrency": waiting,  # threads, one a trial that waits for news
        "scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=False),
    }
    notes = str(Path(out) / f".{NAME}{node}.json")
    return ray.remote(Engine).options(**options).remote(given, notes, threads, minutes)


def through(
    values: Mapping[str, Any],
    folder: Path,
    on_eval: Callable[[Any], None],
    on_step: Callable[[], None],
    *,
    started: Callable[[], Any],
) -> Sequence[Any]:
    """The Training of a trial: asks the engine for news until there are no more."""
    engine, told = started(), 0
    try:
        while True:
            news = ray.get(engine.advance.remote(str(folder), dict(values), told))
            for found in news.evaluations:
                told += 1
                on_eval(found)
            if news.error is not None:
                raise news.error
            if news.rows is not None:
                return list(news.rows)
            on_step()
    finally:
        engine.leave.remote(str(folder))
