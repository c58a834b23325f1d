"""One training by several processes of a cluster: `fit()` in each, started by Ray Train.

Data parallel: each process has the whole base, and takes its micro-batches of every step. Where a
process or its node dies, the group begins again from the newest checkpoint, with as many processes
as there is room for then.
"""

from __future__ import annotations

import logging
import queue
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch

from nutgraf.budget import effective_batch, halved
from nutgraf.cluster import Cluster, placed_here
from nutgraf.history import Evaluation, Fit
from nutgraf.inference import RowLoss
from nutgraf.model import Device, choose_device, fresh_adapter, load_base, load_tokenizer
from nutgraf.peers import name_interface, peers
from nutgraf.problems import Failure, UserError, one_line
from nutgraf.prompts import Example
from nutgraf.settings import Config
from nutgraf.shards import base_to_share, share_out
from nutgraf.trainer import fit

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

_LOST = 8  # groups in a row that may die without an evaluation in between
_LOOK = 0.5  # seconds between two looks for news of the group


class _Connected(_TorchBackend):
    """torch.distributed between processes, over the addresses by which Ray's nodes know each other.

    Else gloo takes what the host's name stands for, on Debian an address of the host alone.
    """

    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        worker_group.execute(name_interface, get_node_ip_address)
        super().on_start(worker_group, backend_config)


class _Connection(TorchConfig):
    @property
    def backend_cls(self) -> type[_Connected]:
        return _Connected


@dataclass(frozen=True)
class _Given:
    """What each process of the group is given; `rows` holds those to train and to validate on."""

    config: Config
    rows: Any
    out: str
    title: str
    most: int | None
    news: Any


def fit_on(
    cluster: Cluster,
    config: Config,
    train: Sequence[Example],
    validation: Sequence[Example],
    out: Path,
    title: str,
    on_eval: Callable[[Evaluation], None],
) -> tuple[Fit, Device]:
    """`fit()` of a new adapter by up to `ray.train_workers` processes; what it gives, and where.

    The adapter is in `out`, which each node sees. Raises what `fit()` raises in one of them, and
    Failure where groups die again and again.
    """
    rows, news = ray.put((train, validation)), placed_here(Queue)
    most, lost = None, 0
    told: set[int] = set()

    def heard(found: Evaluation) -> None:
        nonlocal lost
        if found.step not in told:
            told.add(found.step)
            lost = 0
            on_eval(found)

    try:
        while True:
            given = _Given(config, rows, str(out.resolve()), title, most, news)
            try:
                return _run(cluster, given, heard)
            except TrainingFailedError as error:
                cause = _cause(error)
            if isinstance(cause, torch.OutOfMemoryError):
                most = _less(config, most, title)
                continue
            if not _of_a_death(cause):
                raise cause from None
            lost += 1
            if lost > _LOST:
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
    cluster: Cluster, given: _Given, heard: Callable[[Evaluation], None]
) -> tuple[Fit, Device]:
    """One group, until it is done or one of its processes has failed."""
    settings = cluster.settings
    gpus = settings.gpus_per_worker
    room = cluster.places(settings.cpus_per_worker, gpus)
    if not room:
        raise UserError(
            f"no node of the cluster has {settings.cpus_per_worker:g} cores and {gpus:g} GPUs: "
            "lower ray.cpus_per_worker or ray.gpus_per_worker, or add a node"
        )
    processes = min(settings.train_workers, room)
    if processes > 1:
        logger.info(f"{given.title}: {processes} processes share each step")
    with tempfile.TemporaryDirectory() as scratch:  # Ray's own notes; ours are in the run folder
        trainer = TorchTrainer(
            cast(Any, _member),  # what it gives comes back, which Ray's type does not say
            train_loop_config={"given": given},
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
                failure_config=FailureConfig(max_failures=0),  # what follows is decided above
            ),
        )
        ended: queue.Queue[Any] = queue.Queue()
        threading.Thread(target=_fit, args=(trainer, ended), daemon=True).start()
        while ended.empty():
            _listen(given.news, heard)
            time.sleep(_LOOK)
        _listen(given.news, heard)
        result = ended.get()
    if isinstance(result, BaseException):
        raise result
    return result


def _fit(trainer: TorchTrainer, ended: queue.Queue[Any]) -> None:
    """In a thread of its own, so that Ray leaves Ctrl-C to the program."""
    try:
        ended.put(cast(Any, trainer.fit()).return_value)
    except BaseException as error:
        ended.put(error)


def _listen(news: Any, heard: Callable[[Evaluation], None]) -> None:
    for item in news.get_nowait_batch(news.qsize()):
        step, examples, loss, rows = item
        heard(Evaluation(step, examples, loss, [RowLoss(*row) for row in rows]))


def _plain(found: Evaluation) -> tuple[Any, ...]:
    """Without a class of ours, for which the process of the queue would load torch."""
    return found.step, found.examples, found.loss, [(row.nll, row.tokens) for row in found.rows]


def _member(config: dict[str, Any]) -> tuple[Fit, Device]:
    """What each process of the group does; the first one has the run folder and tells the news."""
    given: _Given = config["given"]
    settings = given.config
    me = peers(settings.ray.fsdp)
    torch.set_num_threads(max(1, int(settings.ray.cpus_per_worker)))
    if torch.cuda.is_available():
        torch.cuda.set_device(ray.train.torch.get_device())
    train, validation = ray.get(given.rows)
    device = choose_device(settings.model)
    base = base_to_share(settings.model, device) if me.shards else load_base(settings.model)
    with (
        tempfile.TemporaryDirectory() as aside,
        fresh_adapter(base, settings.lora, settings.train.seed) as model,
    ):
        if me.shards:
            share_out(model, device, me)
        done = fit(
            model,
            load_tokenizer(settings.model),
            train,
            validation,
            settings.train,
            device,
            Path(given.out) if me.is_first else Path(aside) / "adapter",
            on_eval=(lambda found: given.news.put(_plain(found))) if me.is_first else None,
            peers=me,
            most=given.most,
        )
    return done, device


def _cause(error: TrainingFailedError) -> Exception:
    """Why the group failed: what a process has to say of itself, before that another was gone."""
    failures: list[Exception] = []
    if isinstance(error, WorkerGroupError):
        failures = [*error.worker_failures.values()]
    elif isinstance(error, ControllerError):
        failures = [error.controller_failure]  # that it did not come together
    causes = [getattr(e, "cause", None) or e for e in failures]
    own = [e for e in causes if not _of_a_death(e)]
    return (own or causes or [error])[0]


def _of_a_death(error: Exception) -> bool:
    """Whether it may be of a process that is gone, its own or one that it spoke to."""
    told = isinstance(error, UserError | Failure | torch.OutOfMemoryError)
    return not told and isinstance(error, RuntimeError | RayError | RayTrainError)


def _less(config: Config, most: int | None, title: str) -> int:
    full = most or config.train.micro_batch_size
    if full == 1:
        raise Failure(
            f"{title}: no memory on a device for one article: lower prompt.max_tokens, or set "
            "train.activation_checkpointing to true or model.quantization to nf4"
        )
    less = halved(effective_batch(config.train), full)
    logger.warning(
        f"{title}: no memory on a device for {full} articles at a time: goes on with {less} "
        "(train.micro_batch_size)"
    )
    return less
