"""Let trials be trained by an engine on their node, one of Ray's actors.

To Ray Tune such a trial is as any other, with a process of its own; but that loads no torch.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import RayError
from ray.util import list_named_actors
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from nutgraf.core.errors import Failure
from nutgraf.search.packed_engine import Engine
from nutgraf.search.trial import SearchInputs

if TYPE_CHECKING:
    from nutgraf.config import SearchConfig
    from nutgraf.search.trial_worker import Training


PREFIX = "engine-"  # of an actor's name; its study, node and the number of its device there follow
_ANSWER = 60.0  # seconds that an engine has to say how many it trains; it may be starting


@dataclass(frozen=True)
class PackedTraining:
    """The training of a search whose trials are packed together, at most `max_packed` in a pass."""

    inputs: SearchInputs
    max_packed: int | None = None

    @contextlib.contextmanager
    def open(self, out: Path) -> Iterator[Training]:
        """Yield the Training, once Ray runs; engines have their notes in `out` in the block."""
        _end_engines(out)
        work, search = ray.put((self.inputs, self.max_packed)), self.inputs.config.search
        try:
            yield functools.partial(train_on_engine, work=work, out=out, search=search)
        finally:
            _end_engines(out)


def train_on_engine(
    overrides: Mapping[str, Any],
    folder: Path,
    on_eval: Callable[[Any], None],
    on_step: Callable[[int], None],
    *,
    work: Any,
    out: Path,
    search: SearchConfig,
) -> Sequence[Any]:
    """Ask the engine for news of a trial until it is trained: the Training of a packed search."""
    engine, received = _find_engine(str(folder), work, out, search), 0
    try:
        while True:
            news = ray.get(engine.advance.remote(str(folder), dict(overrides), received))
            for evaluation in news.evaluations:
                received += 1
                on_eval(evaluation)
            if news.error is not None:
                raise news.error
            if news.rows is not None:
                return list(news.rows)
            on_step(news.examples)
    finally:
        engine.leave.remote(str(folder))


def _find_engine(folder: str, work: Any, out: Path, search: SearchConfig) -> Any:
    """Return the engine that trains the trial in `folder`, or else the least loaded of this node.

    Trials that begin at the same moment see the same loads: their numbers tell them apart.
    """
    local, loads = _local_engines(work, out, search), {}
    running = {name for name in list_named_actors() if name.startswith(_prefix(out))}
    for name in sorted({*running, *local}):
        with contextlib.suppress(ValueError, RayError):  # gone with its node
            engine = local.get(name) or ray.get_actor(name)
            loads[name] = ray.get(engine.load.remote(folder), timeout=_ANSWER)
            if loads[name] is None:
                return engine
    answered = {name: loads[name] for name in local if name in loads}
    if not answered:
        raise Failure(
            f"no engine for trials together answered within {_ANSWER:.0f} s: free the GPU or the "
            "processors, or set search.together to off"
        )
    least = min(answered.values())
    free = [local[name] for name, load in answered.items() if load == least]
    return free[int(Path(folder).name) % len(free)]


def _local_engines(work: Any, out: Path, search: SearchConfig) -> dict[str, Any]:
    """Return this node's engines, one a GPU or one for all cores; the first call starts them.

    Raises Failure on a node without a GPU if trials need one.
    """
    node = ray.get_runtime_context().get_node_id()
    resources = next(other["Resources"] for other in ray.nodes() if other["NodeID"] == node)
    gpus = 1 if search.gpus_per_trial else 0
    names = [
        f"{_prefix(out)}{node}-{k}" for k in range(int(resources.get("GPU", 0)) if gpus else 1)
    ]
    if not names:
        raise Failure(
            f"search.gpus_per_trial is {search.gpus_per_trial:g}, and this node of the cluster has "
            "no GPU for trials together: set search.together to off"
        )
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
    cores = min(search.parallel_trials * search.cpus_per_trial, resources.get("CPU", 1))
    threads = max(1, int(cores / len(names)))
    engine = ray.remote(Engine)
    return {
        name: engine.options(name=name, **options).remote(
            work, str(out / f".{name}.json"), threads, search.trial_minutes
        )
        for name in names
    }


def _prefix(out: Path) -> str:
    """Return how the names of this search's engines begin, since others share the cluster."""
    return f"{PREFIX}{hashlib.sha256(str(out).encode()).hexdigest()[:12]}-"


def _end_engines(out: Path) -> None:
    """End this search's engines, those of a killed run too, and delete their notes in `out`."""
    for name in list_named_actors():
        if name.startswith(_prefix(out)):
            ray.kill(ray.get_actor(name))
    for notes in out.glob(f".{PREFIX}*"):
        notes.unlink()
