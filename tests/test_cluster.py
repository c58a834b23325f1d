"""A study on a Ray cluster of two nodes with a core each, on this machine; nodes are killed."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from nodes import SECOND, Nodes, slowly, started

os.environ["RAY_AUTH_MODE"] = "disabled"  # nodes of one machine; what docs/scale.md says is else

from nutgraf.cluster import joined
from nutgraf.config import build
from nutgraf.inference import RowLoss
from nutgraf.model import load_tokenizer
from nutgraf.prompts import Example, Renderer
from nutgraf.settings import Config
from nutgraf.writers import writer

# isort: split
import ray

WORDS = "The council of the town met on Monday and chose a new bridge for the river by vote".split()


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    with started(tmp_path_factory.mktemp("nodes")) as nodes:
        yield nodes


@pytest.fixture
def nodes(head: Nodes) -> Nodes:
    """Both nodes, the second started again where a test has killed it."""
    head.start(SECOND)
    head.wait(2)
    return head


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
                "ray": {"address": nodes.address} | ray,
            }
        )  # fmt: skip

    return made


@pytest.fixture
def rows(tiny_base: Path) -> list[Example]:
    config = build({"model": {"base": str(tiny_base)}, "prompt": {"max_tokens": 200, "max_article_tokens": 120}})
    renderer = Renderer(load_tokenizer(config.model), config.prompt)
    texts = [" ".join(WORDS[i % 5 :] * (1 + i % 3)) for i in range(40)]
    return [renderer.example(text, " ".join(text.split()[:6])) for text in texts]


def after(seconds: float, do: Callable[[], None]) -> threading.Timer:
    timer = threading.Timer(seconds, do)
    timer.start()
    return timer


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
