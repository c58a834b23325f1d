"""What a later stage would refuse is refused before the first one, by `check` and `run` alike."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from helpers import command

from nutgraf.config import TrainConfig
from nutgraf.config.load import ConfigError, build_config, load_config_values
from nutgraf.pipeline import preflight
from nutgraf.training import tracking
from nutgraf.training.budget import warmup_steps

SPACE = {"choices": ["all-linear", ["no_such_proj"]]}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"score.resamples": 200}, "score.resamples is 200: 12 comparisons need at least 480"),
        (
            {"train.warmup_steps": 50, "train.rounds": 1, "preference.articles": 80},
            "train.warmup_steps is 50 and a training has 40 steps in a round (preference.articles)",
        ),
        (
            {"train.warmup_steps": 1000},
            "train.warmup_steps is 1000 and a training has 112 steps: the learning rate would "
            "never reach its peak; lower it, or raise train.max_examples or train.max_steps",
        ),
        (
            {"train.warmup_steps": 1, "train.max_examples": 2},
            "train.warmup_steps is 1 and a training has 1 step: ",
        ),
        (
            {"train.warmup_steps": 56},
            "train.warmup_steps is 56 and a training has 56 steps with the largest of search.space",
        ),
        (
            {"search.space.train.warmup_steps": {"low": 1, "high": 500}},
            "train.warmup_steps is 500 and a training has 56 steps with the largest of",
        ),
        (
            {"search.space.train.warmup_steps": {"choices": ["9", "500"]}},
            "train.warmup_steps is 500 and a training has 56 steps with the largest of",
        ),
        (
            {"search.space.train.warmup_steps": {"choices": [500, "5e-2"]}},
            "train.warmup_steps is 500 and a training has 56 steps with the largest of",
        ),
        ({"tracking.to": ["wandb"]}, "tracking.to names wandb, which is not installed"),
    ],
)
def test_a_setting_that_a_later_stage_refuses(monkeypatch, settings, said):
    monkeypatch.setitem(tracking._TRACKERS, "wandb", ("no_such_library", tracking._wandb))
    (problem,) = preflight.of_settings(load_config_values(None, settings))
    assert problem.startswith(said)


@pytest.mark.parametrize("warmup", [0, 0.05, 0.9999, 1, 55])
def test_a_rise_that_ends_is_taken(warmup):
    assert preflight.of_settings(load_config_values(None, {"train.warmup_steps": warmup})) == []


def test_a_share_of_steps_never_takes_the_only_one():
    one = TrainConfig(max_examples=8)
    assert warmup_steps(one) == 0
    assert warmup_steps(TrainConfig(max_examples=16)) == 1


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"search.gpus_per_trial": 1}, r"search.gpus_per_trial 1 → 0 \(there is no GPU here\)"),
        ({"model.device": "cuda"}, "model.device is 'cuda' and there is no CUDA device"),
        ({"prompt.max_tokens": 2000}, r"prompt.max_tokens 2,000 → 1,952 \(with generate"),
        ({"lora.target_modules": ["no_such_proj"]}, "lora.target_modules .*no_such_proj"),
        ({"search.space.lora.target_modules": SPACE}, "lora.target_modules .*no_such_proj"),
        ({"model.base": "/nowhere/base"}, "model.base '/nowhere/base' is not there"),
        ({"rivals.x.model": "/nowhere/r"}, "rivals.x.model '/nowhere/r' is not there"),
        ({"ray.address": "127.0.0.1:9"}, "no Ray cluster at ray.address '127.0.0.1:9'"),
    ],
)
def test_what_does_not_go_with_base_rivals_or_devices(settings, said):
    (problem,) = preflight.of_models(load_config_values(None, settings))
    assert re.search(said, problem)


def test_adapters_that_are_not_trained_together_if_that_is_asked_for(tiny_base: Path) -> None:
    settings: dict[str, Any] = {
        "model": {"base": str(tiny_base)},
        "prompt": {"max_tokens": 300, "max_article_tokens": 200},
        "lora": {"target_modules": ["q_proj", "embed_tokens"]},
        "search": {"together": "on"},
    }
    (problem,) = preflight.of_models(build_config(settings))
    assert problem.startswith("an adapter on model.embed_tokens is not trained together with")
    settings["search"]["together"] = "off"
    assert preflight.of_models(build_config(settings)) == []


def test_the_newswire_never_ends():
    with pytest.raises(ConfigError, match=r"never ends: set data.test_examples to a number"):
        load_config_values(None, {"data.test_examples": None})


@pytest.mark.parametrize(
    ("word", "value"),
    [("score.resamples", 200), ("search.space.lora.target_modules", SPACE)],
)
def test_run_says_it_before_its_first_stage(tmp_path: Path, word, value):
    folder = tmp_path / "study"
    words = ["--run", str(folder), f"--{word}", json.dumps(value)]
    said = command.run("run", *words, status=2).stderr.splitlines()[-1]
    config = load_config_values(None, {word: value})
    assert said.removeprefix("nutgraf: ") in (
        preflight.of_settings(config) + preflight.of_models(config)
    )
    assert not (folder / "data").exists()


def test_a_place_that_cannot_be_written_is_refused_before_anything(tmp_path):
    (tmp_path / "file").touch()
    for settings, said in (
        (
            {"run": f"{tmp_path}/file/runs"},
            f"run {tmp_path}/file/runs cannot be made ({tmp_path}/file is",
        ),
        ({"run": "s3://bucket/run"}, "run is 's3://bucket/run': give a folder here, and set stor"),
        ({"run": f"{tmp_path}/{'x' * 300}"}, "run "),
        (
            {"storage": f"{tmp_path}/file"},
            f"storage {tmp_path}/file cannot be made ({tmp_path}/file is",
        ),
        (
            {"run": f"{tmp_path}/a", "storage": f"{tmp_path}/a/b"},
            f"storage {tmp_path}/a/b and run overlap",
        ),
    ):
        (problem,) = preflight.of_settings(build_config(settings))
        assert problem.startswith(said)
    (problem,) = preflight.of_storage(build_config({"storage": "nothing://there"}))
    assert problem.startswith("storage is nothing://there, which cannot be opened")


def test_a_rank_beyond_the_machine_is_refused_before_it_is_measured():
    space = {"search.space": {"lora.r": {"choices": [8, 10**7]}}}
    (problem,) = preflight.of_models(load_config_values(None, space))
    assert problem.startswith("lora.r 10000000 → a smaller one (the adapter is trained in ")


def test_an_empty_name_of_a_run_folder_is_refused():
    said = command.run("check", "--run", "", status=2).stderr
    assert said == "nutgraf: run is '': string should have at least 1 character\n"


def test_a_summary_longer_than_the_base_is_shortened_and_not_its_prompt():
    (problem,) = preflight.of_models(load_config_values(None, {"generate.max_new_tokens": 5000}))
    assert problem.startswith("generate.max_new_tokens 5,000 → 1,152 (with prompt.max_tokens 5,896")
