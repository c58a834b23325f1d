"""Trials that train nothing themselves: each asks an engine on its node, one of Ray's actors.

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

from nutgraf.search.packed_engine import Engine

if TYPE_CHECKING:
    from nutgraf.config import Config, SearchConfig
    from nutgraf.data.prompts import Example


NAME = "engine-"  # and the node, and the device's number there: an actor's
_ANSWER = 60.0  # seconds that an engine has to say how many it trains; it may be starting


@dataclass(frozen=True)
class PackedTraining:
    """The Training of a search whose trials are packed together, to `begin` once Ray runs."""

    config: Config
    train: Sequence[Example]
    validation: Sequence[Example]
    max_packed: int | None = None  # trials in a pass

    def begin(self, out: Path) -> Any:
        """Return the Training itself; engines keep notes in `out` until the `end`."""
        self.end(out)
        work = (self.config, self.train, list(self.validation), self.max_packed)
        engines = _Engines(ray.put(work), out, self.config.search)
        return functools.partial(train_on_engine, engine_of=engines.of)

    def end(self, out: Path) -> None:
        """End all engines, and delete their notes."""
        for name in list_named_actors():
            if name.startswith(NAME):
                ray.kill(ray.get_actor(name))
        for notes in out.glob(f".{NAME}*"):
            notes.unlink()


@dataclass(frozen=True)
class _Engines:
    """One engine a GPU on each node, or one a node; each gets the same `work`."""

    work: Any
    out: Path
    search: SearchConfig

    def of(self, folder: str) -> Any:
        """Return the engine of the trial in `folder`: the one that trains it, or the least loaded.

        Trials that begin at the same moment see the same loads: their numbers tell them apart.
        """
        here, loads = self._on_this_node(), {}
        running = {name for name in list_named_actors() if name.startswith(NAME)}
        for name in sorted({*running, *here}):
            with contextlib.suppress(ValueError, RayError):  # gone with its node
                engine = here.get(name) or ray.get_actor(name)
                loads[name] = ray.get(engine.load.remote(folder), timeout=_ANSWER)
                if loads[name] is None:
                    return engine
        least = min(loads[name] for name in here)
        free = [engine for name, engine in here.items() if loads[name] == least]
        return free[int(Path(folder).name) % len(free)]

    def _on_this_node(self) -> dict[str, Any]:
        """Return the engines of this node, started by the first trial that asks for them."""
        search, node = self.search, ray.get_runtime_context().get_node_id()
        has = next(other["Resources"] for other in ray.nodes() if other["NodeID"] == node)
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
        cores = min(search.parallel_trials * search.cpus_per_trial, has.get("CPU", 1))
        threads = max(1, int(cores / len(names)))
        engine = ray.remote(Engine)
        return {
            name: engine.options(name=name, **options).remote(
                self.work, str(self.out / f".{name}.json"), threads, search.trial_minutes
            )
            for name in names
        }


def train_on_engine(
    overrides: Mapping[str, Any],
    folder: Path,
    on_eval: Callable[[Any], None],
    on_step: Callable[[], None],
    *,
    engine_of: Callable[[str], Any],
) -> Sequence[Any]:
    """Ask the engine for news of a trial until it is trained: the Training of a packed search."""
    engine, heard = engine_of(str(folder)), 0
    try:
        while True:
            news = ray.get(engine.advance.remote(str(folder), dict(overrides), heard))
            for evaluation in news.evaluations:
                heard += 1
                on_eval(evaluation)
            if news.error is not None:
                raise news.error
            if news.rows is not None:
                return list(news.rows)
            on_step()
    finally:
        engine.leave.remote(str(folder))
