"""Who writes summaries and finds losses: a model in this process, or many on a cluster.

Both compute the same batches, so that what is written does not depend on who wrote it, nor on how
many did. Only the number of threads of a process, as any other machine, may turn a near tie.
"""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from nutgraf.config import Config
from nutgraf.core.files import files_in
from nutgraf.data.prompts import Example
from nutgraf.generation.decoding import Generated, generate_batches
from nutgraf.modeling.adapters import with_adapter
from nutgraf.modeling.batching import length_batches
from nutgraf.modeling.dims import EVAL_BATCH_SIZE
from nutgraf.modeling.load import Device, choose_device, load_base, load_tokenizer
from nutgraf.modeling.losses import RowLoss, loss_batches

if TYPE_CHECKING:
    from nutgraf.parallel.ray_cluster import Cluster


class Backend(Protocol):
    """What writes; each gives {index: what it made} batch by batch, those left out that are done.

    `summaries` takes prompts (token ids), `losses` prompts with their reference summaries.
    """

    def summaries(
        self, prompts: Sequence[Sequence[int]], done: Container[int] = ()
    ) -> Iterable[Mapping[int, Generated]]: ...

    def losses(
        self, rows: Sequence[Example], done: Container[int] = ()
    ) -> Iterable[Mapping[int, RowLoss]]: ...


@contextlib.contextmanager
def open_backend(
    config: Config, adapter: Path | None, cluster: Cluster | None
) -> Iterator[Backend]:
    """The base of `config` with the adapter in this folder, or alone; in this process or there."""
    if cluster is not None:
        yield _There(cluster, config, {} if adapter is None else _contents(adapter))
        return
    with contextlib.ExitStack() as stack:
        model = load_base(config.model)
        if adapter is not None:
            model = stack.enter_context(with_adapter(model, adapter))
        yield _Here(model, load_tokenizer(config.model), config, choose_device(config.model))


@dataclass(frozen=True)
class _Here:
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    config: Config
    device: Device

    def summaries(
        self, prompts: Sequence[Sequence[int]], done: Container[int] = ()
    ) -> Iterator[dict[int, Generated]]:
        return generate_batches(
            self.model, self.tokenizer, prompts, self.config.generate, self.device, done
        )

    def losses(
        self, rows: Sequence[Example], done: Container[int] = ()
    ) -> Iterator[dict[int, RowLoss]]:
        pad = self.tokenizer.pad_token_id
        return loss_batches(self.model, rows, pad, self.device, done=done)


@dataclass(frozen=True)
class _There:
    cluster: Cluster
    config: Config
    adapter: dict[str, bytes]

    def summaries(
        self, prompts: Sequence[Sequence[int]], done: Container[int] = ()
    ) -> Iterator[dict[int, Generated]]:
        found = length_batches([len(ids) for ids in prompts], self.config.generate.batch_size, done)
        return self._made(_summaries, prompts, list(found))

    def losses(
        self, rows: Sequence[Example], done: Container[int] = ()
    ) -> Iterator[dict[int, RowLoss]]:
        return self._made(
            _losses,
            rows,
            list(length_batches([len(row.ids) for row in rows], EVAL_BATCH_SIZE, done)),
        )

    def _made(
        self, function: Any, rows: Sequence[Any], indices: Sequence[list[int]]
    ) -> Iterator[dict[int, Any]]:
        """Yield {index: result} of each batch, which is a task of its own."""
        results = self.cluster.run_tasks(
            function,
            [[rows[i] for i in batch] for batch in indices],
            (self.config, self.adapter, self.cluster.settings.cpus_per_worker),
            self.cluster.settings.gpus_per_worker,
        )
        for number, batch in results:
            yield dict(zip(indices[number], batch, strict=True))


Given = tuple[Config, dict[str, bytes], float]


def _summaries(prompts: Sequence[Sequence[int]], given: Given) -> list[Generated]:
    """The summaries of one batch of prompts, in their order."""
    (found,) = _process(given).summaries(prompts)
    return [found[i] for i in range(len(prompts))]


def _losses(rows: Sequence[Example], given: Given) -> list[RowLoss]:
    (found,) = _process(given).losses(rows)
    return [found[i] for i in range(len(rows))]


# The model of this process of the cluster, for the batches that it is given one after another.
_loaded = contextlib.ExitStack()
_which: tuple[str, str] | None = None
_writer: Backend | None = None


def _process(given: Given) -> Backend:
    global _which, _writer
    config, adapter, cpus = given
    asked = (config.model_dump_json(), _hash(adapter))
    if asked != _which or _writer is None:
        torch.set_num_threads(max(1, int(cpus)))
        _which = None
        _loaded.close()
        folder = _loaded.enter_context(_written(adapter)) if adapter else None
        _writer = _loaded.enter_context(open_backend(config, folder, None))
        _which = asked
    return _writer


def _contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in files_in(folder)}


def _hash(adapter: Mapping[str, bytes]) -> str:
    found = hashlib.sha256()
    for name in sorted(adapter):
        found.update(name.encode() + adapter[name])
    return found.hexdigest()


@contextlib.contextmanager
def _written(adapter: Mapping[str, bytes]) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        for name, contents in adapter.items():
            (Path(folder) / name).write_bytes(contents)
        yield Path(folder)
