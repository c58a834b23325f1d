"""How speeds are measured: beside other programs, and on a stand-in of the base."""

from __future__ import annotations

import os
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch

from nutgraf.cli import check, main
from nutgraf.config import Config
from nutgraf.config.load import with_overrides
from nutgraf.modeling.load import choose_device, load_base, load_tokenizer
from nutgraf.modeling.shape import first_layers, read_dims
from nutgraf.planning import benchmark, stopwatch
from nutgraf.planning.measuring import Benchmark
from nutgraf.planning.speeds import Speed, Speeds
from nutgraf.planning.stopwatch import Stopwatch

Cores = namedtuple("Cores", "user nice system idle iowait guest guest_nice")


class Machine:
    """Two cores, as a stopwatch sees them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.wall = self.own = self.others = 0.0
        monkeypatch.setattr(stopwatch.time, "perf_counter", lambda: self.wall)
        monkeypatch.setattr(stopwatch.time, "process_time", lambda: self.own)
        monkeypatch.setattr(psutil, "cpu_times", self.cores)

    def cores(self) -> Cores:
        busy = self.own + self.others
        return Cores(busy, 0.0, 0.0, 2 * self.wall - busy - 0.1, 0.1, 0.0, 0.0)

    def run(self, wall: float, own: float, others: float) -> None:
        self.wall += wall
        self.own += own
        self.others += others


@pytest.mark.parametrize(
    ("threads", "own", "others", "quiet"),
    [
        (2, 20.0, 0.0, 10.0),
        (2, 17.0, 0.0, 10.0),  # its own fault: some of the work is that of one thread
        (2, 10.0, 10.0, 5.0),
        (2, 15.0, 4.0, 10.0 * 15 / 19),  # no more than others used
        (1, 10.0, 10.0, 10.0),  # another program on the other core
        (0, 1.0, 19.0, 10.0),  # a GPU computes
    ],
)
def test_what_other_programs_take_is_not_counted(
    monkeypatch: pytest.MonkeyPatch, threads: int, own: float, others: float, quiet: float
) -> None:
    machine = Machine(monkeypatch)
    watch = Stopwatch(threads)
    machine.run(10.0, own, others)
    assert watch.now() == pytest.approx(quiet)
    assert watch.cores_of_others == pytest.approx(others / 10)
    machine.run(5.0, threads * 5.0, 0.0)
    assert watch.now() == pytest.approx(quiet + 5)


def test_a_busy_machine_is_named_with_what_it_costs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(check, "MAX_ARTICLES", {"train": 8, "validation": 2, "test": 2})
    speed = Speed(6e10, 1.2e11, 0.1)
    printed = []
    for others in (0.1, 0.875):
        speeds = Speeds(speed, speed, 2e11, 2e11, 0.05, "nothing", others)
        monkeypatch.setattr(benchmark, "measure_speeds", lambda *args, speeds=speeds: speeds)
        assert main.main(["check"]) == 0
        printed.append(" ".join(capsys.readouterr().out.split()))
    assert "busy" not in printed[0]
    assert f"this machine is busy: other programs used 0.9 of {os.cpu_count()} cores." in printed[1]


@pytest.mark.parametrize(
    ("concurrent", "used", "measured"),
    [(1, 0.1, (4, 1, 0)), (4, 0.1, (4, 1, 3)), (1, 0.5, (1, 1, 0)), (4, 0.5, (1, 1, 0))],
)
def test_beside_other_programs_one_thread_is_measured(
    tiny_base: Path,
    monkeypatch: pytest.MonkeyPatch,
    concurrent: int,
    used: float,
    measured: tuple[int, int, int],
) -> None:
    """Several would wait for each other; what they would do follows from the one."""
    speed, asked = Speed(1e9, 2e9, 0.1), []

    def speeds(_: Benchmark, rows: object, prompts: object, *threads: int) -> Speeds:
        asked.append((*threads, torch.get_num_threads()))
        return Speeds(speed, speed, 3e9, 4e9, 0.05, "nothing")

    monkeypatch.setattr(benchmark, "_measured", speeds)
    monkeypatch.setattr(Benchmark, "others_at_rest", lambda self: used)
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    torch.set_num_threads(4)
    changes = {"model.base": str(tiny_base), "search.concurrent": concurrent, "search.trials": 4}
    config = with_overrides(Config(), changes)
    dims = read_dims(config.model, config.lora)
    measured_speeds = benchmark.measure_speeds(config, dims, [], [], choose_device(config.model))
    assert asked == [(*measured, measured[0])]
    gain = 4**benchmark.THREADS_GAIN if used > 0.25 else 1.0
    alone = gain if concurrent == 1 else 1.0  # four trainings at a time have a thread each
    assert measured_speeds.trial == speed
    assert measured_speeds.alone.training == pytest.approx(alone * speed.training)
    assert measured_speeds.reading == pytest.approx(4e9 * gain)
    assert measured_speeds.token == pytest.approx(0.05 / gain)


def test_a_base_is_measured_with_few_of_its_layers_and_gets_them_back(tiny_base: Path) -> None:
    config = with_overrides(Config(), {"model.base": str(tiny_base), "model.dtype": "fp32"})
    base, ids = load_base(config.model), torch.arange(9)[None]
    layers = [*base.model.layers]
    before = base(ids).logits
    with first_layers(base, 1):
        assert [*base.model.layers] == layers[:1]
        assert not torch.equal(base(ids).logits, before)
    assert [*base.model.layers] == layers
    assert torch.equal(base(ids).logits, before)

    dims = read_dims(config.model, config.lora)
    whole = replace(dims, layers=30)
    device, tokenizer = choose_device(config.model), load_tokenizer(config.model)
    measured = Benchmark(base, dims, whole, config, tokenizer, device, "", Stopwatch(1))
    # Embeddings and output layer take 3, each layer 2.
    assert measured.of_whole([7.0], lambda: [3.0 + 2 * len(base.model.layers)]) == [63.0]
    itself = replace(measured, whole=dims)
    assert itself.of_whole([7.0], lambda: pytest.fail("nothing to measure")) == [7.0]
