"""One training by several processes of a cluster: `fit_adapter()` in each, started by Ray Train.

Data parallel: each process has the whole base, and takes its micro-batches of every step. If a
process or its node dies, the group starts again from the newest checkpoint, with as many processes
as there is room for then.
"""

from __future__ import annotations

import logging
import queue
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch

from nutgraf.core.errors import Failure, UserError, one_line
from nutgraf.modeling.losses import RowLoss
from nutgraf.parallel.ray_cluster import Cluster, placed_here
from nutgraf.training.distributed.process_group import name_interface, peers
from nutgraf.training.fit import fit_adapter
from nutgraf.training.history import Evaluation, Fit
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

_MAX_LOST = 8  # groups in a row that may die without an evaluation in between
_POLL = 0.5  # seconds between two looks for news of the group


class _Connected(_TorchBackend):
    """torch.distributed between processes, over the addresses by which Ray's nodes know each other.

    Otherwise gloo takes what the host's name resolves to, on Debian a loopback address.
    """

    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        worker_group.execute(name_interface, get_node_ip_address)
        super().on_start(worker_group, backend_config)


class _Connection(TorchConfig):
    @property
    def backend_cls(self) -> type[_Connected]:
        return _Connected


def fit_on_workers(cluster: Cluster, job: TrainingJob) -> Fit:
    """Do the work of `fit_adapter` with up to `ray.train_workers` processes of the cluster.

    Every node sees `job.out`. `job.on_step` is not called.

    Raises:
        Failure: if groups of processes die again and again.
        Exception: what `fit_adapter` raises in one of them.
    """
    title = job.title
    sent = ray.put(replace(job, out=job.out.resolve(), on_eval=None, on_step=None))
    news = placed_here(Queue)
    heard: set[int] = set()
    max_micro_batch, lost = job.config.train.micro_batch_size, 0

    def on_eval(evaluation: Evaluation) -> None:
        nonlocal lost
        if evaluation.step not in heard:
            heard.add(evaluation.step)
            lost = 0
            if job.on_eval:
                job.on_eval(evaluation)

    try:
        while True:
            task = {"job": sent, "news": news, "max_micro_batch": max_micro_batch}
            try:
                return _run(cluster, title, task, on_eval)
            except TrainingFailedError as error:
                cause = _cause(error)
            if isinstance(cause, torch.OutOfMemoryError):
                reason = one_line(str(cause), 120)
                max_micro_batch = job.smaller_micro_batch(max_micro_batch, reason)
                continue
            if not _is_death(cause):
                raise cause from None
            lost += 1
            if lost > _MAX_LOST:
                raise Failure(
                    f"{title}: {lost} groups of processes died one after the other, the last with: "
                    f"{one_line(str(cause), 200)}; the same command carries on"
                ) from cause
            logger.warning(
                f"{title}: a process died ({one_line(str(cause), 100)}): goes on without it"
            )
    finally:
        news.shutdown(force=True)


def _run(
    cluster: Cluster, title: str, task: dict[str, Any], on_eval: Callable[[Evaluation], None]
) -> Fit:
    """Run one group until it is done or one of its processes has failed."""
    settings = cluster.settings
    gpus = settings.gpus_per_worker
    room = cluster.capacity(settings.cpus_per_worker, gpus)
    if not room:
        raise UserError(
            f"no node of the cluster has {settings.cpus_per_worker:g} cores and {gpus:g} GPUs: "
            "lower ray.cpus_per_worker or ray.gpus_per_worker, or add a node"
        )
    processes = min(settings.train_workers, room)
    if processes > 1:
        logger.info(f"{title}: {processes} processes share each step")
    with tempfile.TemporaryDirectory() as scratch:  # Ray's own notes; ours are in the run folder
        trainer = TorchTrainer(
            cast(Any, _train_in_process),  # Ray's type does not say that its result comes back
            train_loop_config=task,
            torch_config=_Connection(backend="nccl" if gpus else "gloo"),
            scaling_config=ScalingConfig(
                num_workers=processes,
                use_gpu=gpus > 0,
                resources_per_worker={"CPU": settings.cpus_per_worker}
                | ({"GPU": gpus} if gpus else {}),
            ),
            run_config=RunConfig(
                name="group",
                storage_path=scratch,
                failure_config=FailureConfig(max_failures=0),  # `fit_on` decides what follows
            ),
        )
        ended: queue.Queue[Any] = queue.Queue()
        threading.Thread(target=_fit, args=(trainer, ended), daemon=True).start()
        while ended.empty():
            _listen(task["news"], on_eval)
            time.sleep(_POLL)
        _listen(task["news"], on_eval)
        result = ended.get()
    if isinstance(result, BaseException):
        raise result
    return cast(Fit, result)


def _fit(trainer: TorchTrainer, ended: queue.Queue[Any]) -> None:
    """Run in a thread of its own, so that Ray leaves Ctrl-C to the program."""
    try:
        ended.put(cast(Any, trainer.fit()).return_value)
    except BaseException as error:
        ended.put(error)


def _listen(news: Any, on_eval: Callable[[Evaluation], None]) -> None:
    for step, examples, loss, rows in news.get_nowait_batch(news.qsize()):
        on_eval(Evaluation(step, examples, loss, [RowLoss(*row) for row in rows]))


def _plain(evaluation: Evaluation) -> tuple[Any, ...]:
    """Return it without a class of ours, for which the process of the queue would load torch."""
    rows = [(row.nll, row.tokens) for row in evaluation.rows]
    return evaluation.step, evaluation.examples, evaluation.loss, rows


def _train_in_process(task: dict[str, Any]) -> Fit:
    """Train as one process of the group; the first one has the run folder and sends the news."""
    job: TrainingJob = ray.get(task["job"])
    news, ray_settings = task["news"], job.config.ray
    own = peers(ray_settings.fsdp)
    torch.set_num_threads(max(1, int(ray_settings.cpus_per_worker)))
    if torch.cuda.is_available():
        torch.cuda.set_device(ray.train.torch.get_device())
    if own.is_first:
        job = replace(job, on_eval=lambda evaluation: news.put(_plain(evaluation)))
        return fit_adapter(job, own, task["max_micro_batch"])
    with tempfile.TemporaryDirectory() as aside:
        job = replace(job, out=Path(aside) / "adapter")
        return fit_adapter(job, own, task["max_micro_batch"])


def _cause(error: TrainingFailedError) -> Exception:
    """Return why the group failed: preferably an error of a process, not the loss of another."""
    failures: list[Exception] = []
    if isinstance(error, WorkerGroupError):
        failures = [*error.worker_failures.values()]
    elif isinstance(error, ControllerError):
        failures = [error.controller_failure]  # that it did not come together
    causes = [getattr(e, "cause", None) or e for e in failures]
    own = [e for e in causes if not _is_death(e)]
    return (own or causes or [error])[0]


def _is_death(error: Exception) -> bool:
    """Return whether the error may come from a dead process, its own or one that it spoke to."""
    own = isinstance(error, UserError | Failure | torch.OutOfMemoryError)
    return not own and isinstance(error, RuntimeError | RayError | RayTrainError)
