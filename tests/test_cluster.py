"""A study on a Ray cluster of two nodes with a core each, on this machine; nodes are killed."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

os.environ["RAY_AUTH_MODE"] = "disabled"  # nodes of one machine; what docs/scale.md says is else

from nutgraf import cluster as clusters
from nutgraf import tuner
from nutgraf.cluster import Cluster, joined
from nutgraf.config import build
from nutgraf.group import fit_on
from nutgraf.history import Evaluation, Fit
from nutgraf.inference import RowLoss
from nutgraf.model import choose_device, fresh_adapter, load_base, load_tokenizer
from nutgraf.problems import Failure, UserError
from nutgraf.prompts import Example, Renderer
from nutgraf.settings import Config
from nutgraf.trainer import fit
from nutgraf.writers import writer

# isort: split
import ray
import ray.cluster_utils

WORDS = "The council of the town met on Monday and chose a new bridge for the river by vote".split()


class Nodes:
    """Two nodes of a core each; the second can be killed and comes back for the next test."""

    def __init__(self) -> None:
        # Functions of this file are found by the processes of the nodes too.
        here = str(Path(__file__).parent)
        os.environ["PYTHONPATH"] = os.pathsep.join([here, os.environ.get("PYTHONPATH", "")])
        self.all = ray.cluster_utils.Cluster(
            initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}
        )
        self.second: Any = None
        self.whole()

    def whole(self) -> None:
        if self.second is None:
            self.second = self.all.add_node(num_cpus=1)

    def kill(self) -> None:
        """End the second node with all its processes, without a word to the first."""
        node, self.second = self.second, None
        self.all.remove_node(node, allow_graceful=False)


@pytest.fixture(scope="module")
def started() -> Iterator[Nodes]:
    nodes = Nodes()
    yield nodes
    nodes.all.shutdown()


@pytest.fixture
def nodes(started: Nodes) -> Nodes:
    started.whole()
    return started


@pytest.fixture
def config(nodes: Nodes, tiny_base: Path) -> Callable[..., Config]:
    def made(**ray: Any) -> Config:
        return build(
            {
                "model": {"base": str(tiny_base), "dtype": "fp32"},
                "lora": {"r": 4, "alpha": 8, "dropout": 0.0},
                "train": {
                    "max_examples": 64, "eval_every": 16, "eval_examples": 20, "seeds": [3],
                    "micro_batch_size": 8, "gradient_accumulation_steps": 1,
                    "learning_rate": 0.01,
                },
                "generate": {"max_new_tokens": 12, "batch_size": 4},
                "search": {"trials": 4, "concurrent": 2, "reduction_factor": 2, "seed": 5},
                "ray": {"address": nodes.all.address} | ray,
            }
        )  # fmt: skip

    return made


@pytest.fixture
def rows(tiny_base: Path) -> list[Example]:
    config = build({"model": {"base": str(tiny_base)}, "prompt": {"max_tokens": 160}})
    renderer = Renderer(load_tokenizer(config.model), config.prompt)
    texts = [" ".join(WORDS[i % 5 :] * (1 + i % 3)) for i in range(40)]
    return [renderer.example(text, " ".join(text.split()[:6])) for text in texts]


def after(seconds: float, do: Callable[[], None]) -> threading.Timer:
    timer = threading.Timer(seconds, do)
    timer.start()
    return timer


def slowly(row: int, seconds: float) -> tuple[int, str]:
    time.sleep(seconds)
    return row * row, ray.get_runtime_context().get_node_id()


def test_pieces_of_a_node_that_dies_are_done_elsewhere(
    nodes: Nodes, config: Callable[..., Config], tmp_path: Path
) -> None:
    with joined(config().ray, tmp_path) as cluster:
        both = dict(cluster.pieces(slowly, range(6), 0.5))
        assert len({node for _, node in both.values()}) == 2
        timer = after(1.5, nodes.kill)
        found = dict(cluster.pieces(slowly, range(8), 1.0))
        timer.join()
        assert {i: square for i, (square, _) in found.items()} == {i: i * i for i in range(8)}
        assert cluster.places(1, 0) == 1


def test_summaries_and_losses_are_the_same_on_one_and_on_two_workers_and_where_a_node_dies(
    nodes: Nodes, config: Callable[..., Config], rows: list[Example], tmp_path: Path
) -> None:
    prompts = [row.input_ids[: row.prompt_tokens] for row in rows]

    def made(given: Config, kill: float | None = None) -> tuple[dict[int, Any], dict[int, RowLoss]]:
        with joined(given.ray, tmp_path) as cluster, writer(given, None, cluster) as there:
            timer = after(kill, nodes.kill) if kill else None
            summaries = {i: s for batch in there.summaries(prompts) for i, s in batch.items()}
            losses = {i: s for batch in there.losses(rows) for i, s in batch.items()}
            if timer:
                timer.join()
        return summaries, losses

    alone = made(config(workers=1))
    assert sorted(alone[0]) == sorted(alone[1]) == list(range(len(rows)))
    assert len({tuple(s.ids) for s in alone[0].values()}) > 3
    assert made(config()) == alone
    assert made(config(), kill=0.5) == alone
