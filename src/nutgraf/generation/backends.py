"""Generate summaries and compute losses with one model: in this process, or on a cluster.

Both compute the same batches, so results do not depend on where they are computed. Only another
number of threads or another kind of machine may turn a near tie.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from nutgraf.config import Config, GenerateConfig, ModelConfig
from nutgraf.core.memory import release_memory
from nutgraf.data.examples import Encoded, Example
from nutgraf.generation.decoding import (
    Candidates,
    Generated,
    generate_batch,
    generate_candidates,
)
from nutgraf.modeling.adapters import with_adapter
from nutgraf.modeling.batching import length_batches
from nutgraf.modeling.dims import EVAL_BATCH_SIZE
from nutgraf.modeling.load import Device, choose_device, load_base, load_tokenizer
from nutgraf.modeling.losses import RowLoss, batch_losses

if TYPE_CHECKING:
    from nutgraf.parallel.ray_cluster import Cluster


@dataclass(frozen=True)
class _LoadedModel:
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    settings: GenerateConfig
    device: Device

    def summaries(self, prompts: Sequence[Sequence[int]]) -> list[Generated]:
        written = generate_batch(self.model, self.tokenizer, prompts, self.settings, self.device)
        release_memory()  # else a CPU holds several times as much after some batches
        return written

    def summaries_and_losses(self, rows: Sequence[Encoded]) -> list[Candidates]:
        """Return summaries, and losses of references if their rows have no own prompt."""
        references = [row.example.ids[row.example.prompt_tokens :].tolist() for row in rows]
        prompts = [row.prompt.ids for row in rows]
        candidates = generate_candidates(
            self.model, self.tokenizer, prompts, self.settings, self.device, None, references
        )
        release_memory()
        return [
            new if row.prompt_ids is None else replace(new, reference_loss=None)
            for row, new in zip(rows, candidates, strict=True)
        ]

    def losses(self, rows: Sequence[Example]) -> list[RowLoss]:
        return batch_losses(self.model, rows, self.tokenizer.pad_token_id, self.device)


# Computes batches by the name of a method of `_LoadedModel`; yields (number of the batch, results).
_Run = Callable[[str, Sequence[list[Any]]], Iterable[tuple[int, list[Any]]]]


@dataclass(frozen=True)
class Backend:
    """A model that computes batch by batch, wherever it is loaded."""

    settings: GenerateConfig
    run: _Run

    def summaries(self, prompts: Sequence[Sequence[int]]) -> Iterator[dict[int, Generated]]:
        """Yield {index of the prompt: summary} of each batch."""
        lengths = [len(ids) for ids in prompts]
        batches = list(length_batches(lengths, self.settings.batch_size))
        return self._compute("summaries", prompts, batches)

    def summaries_and_losses(
        self, rows: Sequence[Encoded], done: Container[int] = ()
    ) -> Iterator[dict[int, Candidates]]:
        """Yield {index of the row: its summaries} of each batch, most with a loss.

        Batches that are all `done` are skipped. The loss lacks if the prompts would have to be read
        once more for it: `losses` computes it.
        """
        lengths = [len(row.prompt.ids) for row in rows]
        batches = list(length_batches(lengths, self.settings.batch_size, done))
        return self._compute("summaries_and_losses", rows, batches)

    def losses(
        self, rows: Sequence[Example], done: Container[int] = ()
    ) -> Iterator[dict[int, RowLoss]]:
        """Yield {index of the row: loss of its reference} as `summaries_and_losses` does."""
        batches = list(length_batches([len(row.ids) for row in rows], EVAL_BATCH_SIZE, done))
        return self._compute("losses", rows, batches)

    def _compute(
        self, method: str, rows: Sequence[Any], batches: Sequence[list[int]]
    ) -> Iterator[dict[int, Any]]:
        for number, results in self.run(method, [[rows[i] for i in batch] for batch in batches]):
            yield dict(zip(batches[number], results, strict=True))


@contextlib.contextmanager
def open_backend(
    config: Config, adapter: Path | None, cluster: Cluster | None
) -> Iterator[Backend]:
    """Yield the base of `config` with the adapter in a folder, or with none.

    Args:
        config: Its sections `model` and `generate` count.
        adapter: Folder of the adapter; on a cluster, one that every node sees.
        cluster: Where to compute; None for this process.
    """
    if cluster is None:
        with _load(config.model, config.generate, adapter) as model:
            run: _Run = lambda method, batches: enumerate(map(getattr(model, method), batches))  # noqa: E731
            yield Backend(config.generate, run)
    else:
        folder = adapter.resolve() if adapter else None
        model_args = (config.model, config.generate, folder)
        yield Backend(config.generate, functools.partial(_run_on_cluster, cluster, model_args))


@contextlib.contextmanager
def _load(
    model: ModelConfig, settings: GenerateConfig, adapter: Path | None
) -> Iterator[_LoadedModel]:
    base = load_base(model)
    with with_adapter(base, adapter) if adapter else contextlib.nullcontext(base) as adapted:
        yield _LoadedModel(adapted, load_tokenizer(model), settings, choose_device(model))


def _run_on_cluster(
    cluster: Cluster, model_args: tuple[Any, ...], method: str, batches: Sequence[list[Any]]
) -> Iterator[tuple[int, list[Any]]]:
    cpus, gpus = cluster.settings.cpus_per_worker, cluster.settings.gpus_per_worker
    return cluster.run_tasks(_run_batch, batches, (method, model_args, cpus), gpus)


def _run_batch(rows: list[Any], task: tuple[str, tuple[Any, ...], float]) -> list[Any]:
    method, model_args, cpus = task
    torch.set_num_threads(max(1, int(cpus)))
    results: list[Any] = getattr(_worker_model(*model_args), method)(rows)
    return results


_worker_stack = contextlib.ExitStack()  # of this process of the cluster, until the next model


@functools.lru_cache(maxsize=1)
def _worker_model(
    model: ModelConfig, settings: GenerateConfig, adapter: Path | None
) -> _LoadedModel:
    _worker_model.cache_clear()  # its model is closed, even if the new one cannot be loaded
    _worker_stack.close()
    return _worker_stack.enter_context(_load(model, settings, adapter))
