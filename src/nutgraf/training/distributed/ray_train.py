"""Run one training in several processes of a cluster: `fit_adapter()` in each, by Ray Train.

Data parallel: each process has the whole base, and takes its micro-batches of every step. If a
process or its node dies, the group starts again from the newest checkpoint, with as many processes
as there is room for then.
"""

from __future__ import annotations

import logging
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import distributed

from nutgraf.core.environment import ignore_launchers
from nutgraf.core.errors import Failure, UserError, one_line
from nutgraf.modeling.losses import RowLoss
from nutgraf.parallel.ray_cluster import Cluster, local_actor
from nutgraf.training.distributed.process_group import ProcessGroup, name_interface
from nutgraf.training.fit import fit_adapter
from nutgraf.training.history import Evaluation, TrainingResult
from nutgraf.training.job import TrainingJob

# isort: split
import ray
import ray.train
from ray.exceptions import RayError
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.torch.config import _TorchBackend
from ray.train.v2._internal.exceptions import RayTrainError
from ray.train.v2.api.exceptions import ControllerError, TrainingFailedError, WorkerGroupError
from ray.util import get_node_ip_address
from ray.util.queue import Queue

logger = logging.getLogger(__name__)

_MAX_DEATHS = 8  # of groups in a row, without an evaluation in between
_POLL = 0.5  # seconds between two looks for news


class _Connected(_TorchBackend):
    """Connects processes over the addresses by which Ray's nodes know each other.

    Otherwise gloo takes what the host's name resolves to, on Debian a loopback address.
    """

    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        worker_group.execute(ignore_launchers)  # those of the node, before Ray sets its own
        worker_group.execute(name_interface, get_node_ip_address)
        super().on_start(worker_group, backend_config)


class _Connection(TorchConfig):
    @property
    def backend_cls(self) -> type[_Connected]:
        return _Connected


def fit_on_workers(cluster: Cluster, job: TrainingJob) -> TrainingResult:
    """Do the work of `fit_adapter` with up to `ray.train_workers` processes of the cluster.

    Every node sees `job.out`. `job.on_step` is not called.

    Raises:
        Failure: if groups of processes die again and again.
        Exception: what `fit_adapter` raises in one of them.
    """
    job_on_workers = ray.put(replace(job, out=job.out.resolve(), on_eval=None, on_step=None))
    news = local_actor(Queue)
    evaluated: set[int] = set()  # steps
    max_micro_batch, deaths = job.config.train.micro_batch_size, 0

    def on_eval(evaluation: Evaluation) -> None:
        nonlocal deaths
        if evaluation.step not in evaluated:
            evaluated.add(evaluation.step)
            deaths = 0
            if job.on_eval:
                job.on_eval(evaluation)

    try:
        while True:
            task = {"job": job_on_workers, "news": news, "max_micro_batch": max_micro_batch}
            try:
                return _run_group(cluster, job.title, task, on_eval)
            except TrainingFailedError as error:
                cause = _cause(error)
            if isinstance(cause, torch.OutOfMemoryError):
                reason = one_line(str(cause), 120)
                max_micro_batch = job.smaller_micro_batch(max_micro_batch, reason)
                continue
            if not _is_death(cause):
                raise cause from None
            deaths += 1
            if deaths > _MAX_DEATHS:
                raise Failure(
                    f"{job.title}: {deaths} groups of processes died one after the other, the last "
                    f"with: {one_line(str(cause), 200)}; the same command carries on"
                ) from cause
            logger.warning(
                f"{job.title}: a process died ({one_line(str(cause), 100)}): goes on without it"
            )
    finally:
        news.shutdown(force=True)


def _run_group(
    cluster: Cluster, title: str, task: dict[str, Any], on_eval: Callable[[Evaluation], None]
) -> TrainingResult:
    """Run one group until it has finished or one of its processes has failed."""
    settings = cluster.settings
    gpus = settings.gpus_per_worker
    processes = min(
        settings.train_workers, cluster.require_capacity(settings.cpus_per_worker, gpus)
    )
    if processes > 1:
        logger.info(f"{title}: {processes} processes share each step")
    resources = {"CPU": settings.cpus_per_worker} | ({"GPU": gpus} if gpus else {})
    with tempfile.TemporaryDirectory() as scratch:  # Ray's own notes; ours are in the run folder
        trainer = TorchTrainer(
            cast(Any, _train_in_process),  # Ray's type does not say that its result comes back
            train_loop_config=task,
            torch_config=_Connection(backend="nccl" if gpus else "gloo"),
            scaling_config=ScalingConfig(
                num_workers=processes, use_gpu=gpus > 0, resources_per_worker=resources
            ),
            run_config=RunConfig(
                name="group",
                storage_path=scratch,
                failure_config=FailureConfig(max_failures=0),  # `fit_on_workers` handles them
            ),
        )
        result: Future[TrainingResult] = Future()

        def train() -> None:
            try:
                result.set_result(cast(Any, trainer.fit()).return_value)
            except BaseException as error:
                result.set_exception(error)

        # In a thread, so that Ray leaves Ctrl-C to the program.
        threading.Thread(target=train, daemon=True).start()
        while not result.done():
            _forward_news(task["news"], on_eval)
            time.sleep(_POLL)
        _forward_news(task["news"], on_eval)
        return result.result()


def _forward_news(news: Any, on_eval: Callable[[Evaluation], None]) -> None:
    for record in news.get_nowait_batch(news.qsize()):
        on_eval(Evaluation(**{**record, "rows": [RowLoss(**row) for row in record["rows"]]}))


def _train_in_process(task: dict[str, Any]) -> TrainingResult:
    """Train as one process of the group; the first one has the run folder and sends the news."""
    job: TrainingJob = ray.get(task["job"])
    settings = job.config.ray
    group = ProcessGroup(distributed.get_rank(), distributed.get_world_size(), settings.fsdp)
    torch.set_num_threads(max(1, int(settings.cpus_per_worker)))
    if torch.cuda.is_available():
        torch.cuda.set_device(ray.train.torch.get_device())
    with tempfile.TemporaryDirectory() as scratch:
        if group.is_first:
            # As plain values: for a class of ours the process of the queue would load torch.
            job = replace(job, on_eval=lambda evaluation: task["news"].put(asdict(evaluation)))
        else:
            job = replace(job, out=Path(scratch) / "adapter")
        return fit_adapter(job, group, task["max_micro_batch"])


def _cause(error: TrainingFailedError) -> Exception:
    """Return why the group failed: preferably an error of a process, not the death of another."""
    failures: list[Exception] = []
    if isinstance(error, WorkerGroupError):
        failures = [*error.worker_failures.values()]
    elif isinstance(error, ControllerError):
        failures = [error.controller_failure]  # that it did not come together
    causes = [getattr(e, "cause", None) or e for e in failures]
    return next((e for e in causes if not _is_death(e)), causes[0] if causes else error)


def _is_death(error: Exception) -> bool:
    """Return whether the error may come from a dead process, its own or one that it spoke to."""
    own = isinstance(error, UserError | Failure | torch.OutOfMemoryError)
    return not own and isinstance(error, RuntimeError | RayError | RayTrainError)
