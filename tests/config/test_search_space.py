"""What a search draws from: each value is one that the setting can have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nutgraf.config import Config
from nutgraf.config.load import ConfigError, build_config, load_config, to_yaml
from nutgraf.config.types import Choices


def searching(name: str, **domain: Any) -> Config:
    return build_config({"search": {"space": {name: domain}}})


@pytest.mark.parametrize(
    ("name", "choices", "values"),
    [
        ("train.learning_rate", ["5e-2", 0.001], (0.05, 0.001)),
        ("lora.r", ["2", 16], (2, 16)),
        ("train.warmup_steps", [2, "5e-2"], (2, 0.05)),
        ("train.activation_checkpointing", ["yes", False], (True, False)),
        ("lora.target_modules", ["all-linear", ["q_proj"]], ("all-linear", ["q_proj"])),
    ],
)
def test_a_text_among_choices_is_the_value_that_the_setting_makes_of_it(
    name: str, choices: list[Any], values: tuple[Any, ...], tmp_path: Path
) -> None:
    config = searching(name, choices=choices)
    domain = config.search.space[name]
    assert isinstance(domain, Choices)
    assert domain.choices == values
    assert [*map(type, domain.choices)] == [*map(type, values)]
    (tmp_path / "c.yaml").write_text(to_yaml(config))
    assert load_config(tmp_path / "c.yaml") == config


def test_a_range_of_what_is_yes_or_no_is_refused_in_one_line() -> None:
    name = "train.activation_checkpointing"
    with pytest.raises(ConfigError) as caught:
        searching(name, low=0, high=1)
    said = f"search.space has a range of {name}, which is yes or no: use choices"
    assert str(caught.value) == said


def test_the_largest_of_what_is_searched_is_a_number_and_no_text() -> None:
    space = {"lora.r": {"choices": ["9", "16"]}, "lora.alpha": {"low": 4, "high": 32}}
    search = build_config({"search": {"space": space}}).search
    assert search.largest("lora.r", "lora.alpha", "lora.dropout") == {
        "lora.r": 16,
        "lora.alpha": 32,
    }
