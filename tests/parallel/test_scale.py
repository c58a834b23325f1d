"""Many machines, on paper: bench/scale.py, and configs/cluster.yaml, which starts them."""

from __future__ import annotations

import json
import random
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import devices
import pytest
import scale
import simulated
import yaml
from devices import Device
from helpers.places import CONFIGS
from hypothesis import given
from hypothesis import strategies as st

from nutgraf.config import Config
from nutgraf.config.load import build_config
from nutgraf.modeling.dims import ModelDims
from nutgraf.planning import speeds
from nutgraf.search.halving import Halving, TrialProgress

CLUSTER = CONFIGS / "cluster.yaml"
DEVICE = Device(
    row=0.5, looked=0.2, saving=3.0, written=0.4, loading=5.0, adapter=1_000_000, spread=0.2
)
TRIALS, EVALUATIONS = 24, 8


def study(at_once: int = 1, **search: Any) -> Config:
    return build_config(
        {
            "train": {"max_examples": 6400, "eval_every": 6400 // EVALUATIONS, "eval_examples": 64},
            "search": {"trials": TRIALS, "concurrent": at_once} | search,
        }
    )


def pieces_of(luck: int) -> tuple[list[list[float]], list[list[float]]]:
    """Seconds and losses of each trial's pieces, as `search` draws them."""
    draw = random.Random(luck)
    takes = [simulated.pieces(study(), DEVICE, draw) for _ in range(TRIALS)]
    return takes, simulated.curves(TRIALS, EVALUATIONS, draw)


def test_ray_s_launcher_takes_the_cluster_file() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load(CLUSTER.read_text(encoding="utf-8"))
    prepared = prepare_config(config)
    validate_config(prepared)
    (kind,) = prepared["available_node_types"].values()
    assert kind["min_workers"] == len(config["provider"]["worker_ips"])
    assert any("-r ~/nutgraf/requirements.txt" in line for line in prepared["setup_commands"])
    for start in ("head_start_ray_commands", "worker_start_ray_commands"):
        assert "RAY_AUTH_MODE=token" in prepared[start][-1]
    assert "--include-dashboard=false" in prepared["head_start_ray_commands"][-1]
    assert "~/.ray/auth_token" in prepared["file_mounts"]


@pytest.mark.parametrize("luck", range(3))
@pytest.mark.parametrize("at_once", [1, 5, TRIALS])
def test_trials_are_stopped_where_the_rule_stops_them(at_once: int, luck: int) -> None:
    """That of a search in which every trial ran to its end."""
    _, losses = pieces_of(luck)
    settings = study(at_once).search
    rule = Halving(settings.grace_evaluations, settings.reduction_factor, at_once)
    whole = {n: TrialProgress(tuple(row), EVALUATIONS, True) for n, row in enumerate(losses, 1)}
    expected = {n: verdict.stop for n, verdict in rule.judge(whole).items()}
    outcome = simulated.search(study(at_once), DEVICE, luck)
    assert outcome.stops == expected
    assert len(set(expected.values())) > 2


@pytest.mark.parametrize("luck", range(3))
def test_on_one_device_a_search_takes_the_sum_of_its_trials(luck: int) -> None:
    takes, _ = pieces_of(luck)
    outcome = simulated.search(study(), DEVICE, luck)
    stopped = sum(sum(takes[n - 1][:stop]) for n, stop in outcome.stops.items())
    assert outcome.seconds == pytest.approx(outcome.busy) == pytest.approx(stopped)
    assert (outcome.waiting, outcome.past) == (0, pytest.approx(0, abs=1e-6))
    never = simulated.search(study(grace_evaluations=EVALUATIONS), DEVICE, luck)
    assert never.seconds == pytest.approx(sum(map(sum, takes)))
    assert never.checkpoints == TRIALS * EVALUATIONS


@pytest.mark.parametrize("luck", range(3))
def test_more_devices_are_never_slower(luck: int) -> None:
    searches = [simulated.search(study(n), DEVICE, luck).seconds for n in (1, 4, 16, TRIALS)]
    assert searches == sorted(searches, reverse=True)
    networks = [simulated.training(study(), DEVICE, n, 1e12) for n in (1, 2, 4, 8)]
    assert networks == sorted(networks, reverse=True)


@given(st.lists(st.floats(0.1, 9), min_size=1, max_size=40), st.integers(1, 50))
def test_pieces_of_work_take_between_their_share_and_their_sum(
    takes: list[float], at_once: int
) -> None:
    took = simulated.listed(takes, at_once)
    assert max(*takes, sum(takes) / at_once) <= took * 1.000001
    assert took <= sum(takes) / at_once + max(takes) + 1e-9
    assert simulated.listed(takes, at_once + 1) <= took + 1e-9


def test_without_a_spread_eight_processes_train_eight_times_as_fast() -> None:
    even = replace(DEVICE, spread=0.0, saving=0.0, looked=0.0)
    alone = simulated.training(study(), even, 1, 1e9)
    assert simulated.training(study(), even, 8, 1e30) == pytest.approx(alone / 8)
    assert simulated.training(study(), DEVICE, 8, 1e30) > simulated.training(study(), even, 8, 1e30)
    assert simulated.training(study(), even, 8, 1e6) > alone  # gradients over a slow network


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """What the simulation reads of a run folder: its stages took twice what was planned."""
    shape = ModelDims(2, 8, 16, 2, 8, 8, 100, 512, 10_000, 2_000, 500)
    speed = {"training": 1e9, "reading": 2e9, "saving": 0.5}
    stages = {"search": 1, "train": 2, "generate": 6, "score": 6, "compare": 2}
    planned = {
        "made": 0.0,
        "shape": vars(shape),
        "speeds": {"trial": speed, "looking": 2e9, "reading": 2e9, "token": 0.01},
        "machine": {"cores": 1},
        "training_bytes": 1,
        "stages": [
            {"name": name, "seconds": 10.0, "artefacts": n, "by_luck": None}
            for name, n in stages.items()
        ],
    }
    durations = {"search": 20.0, "models.baseline": 10.0, "models.best": 10.0}
    durations |= {f"summaries.{n}": 20 / 6 for n in range(6)}
    (tmp_path / "search").mkdir()
    (tmp_path / "manifests").mkdir()
    (tmp_path / "search" / "plan.json").write_text(json.dumps(planned))
    began = 1.0
    for name, seconds in durations.items():
        manifest = {"created": began, "seconds": seconds, "carried_on": False, "machine": "x86"}
        (tmp_path / "manifests" / f"{name}.json").write_text(json.dumps(manifest))
        began += seconds
    for name in ("baseline", "best"):
        (tmp_path / "models" / name).mkdir(parents=True)
        rows = [f"{k},{k},,,{1 / k},{5 * k + (k == 3)}" for k in range(1, 6)]
        header = "step,examples,learning_rate,train_loss,validation_loss,seconds"
        (tmp_path / "models" / name / "history.csv").write_text("\n".join([header, *rows]))
    (tmp_path / "config.yaml").write_text("run: runs/pocket\n")
    return tmp_path


def test_a_run_folder_s_device_is_as_much_slower_as_its_stages_were(run_folder: Path) -> None:
    device, description = devices.of_run(run_folder, study(), row=100, summary=20)
    shape = ModelDims(2, 8, 16, 2, 8, 8, 100, 512, 10_000, 2_000, 500)
    assert device.row == pytest.approx(2 * 2 * speeds.forward_operations(shape, 1, 100, 20) / 1e9)
    assert device.saving == pytest.approx(1.0)
    assert device.spread == pytest.approx(0.1538, abs=1e-3)  # 5, 6, 4 and 5 seconds, twice
    assert "trainings took 2.00 times" in description
    assert "of 8 pieces" in description


def test_device_hours_add_up_and_cost_what_the_reader_says(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["--articles", "6400", "--trials", "12", "--test", "500", "--draws", "1"]
    words = ["scale.py", str(run_folder), *small, "--row", "100", "--summary", "20"]
    monkeypatch.setattr(sys, "argv", words)
    scale.main()
    assert "cost" not in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", [*words, "--price", "2", "--replica-tokens", "1000"])
    scale.main()
    said = capsys.readouterr().out
    cells = {line[:26].strip(): line[26:].split() for line in said.splitlines()}
    hours = [float(n.replace(",", "")) for n in cells["device-hours"]]
    costs = [float(n.replace(",", "")) for n in cells["cost"][:3]]
    assert costs == pytest.approx([2 * n for n in hours], abs=1.1)
    assert "4 replicas at 1,000 tokens a second each" in said
    options = scale._options()
    for n in (1, 8, 64):
        one = scale.study(study(), DEVICE, n, options, luck=0)
        assert sum(one.lost().values()) == pytest.approx(n * one.together)
        even = scale.study(study(), replace(DEVICE, spread=0.0), n, options, luck=0)
        assert min(even.lost().values()) > -1e-6
