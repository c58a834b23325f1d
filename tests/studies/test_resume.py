"""A study that is stopped anywhere carries on with the same command and ends the same."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers import little
from helpers.killer import Killer

from nutgraf.config import Config, LoraSettings, ModelConfig, TrainConfig
from nutgraf.core import signals
from nutgraf.core.files import Journal
from nutgraf.data import article_store, token_store
from nutgraf.data.prompts import Renderer
from nutgraf.data.rows import Article
from nutgraf.generation import decoding
from nutgraf.modeling import losses
from nutgraf.modeling.adapters import fresh_adapter
from nutgraf.modeling.load import load_base, load_tokenizer
from nutgraf.pipeline import artifacts, runner
from nutgraf.pipeline.runner import run_stage
from nutgraf.storage.artefact import Artefact
from nutgraf.storage.run_folder import RunFolder
from nutgraf.training import history
from nutgraf.training.checkpoints import Checkpoints, copy_finished
from nutgraf.training.fit import fit_adapter
from nutgraf.training.history import Evaluation

pytestmark = pytest.mark.usefixtures("quick_trainings")

# A training.


class Stop(Exception):
    """The end of a training in a test, in the middle of it."""


@dataclass
class Whole:
    """What a training leaves that nothing disturbed."""

    adapter: bytes
    evaluations: list[Evaluation]
    history: list[dict[str, Any]]
    record: dict[str, Any]


def without_costs(rows: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in rows.items() if k not in ("seconds", "peak_memory_bytes")}


def train(base: Path, out: Path, **kwargs: Any) -> Whole:
    seen: list[Evaluation] = []
    done = little.train(base, out, on_eval=seen.append, **kwargs)
    return Whole(
        (out / "adapter_model.safetensors").read_bytes(),
        seen,
        [without_costs(row) for row in done.history_records()],
        without_costs(done.record(Config(train=little.SETTINGS))),
    )


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test here takes the power away."""
    monkeypatch.setattr(os, "fsync", lambda file: None)


@pytest.fixture(scope="module")
def whole(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    return train(tiny_base, tmp_path_factory.mktemp("whole") / "a")


def stop_at(step: int) -> Callable[[int], None]:
    """An on_step that ends the training after so many steps."""
    steps = itertools.count(1)

    def on_step(_: int) -> None:
        if next(steps) == step:
            raise Stop

    return on_step


def stopped(base: Path, out: Path, step: int, **kwargs: Any) -> None:
    with pytest.raises(Stop):
        little.train(base, out, on_step=stop_at(step), **kwargs)


def checkpoints(out: Path) -> list[str]:
    return sorted(p.name for p in out.with_name(f".{out.name}.checkpoints").glob("checkpoint-*"))


@pytest.mark.parametrize("step", [1, 3, 6])
def test_stopped_at_a_step_a_training_ends_with_the_same_bytes(
    whole: Whole, tiny_base: Path, tmp_path: Path, step: int
) -> None:
    """Adapter, history, best evaluation and what on_eval was told; with dropout, on the CPU."""
    out = tmp_path / "a"
    stopped(tiny_base, out, step)
    assert train(tiny_base, out) == whole
    assert sorted(p.name for p in out.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    assert not out.with_name(".a.checkpoints").exists()
    shown = json.loads(out.with_name("a.curves.json").read_text())
    assert [without_costs(row) for row in shown] == whole.history
    assert all(row["grad_norm"] > 0 for row in shown if row["train_loss"] is not None)


def test_what_was_best_before_a_stop_is_kept_where_it_is_not_surpassed(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_evaluations = iter([3.0, 2.0, 4.0, 3.0, 2.0, 4.0])
    monkeypatch.setattr(history, "mean_loss", lambda rows: next(of_evaluations))
    undisturbed = train(tiny_base, tmp_path / "a")
    assert undisturbed.record["best_step"] == 4
    stopped(tiny_base, tmp_path / "b", 6)
    assert train(tiny_base, tmp_path / "b") == undisturbed
    assert next(of_evaluations, None) is None


def test_the_same_training_elsewhere_is_taken_over_and_another_one_is_not(
    whole: Whole, tiny_base: Path, tmp_path: Path
) -> None:
    first, same, other = (tmp_path / name / "adapter" for name in ("first", "same", "other"))
    assert train(tiny_base, first) == whole
    for out in (same, other):
        copy_finished(first, out)
    steps: list[int] = []
    assert train(tiny_base, same, on_step=steps.append) == whole
    assert not steps
    assert train(tiny_base, other, on_step=steps.append, seeds=(7,)).adapter != whole.adapter
    assert len(steps) == little.STEPS
    copy_finished(tmp_path / "nothing", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_stopped_again_and_again_and_by_on_eval(
    whole: Whole, tiny_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a"

    def stopped_when_told_of(step: int) -> None:
        def stop(evaluation: Evaluation) -> None:
            if evaluation.step == step:
                raise Stop

        with pytest.raises(Stop):
            little.train(tiny_base, out, on_eval=stop)

    stopped(tiny_base, out, 3)
    assert checkpoints(out) == ["checkpoint-2"]
    stopped_when_told_of(4)
    assert checkpoints(out) == ["checkpoint-2", "checkpoint-4"]  # written before it was told
    stopped_when_told_of(4)  # again
    stopped_when_told_of(6)  # after the last step
    assert train(tiny_base, out) == whole
    lines = capsys.readouterr().err.splitlines()
    assert lines == [f"a: carries on from checkpoint-{n}" for n in (2, 4, 4, 6)]
    assert train(tiny_base, out) == whole  # finished: nothing is trained again
    assert capsys.readouterr().err == "a: trained before, with the same settings and rows\n"


def test_of_what_torch_wrote_nothing_but_tensors_and_plain_values_is_read(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped(tiny_base, tmp_path / "a", 3)
    real, read = torch.load, {}

    def load(file: Any, *args: Any, **kwargs: Any) -> Any:
        read[Path(file).name] = kwargs.get("weights_only")
        return real(file, *args, **kwargs)

    monkeypatch.setattr(torch, "load", load)
    stopped(tiny_base, tmp_path / "a", 1)
    assert read == {"optimizer.pt": True, "scheduler.pt": True, "rng_state.pth": True}


def test_killed_for_real(whole: Whole, tiny_base: Path, tmp_path: Path) -> None:
    out = tmp_path / "a"
    with subprocess.Popen(
        [sys.executable, little.__file__, str(tiny_base), str(out)], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout
        for _ in range(5):
            process.stdout.readline()
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert checkpoints(out)[:1] == ["checkpoint-2"]
    assert train(tiny_base, out) == whole


def test_asked_to_stop_it_writes_a_checkpoint_first(
    whole: Whole, tiny_base: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a"
    steps = itertools.count(1)

    def on_step(_: int) -> None:
        if next(steps) in (3, 5):
            signal.raise_signal(signal.SIGTERM)

    with signals.stop_on_signals(), pytest.raises(signals.Stopped, match="stopped by SIGTERM"):
        little.train(tiny_base, out, on_step=on_step)
    assert next(steps) == 4  # not one step more
    assert "SIGTERM: stopping after this step" in capfd.readouterr().err
    assert checkpoints(out) == ["checkpoint-2", "checkpoint-3"]
    assert train(tiny_base, out) == whole


# Checkpoints that are not whole.


def written(store: Checkpoints, *steps: int) -> None:
    for step in steps:
        folder = store.half_written / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        for name in ("adapter.safetensors", "optimizer.pt"):
            (folder / name).write_text(f"{name} of step {step}")
        store.commit(step)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda last: None, "carries on from checkpoint-6"),
        (
            lambda last: cut(last / "optimizer.pt"),
            "checkpoint-6 is not whole (optimizer.pt is not as it was written); "
            "carries on from checkpoint-4",
        ),
        (
            lambda last: (last / "optimizer.pt").unlink(),
            "checkpoint-6 is not whole (optimizer.pt is missing); carries on from checkpoint-4",
        ),
        (
            lambda last: cut(last / "manifest.json"),
            "checkpoint-6 is not whole (manifest.json is missing or damaged); "
            "carries on from checkpoint-4",
        ),
        (shutil.rmtree, "checkpoint-6 is missing; carries on from checkpoint-4"),
        (
            lambda last: [cut(file) for file in last.parent.glob("*/optimizer.pt")],
            "checkpoint-6 is not whole (optimizer.pt is not as it was written); checkpoint-4 is "
            "not whole (optimizer.pt is not as it was written); there is no other: it starts over",
        ),
    ],
)
def test_of_two_checkpoints_the_newest_whole_one_is_taken_which_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str],
    damage: Callable[[Path], object], message: str,
) -> None:  # fmt: skip
    store = Checkpoints(tmp_path / "a", {"n": 1}, "a")
    store.open()
    assert store.newest() is None
    assert capsys.readouterr().err == ""
    written(store, 2, 4, 6)
    assert checkpoints(tmp_path / "a") == ["checkpoint-4", "checkpoint-6"]
    (store.half_written / "checkpoint-8").mkdir(parents=True)  # and is never taken for one
    damage(store.folder / "checkpoint-6")
    newest = store.newest()
    assert capsys.readouterr().err == f"a: {message}\n"
    assert (newest.name if newest else "over") in message
    assert not store.half_written.exists()
    written(store, 7)  # what is not whole does not take a place from what is
    assert checkpoints(tmp_path / "a")[-1:] == ["checkpoint-7"]
    assert len(checkpoints(tmp_path / "a")) == (2 if newest else 1)


def test_killed_while_it_writes_a_checkpoint_it_has_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killer = Killer(tmp_path, monkeypatch)
    names = []
    for left in range(100):
        store = Checkpoints(tmp_path / str(left) / "a", {"n": 1}, "a")
        store.open()
        written(store, 2, 4)
        survived = killer.survives(left, lambda store=store: written(store, 6))
        newest = store.newest()
        assert newest
        for file in ("adapter.safetensors", "optimizer.pt"):
            step = newest.name.removeprefix("checkpoint-")
            assert (newest / file).read_text() == f"{file} of step {step}"
        names.append(newest.name)
        if survived:
            break
    assert list(dict.fromkeys(names)) == ["checkpoint-4", "checkpoint-6"]


def test_without_a_whole_checkpoint_a_training_starts_over(
    whole: Whole, tiny_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a"
    stopped(tiny_base, out, 3)
    cut(tmp_path / ".a.checkpoints" / "checkpoint-2" / "adapter_model.safetensors")
    assert train(tiny_base, out) == whole
    assert "there is no other: it starts over" in capsys.readouterr().err


def test_checkpoints_of_another_training_are_never_carried_on_from(
    whole: Whole, tiny_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a"
    stopped(tiny_base, out, 3, learning_rate=1e-3)
    assert train(tiny_base, out) == whole
    assert capsys.readouterr().err == (
        "a: what a stopped run left is thrown away: "
        "settings.train.learning_rate was 0.001, is now 0.005\n"
    )
    finished = Checkpoints(out, json.loads((tmp_path / ".a.done.json").read_text())["claim"], "a")
    assert finished.finished()
    finished.claim["settings"]["train.learning_rate"] = 1e-3
    assert finished.finished() is None  # nor is a finished one taken for another


def test_a_setting_of_memory_throws_no_checkpoint_away(
    tiny_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without dropout the effective batch decides, however it is split."""
    lora = LoraSettings(r=4, alpha=8)

    def fit(**changes: Any) -> Evaluation:
        config = ModelConfig(base=str(tiny_base), dtype="fp32", device="cpu")
        settings = TrainConfig.model_validate({**little.SETTINGS.model_dump(), **changes})
        job = little.job(config, settings, tmp_path / name, None, on_step)
        return fit_adapter(replace(job, config=job.config.model_copy(update={"lora": lora}))).best

    name, on_step = "whole", None
    undisturbed = fit()
    name, on_step = "split", stop_at(4)
    with pytest.raises(Stop):
        fit()
    on_step = None
    best = fit(micro_batch_size=2, gradient_accumulation_steps=4, activation_checkpointing=True)
    assert best.loss == pytest.approx(undisturbed.loss, rel=1e-4)
    assert "carries on from checkpoint-2" in capsys.readouterr().err


# Generation.


def test_a_half_written_row_is_dropped_and_the_whole_ones_are_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [{"index": n, "text": "é\u2028\n" * n} for n in range(3)]
    journal = Journal(tmp_path / "j")
    journal.add(rows[:2])
    journal.add(rows[2:])
    written = (tmp_path / "j").read_bytes()
    for length in range(len(written) + 1):
        (tmp_path / "j").write_bytes(written[:length])
        again = Journal(tmp_path / "j")
        assert again.rows == rows[: written[:length].count(b"\n")]
        again.add([{"index": 9}])
        assert Journal(tmp_path / "j").rows == [*again.rows[:-1], {"index": 9}]
    assert caplog.messages == []
    for damaged in (written.replace(b'"', b"\0", 1), b"7\n" + written):
        (tmp_path / "j").write_bytes(damaged)
        assert Journal(tmp_path / "j").rows == []
        n = damaged.count(b"\n")
        assert caplog.messages.pop() == (
            f"{tmp_path / 'j'} line 1 is damaged: it and what is behind it, {n} lines in all, are "
            "dropped and written again"
        )


@pytest.fixture
def trained(tiny_base: Path, tmp_path: Path) -> tuple[Config, RunFolder]:
    """A run folder with articles and two adapters, which nobody has generated with."""
    config = Config.model_validate(
        {
            "run": str(tmp_path / "run"),
            "prompt": {"max_tokens": 200, "max_article_tokens": 120},
            "model": {"base": str(tiny_base), "device": "cpu", "dtype": "bf16"},
            "generate": {"batch_size": 3, "max_new_tokens": 8},
        }
    )
    folder = RunFolder(config.run)
    news = [
        Article(str(n), f"On day {n} the council met. " + "It went on. " * (n % 7), f"Day {n}.")
        for n in range(18)
    ]
    news[6] = dataclasses.replace(news[6], reference="It was on day 6 . " * 12)  # it takes room
    with folder.artefact("data").writing() as out:
        article_store.write_split(news, out / "data" / "test.parquet")
        renderer = Renderer(load_tokenizer(config.model), config.prompt)
        with token_store.open_writer(out / "data" / "test-tokens.parquet") as add:
            for article in news:
                add(article.id, renderer.encode(article.article, article.reference))
    for seed, name in enumerate(("baseline", "best")):
        with (
            folder.artefact(f"models/{name}").writing() as out,
            fresh_adapter(load_base(config.model), LoraSettings(r=2), seed) as model,
        ):
            model.save_pretrained(str(out / "models" / name))
    return config, folder


def test_generation_carries_on_after_the_batch_and_ends_with_the_same_bytes(
    trained: tuple[Config, RunFolder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """In bf16, where near ties depend on what is decoded together."""
    config, folder = trained
    shutil.copytree(folder.path, tmp_path / "whole")
    computed, pauses, padded = [], [], losses.pad_left
    # A batch takes a second, a stop a thousand.
    clock = SimpleNamespace(perf_counter=lambda: len(computed) + 1000 * len(pauses))
    monkeypatch.setattr(decoding, "time", clock)
    for module in (decoding, losses):
        monkeypatch.setattr(module, "pad_left", lambda *args: computed.append(1) or padded(*args))
    run_stage("generate", config, RunFolder(tmp_path / "whole"))
    batches = len(computed)
    # Three models; 18 summaries by 3 with losses, and that of the article which was cut for its.
    assert batches == 3 * (6 + 1)
    computed.clear()
    add, added, torn = Journal.add, itertools.count(1), 0

    def stopped_add(journal: Journal, rows: Iterable[Any]) -> None:
        """Stopped at every third batch: behind it, or with its last row half written."""
        nonlocal torn
        add(journal, rows)
        number = next(added)
        if number % 6 == 0:
            torn += 1
            cut(journal.path)
        if number % 3 == 0:
            pauses.append(1)
            raise Stop

    monkeypatch.setattr(Journal, "add", stopped_add)
    for _ in range(100):
        with contextlib.suppress(Stop):
            run_stage("generate", config, folder)
            break
    assert torn >= 3
    assert len(computed) == batches + torn
    for system in ("zero_shot", "baseline", "best"):
        one, other = (RunFolder(p).summaries(system) for p in (folder.path, tmp_path / "whole"))
        assert one.read_bytes() == other.read_bytes()
        for path in (folder.path, tmp_path / "whole"):
            measured = RunFolder(path).manifest(f"summaries/{system}")["measured"]
            assert (measured["writing_seconds"], measured["articles"]) == (6, 18)
    assert "best: carries on after " in capsys.readouterr().err


# What is made again.


class Stage:
    """A stage of one artefact, which is stopped in the middle as long as `stops` is set."""

    def __init__(self, name: str, inputs: list[str], section: str) -> None:
        self.name, self.inputs, self.section, self.stops = name, inputs, section, False

    def artefacts(self, config: Config, folder: RunFolder) -> list[Artefact]:
        settings = config.model_dump(mode="json", include={self.section})
        return [folder.artefact(self.name, inputs=self.inputs, settings=settings)]

    def run(self, config: Config, folder: RunFolder, outdated: list[Artefact]) -> None:
        (artefact,) = outdated
        with artefact.writing(resume=True) as out:
            (out / self.name).write_text(str(artefact.settings))
            if self.stops:
                raise KeyboardInterrupt


def test_what_is_made_again_and_why_is_told_before_anything_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stages = {
        "prepare": Stage("data", [], "data"),
        "search": Stage("search", ["data"], "search"),
        "train": Stage("models", ["data", "search"], "train"),
    }
    monkeypatch.setattr(runner, "_stage", stages.__getitem__)
    makes = {name: stage.artefacts for name, stage in stages.items()}
    monkeypatch.setattr(artifacts, "BY_STAGE", makes)

    def announced(**changes: Any) -> list[str]:
        config = Config.model_validate({"run": str(tmp_path), **changes})
        with contextlib.suppress(KeyboardInterrupt):
            runner.run_study(config, tuple(stages))
        lines = capsys.readouterr().err.splitlines()
        begun = next(i for i, line in enumerate(lines) if line.startswith("[1/7]"))
        return lines[:begun]

    assert announced() == []
    assert announced() == []
    stages["train"].stops = True
    assert announced(search={"trials": 6}) == [
        "search is made again: search.trials was 4, is now 6",
        "models is made again if search changes",
    ]
    assert announced(search={"trials": 6}) == ["models is made again: changed: search"]
    assert announced(search={"trials": 6}, train={"eval_every": 64}) == [
        "models is made again: changed: search",
        "models, half made, is thrown away: settings.train.eval_every was 224, is now 64",
    ]
    assert announced(search={"trials": 7}, train={"eval_every": 64}) == [
        "search is made again: search.trials was 6, is now 7",
        "models is made again: changed: search",
        "models, half made, is thrown away if search changes",
    ]
