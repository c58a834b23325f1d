"""The engine: trials that ask it are trained as `fit()` trains them, whoever comes, goes and dies.

As a program it is the search in Ray that the test starts: `test_packed_engine.py BASE FOLDER`.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from nutgraf.config import Config, load
from nutgraf.search.trial import SearchInputs, evaluated_weights

STUDY: dict[str, Any] = {
    "prompt": {"max_tokens": 120, "max_article_tokens": 60},
    "lora": {"r": 4, "alpha": 8},
    "train": {"max_examples": 48, "micro_batch_size": 2, "eval_every": 16, "eval_examples": 8},
    "search": {"trials": 3, "concurrent": 3, "together": True},
}
VALUES = [
    {"train.learning_rate": 3e-3, "train.gradient_accumulation_steps": 2, "lora.r": 2},
    {"train.learning_rate": 1e-2, "train.gradient_accumulation_steps": 4},
]


def study(base: str) -> Config:
    model = {"base": base, "dtype": "fp32", "device": "cpu"}
    return load.build_config({**STUDY, "model": model})


def rows(config: Config) -> tuple[list[Any], list[Any]]:
    """Training and validation."""
    from nutgraf.data.prompts import Renderer
    from nutgraf.modeling.load import load_tokenizer

    renderer = Renderer(load_tokenizer(config.model), config.prompt)
    story = "On day {0} town {0} spoke of {1}. "
    examples = [
        renderer.example(story.format(n, "roads" * (1 + n % 4)), f"Town {n} talks.")
        for n in range(40)
    ]
    return examples[8:], examples[:8]


def main(base: str, folder: Path) -> None:
    import ray

    from nutgraf.core.console import show_log
    from nutgraf.search import ray_tune

    show_log()
    init = ray.init  # two devices, which compute as the CPU does
    ray.init = lambda **options: init(**{**options, "num_gpus": 2})
    config = load.with_overrides(study(base), {"search.gpus_per_trial": 1})
    trials = ray_tune.run_search(config, *rows(config), folder / "trials", together=True)
    table = [[trial.values, trial.history, trial.status] for trial in trials]
    (folder / "result.json").write_text(json.dumps(table))


class Asking(threading.Thread):
    """A trial that asks an engine in this process, as `train_on_engine` does in Ray."""

    def __init__(self, engine: Any, folder: Path, values: dict[str, Any]) -> None:
        super().__init__(daemon=True)
        self.engine, self.folder, self.values = engine, folder, values
        self.evaluations: list[Any] = []
        self.news: Any = None

    def ask(self) -> bool:
        """Whether there is more to hear."""
        self.news = self.engine.advance(str(self.folder), self.values, len(self.evaluations))
        self.evaluations += self.news.evaluations
        return self.news.rows is None and self.news.error is None

    def run(self) -> None:
        while self.ask():
            pass
        self.engine.leave(str(self.folder))


@pytest.fixture(scope="module")
def config_and_rows(tiny_base: Path) -> tuple[Config, list[Any], list[Any]]:
    config = study(str(tiny_base))
    return (config, *rows(config))


@pytest.fixture(scope="module")
def alone(
    config_and_rows: tuple[Config, list[Any], list[Any]], tmp_path_factory: pytest.TempPathFactory
) -> list[list[float]]:
    """Losses of the trials trained as the search does it with `together` off."""
    from nutgraf.search.trial_worker import train_trial

    config, train, validation = config_and_rows
    losses: list[list[float]] = []
    for number, values in enumerate(VALUES):
        seen: list[float] = []
        train_trial(
            values,
            tmp_path_factory.mktemp(f"alone-{number}"),
            lambda e, seen=seen: seen.append(e.loss),  # type: ignore[misc]
            lambda examples: None,
            inputs=SearchInputs(config, train, validation),
        )
        losses.append(seen)
    return losses


def started(config_and_rows: Any, tmp_path: Path) -> Any:
    from nutgraf.search.packed_engine import Engine

    return Engine(
        (SearchInputs(*config_and_rows), None),
        str(tmp_path / ".engine-here.json"),
        threads=1,
        minutes=None,
    )


class Killed(Exception):
    """Ends a training from within a callback."""


def test_a_trial_leaves_its_best_weights_at_each_evaluation_interrupted_or_not(
    config_and_rows: Any, tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    from nutgraf.modeling.adapters import save_adapter_weights, with_adapter
    from nutgraf.modeling.load import load_base
    from nutgraf.search.trial_worker import train_trial

    config, train, validation = config_and_rows

    def trained(folder: Path, killed_at: int) -> list[int]:
        """The number of examples at each evaluation."""
        seen: list[int] = []

        def evaluated(evaluation: Any) -> None:
            seen.append(evaluation.examples)
            if len(seen) == killed_at:
                raise Killed

        folder.mkdir(exist_ok=True)
        train_trial(VALUES[0], folder, evaluated, lambda examples: None,
                inputs=SearchInputs(config, train, validation),)  # fmt: skip
        return seen

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    examples = trained(whole, 0)
    with pytest.raises(Killed):
        trained(killed, 2)
    assert trained(killed, 0) == examples
    for at in examples:
        bytes_of = [evaluated_weights(folder, at).read_bytes() for folder in (whole, killed)]
        assert bytes_of[0] == bytes_of[1]
    weights = load_file(evaluated_weights(whole, examples[-1]))
    lora = load.with_overrides(config, VALUES[0]).lora
    save_adapter_weights(weights, lora, tmp_path / "saved")
    saved, best = (
        load_file(folder / "adapter_model.safetensors")
        for folder in (tmp_path / "saved", whole / "adapter")
    )
    assert saved.keys() == best.keys()
    assert all(saved[name].equal(best[name]) for name in best)
    with with_adapter(load_base(config.model), tmp_path / "saved") as model:
        assert model.peft_config["default"].r == 2


def test_trials_hear_what_they_would_have_alone(
    config_and_rows: Any, alone: list[list[float]], tmp_path: Path
) -> None:
    engine = started(config_and_rows, tmp_path)
    asking = [Asking(engine, tmp_path / str(n), values) for n, values in enumerate(VALUES)]
    asking.append(Asking(engine, tmp_path / "wild", {"train.learning_rate": 1e30}))
    for trial in asking:
        trial.start()
    for trial in asking:
        trial.join(200)
    for trial, wanted in zip(asking, alone, strict=False):
        for evaluation in trial.evaluations:
            assert evaluated_weights(trial.folder, evaluation.examples).is_file()
        assert [evaluation.loss for evaluation in trial.evaluations] == pytest.approx(
            wanted, abs=1e-4
        )
        assert sum(row.tokens for row in trial.news.rows) > 0
        assert (trial.folder / "adapter" / "adapter_model.safetensors").exists()
    assert "lower train.learning_rate" in str(asking[-1].news.error)


def test_a_trial_that_no_longer_asks_leaves(
    config_and_rows: Any, alone: list[list[float]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that asks again hears all of it again."""
    monkeypatch.setattr("nutgraf.search.packed_engine.NEWS_TIMEOUT", 0.05)
    monkeypatch.setattr("nutgraf.search.packed_engine.CLIENT_TIMEOUT", 1.0)
    engine = started(config_and_rows, tmp_path)
    dead = Asking(engine, tmp_path / "dead", {"train.max_examples": 20_000})
    dead.ask()
    other = Asking(engine, tmp_path / "other", VALUES[0])
    other.start()
    other.join(200)
    deadline = time.monotonic() + 200
    while engine._clients and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not engine._clients
    again = Asking(engine, other.folder, other.values)
    again.run()
    for trial in (other, again):
        assert [evaluation.loss for evaluation in trial.evaluations] == pytest.approx(
            alone[0], abs=1e-4
        )


def test_an_engine_that_died_takes_fewer_and_blames_one_alone(tmp_path: Path) -> None:
    from types import SimpleNamespace

    from nutgraf.core.errors import Failure
    from nutgraf.search.packed_engine import _Notes

    def group(*numbers: int) -> Any:
        return [
            SimpleNamespace(job=SimpleNamespace(out=tmp_path / str(n) / "adapter")) for n in numbers
        ]

    path = tmp_path / "notes.json"
    _Notes(path).write(group(1, 2, 3))
    second = _Notes(path)
    assert second.max_packed == 2
    second.write(group(1, 2))
    for deaths in (0, 1):
        alone = _Notes(path)
        assert alone.max_packed == 1
        alone.check(tmp_path / "1")
        assert alone.deaths.get("1", 0) == deaths
        alone.write(group(1))
    with pytest.raises(Failure, match=r"killed 2 times.*lower train\.micro_batch_size"):
        _Notes(path).check(tmp_path / "1")


def of_session(session: int) -> list[psutil.Process]:
    processes = []
    for process in psutil.process_iter():
        with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess):
            if os.getsid(process.pid) == session:
                processes.append(process)
    return processes


def named(process: psutil.Process) -> str:
    """Its name, or none where it has just ended."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.name()
    return ""


def stopped_at_work(session: int, trials: Path) -> list[psutil.Process]:
    """The two engines of a session, suspended right after a trial's first checkpoint.

    They run for moments at a time until then, lest they be through before somebody looks.
    """
    deadline = time.monotonic() + 200
    engines: list[psutil.Process] = []
    while time.monotonic() < deadline:
        if len(engines) < 2:  # looked for once: on a busy machine that takes as long as a trial
            engines = [
                process for process in of_session(session) if "ray::Engine" in named(process)
            ]
        else:
            for engine in engines:
                engine.suspend()
            if list(trials.glob("*/.adapter.checkpoints/checkpoint-*")):
                return engines
            for engine in engines:
                engine.resume()
        time.sleep(0.02)
    raise AssertionError("no two engines at work in 200 s")


def test_a_search_in_ray_whose_engine_is_killed(config_and_rows: Any, tmp_path: Path) -> None:
    """Of two, one a device: the search finds what trials alone find, and trials load no torch."""
    from nutgraf.search.trial_worker import train_trial

    config, train, validation = config_and_rows
    program = subprocess.Popen(
        [sys.executable, __file__, config.model.base, str(tmp_path)],
        start_new_session=True,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        killed, other = stopped_at_work(program.pid, tmp_path / "trials")
        assert not list((tmp_path / "trials").glob("*/adapter")), "a trial was over before the kill"
        loaded = {
            Path(entry.path).name
            for process in of_session(program.pid)
            if "ray::ImplicitFunc" in named(process)
            for entry in process.memory_maps()
        }
        killed.kill()
        other.resume()
        _, said = program.communicate(timeout=300)
        assert program.returncode == 0, said
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(program.pid, signal.SIGKILL)
    assert not any(name.startswith("libtorch") for name in loaded)
    table = json.loads((tmp_path / "result.json").read_text())
    assert [status for *_, status in table].count("completed") >= 1
    for number, (values, history, status) in enumerate(table, 1):
        seen: list[float] = []
        train_trial(
            values, tmp_path / f"alone-{number}", lambda e, s=seen: s.append(e.loss),  # type: ignore[misc]
            lambda examples: None, inputs=SearchInputs(config, train, validation),
        )  # fmt: skip
        assert status in ("completed", "stopped"), said
        losses = [loss for _, loss in history]
        assert losses == pytest.approx(seen[: len(losses)], abs=1e-4)
        if status == "stopped":  # its weights there, which its ROUGE is measured with
            assert evaluated_weights(tmp_path / "trials" / str(number), history[-1][0]).is_file()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
