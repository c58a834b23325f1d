"""Trials that train nothing themselves: each asks an engine of its node, one of Ray's actors.

To Ray Tune a trial is what it always is, with a process of its own; but that loads no torch.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import RayError
from ray.util import list_named_actors
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from nutgraf.budget import at_once
from nutgraf.engine import Engine

if TYPE_CHECKING:
    from nutgraf.prompts import Example
    from nutgraf.settings import Config, SearchConfig

NAME = "engine-"  # and the node, and the device's number there: an actor's
_ANSWER = 60.0  # seconds that an engine has to say how many it trains; it may be starting


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
        engines = _Engines(
            ray.put((self.config, self.train, list(self.validation), self.most)), out, search
        )
        return functools.partial(through, engine_of=engines.of)

    def end(self, out: Path) -> None:
        """End the engines that there are, and forget what they noted."""
        for name in list_named_actors():
            if name.startswith(NAME):
                ray.kill(ray.get_actor(name))
        for notes in out.glob(f".{NAME}*"):
            notes.unlink()


@dataclass(frozen=True)
class _Engines:
    """One a GPU on each node, or one a node; `given` is what each of them is given."""

    given: Any
    out: Path
    search: SearchConfig

    def of(self, folder: str) -> Any:
        """The engine of the trial in `folder`: where it is still known, or the least loaded here.

        Trials that begin at the same moment see the same loads: their numbers tell them apart.
        """
        here, loads = self._here(), {}
        known = {name for name in list_named_actors() if name.startswith(NAME)}
        for name in sorted({*known, *here}):
            with contextlib.suppress(ValueError, RayError):  # gone with its node
                engine = here.get(name) or ray.get_actor(name)
                loads[name] = ray.get(engine.load.remote(folder), timeout=_ANSWER)
                if loads[name] is None:
                    return engine
        least = min(loads[name] for name in here)
        free = [engine for name, engine in here.items() if loads[name] == least]
        return free[int(Path(folder).name) % len(free)]

    def _here(self) -> dict[str, Any]:
        """Those of this node, which the first that asks for them starts."""
        search, node = self.search, ray.get_runtime_context().get_node_id()
        has = next(found["Resources"] for found in ray.nodes() if found["NodeID"] == node)
        gpus = 1 if search.gpus_per_trial else 0
        names = [f"{NAME}{node}-{k}" for k in range(int(has.get("GPU", 0)) if gpus else 1)]
        options = {
            "get_if_exists": True,
            "lifetime": "detached",  # its own, not that of the trial that comes first
            "num_cpus": 0,  # the trials have those that it uses
            "num_gpus": gpus,
            "max_restarts": -1,
            "max_task_retries": -1,
            # Threads: one a trial that waits for news; those of dead processes, and `leave`, too.
            "max_concurrency": 2 * search.concurrent + 2,
            "scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=False),
        }
        cores = min(at_once(search) * search.cpus_per_trial, has.get("CPU", 1))
        threads = max(1, int(cores / len(names)))
        engine = ray.remote(Engine)
        return {
            name: engine.options(name=name, **options).remote(
                self.given, str(self.out / f".{name}.json"), threads, search.trial_minutes
            )
            for name in names
        }


def through(
    values: Mapping[str, Any],
    folder: Path,
    on_eval: Callable[[Any], None],
    on_step: Callable[[], None],
    *,
    engine_of: Callable[[str], Any],
) -> Sequence[Any]:
    """The Training of a trial: asks the engine for news until there are no more."""
    engine, told = engine_of(str(folder)), 0
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
