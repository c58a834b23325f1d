"""A study on a Ray cluster of two nodes with a core each, on this machine; nodes are killed."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.nodes import SECOND, Nodes, refused, slowly, started

os.environ["RAY_AUTH_MODE"] = "disabled"  # nodes of one machine; what docs/scale.md says is else

from nutgraf.config import Config, RayConfig
from nutgraf.config.load import build_config, with_overrides
from nutgraf.core.errors import UserError
from nutgraf.data.examples import Example
from nutgraf.data.prompts import Renderer
from nutgraf.generation.backends import open_backend
from nutgraf.modeling.load import load_tokenizer
from nutgraf.modeling.losses import RowLoss
from nutgraf.parallel.ray_cluster import Cluster, join_cluster, run_task
from nutgraf.parallel.ray_session import connect_client
from nutgraf.pipeline import runner
from nutgraf.search import packed_client, ray_tune
from nutgraf.training.budget import round_config
from nutgraf.training.distributed.ray_train import fit_on_workers
from nutgraf.training.fit import fit_adapter
from nutgraf.training.history import Evaluation, TrainingResult
from nutgraf.training.job import Preference, TrainingJob

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
    def build(**ray: Any) -> Config:
        return build_config(
            {
                "model": {"base": str(tiny_base), "dtype": "fp32"},
                "lora": {"r": 4, "alpha": 8, "dropout": 0.0},
                "train": {
                    "max_examples": 64, "eval_every": 16, "eval_examples": 20, "seeds": [3],
                    "micro_batch_size": 8, "gradient_accumulation_steps": 1,
                    "learning_rate": 0.01, "samples": 1,
                },
                "generate": {"max_new_tokens": 12, "no_repeat_ngram": 2, "batch_size": 4},
                "search": {"trials": 4, "concurrent": 2, "reduction_factor": 2, "seed": 5},
                "ray": {"address": nodes.address} | ray,
            }
        )  # fmt: skip

    return build


@pytest.fixture
def rows(tiny_base: Path) -> list[Example]:
    config = build_config(
        {
            "model": {"base": str(tiny_base)},
            "prompt": {"max_tokens": 200, "max_article_tokens": 120},
        }
    )
    renderer = Renderer(load_tokenizer(config.model), config.prompt)
    texts = [" ".join(WORDS[i % 5 :] * (1 + i % 3)) for i in range(40)]
    return [renderer.example(text, " ".join(text.split()[:6])) for text in texts]


def after(seconds: float, do: Callable[[], None]) -> threading.Timer:
    timer = threading.Timer(seconds, do)
    timer.start()
    return timer


def test_what_a_cluster_lacks_is_told(config: Callable[..., Config], tmp_path: Path) -> None:
    with (
        pytest.raises(UserError, match=r"no node of the cluster has 64 cores.*cpus_per_worker"),
        join_cluster(config(cpus_per_worker=64).ray, tmp_path) as cluster,
    ):
        list(cluster.run_tasks(slowly, [1], 0.0))
    with (
        pytest.raises(UserError, match=r"no Ray cluster at ray.address '127.0.0.9:1'"),
        join_cluster(config(address="127.0.0.9:1").ray, tmp_path),
    ):
        pass
    with (
        pytest.raises(UserError, match="prompt"),
        join_cluster(config().ray, tmp_path) as cluster,
    ):
        list(cluster.run_tasks(refused, [1]))


def test_pieces_of_a_node_that_dies_are_done_elsewhere(
    nodes: Nodes, config: Callable[..., Config], tmp_path: Path
) -> None:
    with join_cluster(config().ray, tmp_path) as cluster:
        both = dict(cluster.run_tasks(slowly, range(6), 0.5))
        assert len({node for _, node in both.values()}) == 2
        timer = after(1.5, nodes.kill)
        results = dict(cluster.run_tasks(slowly, range(8), 1.0))
        timer.join()
        assert {i: square for i, (square, _) in results.items()} == {i: i * i for i in range(8)}
        assert cluster.capacity(1, 0) == 1


def test_summaries_and_losses_are_the_same_on_one_and_on_two_workers_and_where_a_node_dies(
    nodes: Nodes, config: Callable[..., Config], rows: list[Example], tmp_path: Path
) -> None:
    prompts = [row.input_ids[: row.prompt_tokens] for row in rows]

    def summaries_and_losses(cluster: Cluster) -> tuple[dict[int, Any], dict[int, RowLoss]]:
        with open_backend(config(), None, cluster) as there:
            summaries = {i: s for batch in there.summaries(prompts) for i, s in batch.items()}
            losses = {i: s for batch in there.losses(rows) for i, s in batch.items()}
        return summaries, losses

    with join_cluster(config().ray, tmp_path) as cluster:
        by_one = summaries_and_losses(Cluster(config(workers=1).ray))
        assert sorted(by_one[0]) == sorted(by_one[1]) == list(range(len(rows)))
        assert len({tuple(s.ids) for s in by_one[0].values()}) > 3
        assert summaries_and_losses(cluster) == by_one
        timer = after(0.2, nodes.kill)
        assert summaries_and_losses(cluster) == by_one
        timer.join()


def alone(config: Config, rows: list[Example], out: Path) -> TrainingResult:
    return fit_adapter(TrainingJob(config, rows[20:], rows[:20], out))


def losses(done: TrainingResult) -> list[float]:
    pairs = [(row.train_loss, row.validation_loss) for row in done.history.rows]
    return [loss for both in pairs for loss in both if loss is not None]


@pytest.mark.usefixtures("quick_trainings")
def test_two_processes_train_as_one_does_and_one_goes_on_where_a_node_dies(
    nodes: Nodes, config: Callable[..., Config], rows: list[Example], tmp_path: Path, capsys: Any
) -> None:
    """Batch 1 x 8 in one process, 2 x 4 in two until one of them is killed."""
    settings, evaluations = config(train_workers=2), list[Evaluation]()

    def kill(evaluation: Evaluation) -> None:
        evaluations.append(evaluation)
        if evaluation.step == 4:
            nodes.kill()

    out = tmp_path / "group" / "a"
    with join_cluster(settings.ray, tmp_path) as cluster:
        result = fit_on_workers(
            cluster, TrainingJob(settings, rows[20:], rows[:20], out, "a", kill)
        )
    assert losses(result) == pytest.approx(
        losses(alone(settings, rows, tmp_path / "alone" / "a")), abs=1e-4
    )
    assert [evaluation.step for evaluation in evaluations] == [2, 4, 6, 8]
    written = result.history.samples.evaluations  # by the first process
    assert [evaluation["examples"] for evaluation in written] == [16, 32, 48, 64]
    assert result.device.name == "cpu"
    assert (out / "adapter_model.safetensors").is_file()
    log = capsys.readouterr().err
    assert "a: 2 processes share each step" in log
    # When Ray notices the death is its own affair: on a busy machine all steps may be over by then,
    # or it may start two processes again before it knows that the node is gone.
    assert result.processes in (1, 2)
    if result.processes == 1:
        assert "a: a process died" in log
        assert result.micro_batch_size == 8
        assert result.record(settings)["gradient_accumulation_steps"] == 1


@pytest.mark.usefixtures("quick_trainings")
def test_a_base_that_is_shared_out_is_trained_the_same(
    nodes: Nodes, config: Callable[..., Config], rows: list[Example], tmp_path: Path, capsys: Any
) -> None:
    """FSDP2 among two processes, each of which has half of every frozen weight, and whole pairs."""
    settings = with_overrides(config(train_workers=2, fsdp=True), {"train.max_examples": 32})
    alone(settings, rows, tmp_path / "a")
    pairs = with_overrides(round_config(settings, 10), {"train.learning_rate": 0.01})
    preference = Preference(0.5, 1.0, [30.0] * 20)
    job = TrainingJob(
        pairs, rows[20:], rows[:20], tmp_path / "r", start=tmp_path / "a", preference=preference
    )
    with join_cluster(settings.ray, tmp_path) as cluster:
        done = fit_on_workers(cluster, job)
    assert done.processes == 2
    assert "died" not in capsys.readouterr().err
    by_one = fit_adapter(dataclasses.replace(job, out=tmp_path / "alone" / "r"))
    assert by_one.history.samples.evaluations
    assert not done.history.samples.evaluations  # a part of a base writes nothing alone
    assert losses(done) == pytest.approx(losses(by_one), abs=1e-3)


def test_a_search_proposes_the_same_trials_and_goes_on_where_a_node_dies(
    nodes: Nodes,
    config: Callable[..., Config],
    rows: list[Example],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Of trials that are trained alone, and of such as each node's engine trains together."""
    settings = config()
    here = build_config({**settings.model_dump(), "ray": {}})
    local = ray_tune.run_search(here, rows[20:], rows[:20], tmp_path / "local")

    for together in (False, True):
        nodes.start(SECOND)
        nodes.wait(2)
        caplog.clear()

        def kill() -> None:
            """As soon as the second trial has come half way."""
            while not any(line.startswith("trial 2/4") for line in caplog.messages):
                time.sleep(0.1)
            nodes.kill()

        timer = after(0, kill)
        out = tmp_path / f"cluster-{together}"
        trials = ray_tune.run_search(settings, rows[20:], rows[:20], out, together)
        timer.join()
        assert SECOND not in nodes.processes
        assert [t.values for t in trials] == [t.values for t in local]
        assert [t.status for t in trials] == [t.status for t in local]
        for there, these in zip(trials, local, strict=True):
            assert [loss for _, loss in there.history] == pytest.approx(
                [loss for _, loss in these.history], abs=1e-4 if together else 1e-5
            )
        ours = [r.getMessage() for r in caplog.records if r.name.startswith("nutgraf.")]
        assert ours[0].startswith("cluster: room for 2 trials at a time")


def test_the_engine_of_a_killed_run_is_ended_by_the_next_and_that_of_another_study_stays(
    head: Nodes, tmp_path: Path
) -> None:
    ours, theirs = packed_client._prefix(tmp_path), packed_client._prefix(tmp_path / "other")
    leave = (
        "import os, sys\nfrom nutgraf.parallel.ray_session import session\nimport ray\n"
        "class Left:\n    def ping(self): pass\n"
        "with session(RuntimeError, sys.argv[1]):\n"
        "    for name in sys.argv[2:]:\n"
        "        options = {'name': name, 'lifetime': 'detached', 'num_cpus': 0}\n"
        "        ray.get(ray.remote(Left).options(**options).remote().ping.remote())\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    words = [sys.executable, "-c", leave, head.address, f"{ours}node-0", f"{theirs}node-0"]
    assert subprocess.run(words, capture_output=True).returncode == -signal.SIGKILL
    with join_cluster(RayConfig(address=head.address)):
        from ray.util import list_named_actors

        assert set(list_named_actors()) == {f"{ours}node-0", f"{theirs}node-0"}
        packed_client._end_engines(tmp_path)
        assert set(list_named_actors()) == {f"{theirs}node-0"}


def test_a_study_is_given_from_outside_and_fetched(head: Nodes, tmp_path: Path) -> None:
    raw = {
        "run": str(tmp_path / "run"),
        "storage": str(tmp_path / "kept"),
        "data": {"train_examples": 8, "validation_examples": 4, "test_examples": 4},
        "train": {"eval_examples": 4},
        "ray": {"address": f"ray://{head.outside}"},
    }
    assert runner.run_study(build_config(raw), ("prepare",))
    content = (tmp_path / "run" / "data" / "train.parquet").read_bytes()
    shutil.rmtree(tmp_path / "run")
    assert not runner.run_study(build_config(raw), ("prepare",))
    assert (tmp_path / "run" / "data" / "train.parquet").read_bytes() == content
    with pytest.raises(UserError, match="storage null"):
        runner.run_study(build_config({**raw, "storage": None}), ("prepare",))
    with pytest.raises(UserError, match="absolute path"):
        runner.run_study(build_config({**raw, "run": "runs/here"}), ("prepare",))


def test_from_outside_it_is_called_again_where_its_server_has_died(
    head: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray.util.client.worker import Worker

    real, calls, deaths = Worker._server_init, list[int](), 1

    def dies(worker: Worker, *arguments: Any) -> None:
        calls.append(1)
        if len(calls) <= deaths:
            raise ConnectionAbortedError("Starting Ray client server failed")
        real(worker, *arguments)

    monkeypatch.setattr(Worker, "_server_init", dies)
    with connect_client(f"ray://{head.outside}"):
        assert run_task(os.path.basename, "here/there") == "there"
    assert len(calls) in (2, 3)  # on a busy machine Ray's own may die once
    calls.clear()
    deaths = 3
    with pytest.raises(UserError, match="server failed"), connect_client(f"ray://{head.outside}"):
        pass
    assert len(calls) == 3
