"""Which way trials are trained, and what is said of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nutgraf.config import Config, load
from nutgraf.core.errors import Failure
from nutgraf.data.examples import Example
from nutgraf.data.prompts import Renderer
from nutgraf.modeling.load import load_base, load_tokenizer
from nutgraf.planning import packing


@pytest.fixture
def study(tiny_base: Path) -> Any:
    def build(**search: Any) -> Config:
        return load.build_config(
            {
                "model": {"base": str(tiny_base), "dtype": "fp32", "device": "cpu"},
                "prompt": {"max_tokens": 120, "max_article_tokens": 60},
                "train": {"max_examples": 400, "micro_batch_size": 2},
                "search": {"trials": 4, "concurrent": 4, **search},
            }
        )

    return build


def rows(config: Config) -> list[Example]:
    renderer = Renderer(load_tokenizer(config.model), config.prompt)
    return [renderer.example(f"On day {n} it rained.", f"Rain {n}.") for n in range(12)]


@pytest.mark.parametrize(("asked", "together"), [(True, True), ("on", True), (False, False)])
def test_what_is_asked_for_is_done(study: Any, asked: Any, together: bool) -> None:
    """YAML reads on and off as true and false."""
    assert packing.choose_packing(study(together=asked), []).together is together


def test_auto_measures_here_and_leaves_the_base_as_it_was(study: Any) -> None:
    config = study()
    choice = packing.choose_packing(config, rows(config))
    way = "together" if choice.together else "alone"
    assert choice.why.startswith(f"trials are trained {way}: ")
    for measured in ("articles a second", "with 1, ", "with 2, ", "with 4 "):
        assert measured in choice.why
    base = load_base(config.model)
    assert not any(weight.requires_grad for weight in base.parameters())
    assert not any("forward" in vars(module) for module in base.modules())


@pytest.mark.parametrize(
    ("rates", "together", "max_packed"),
    [({1: 3.0, 2: 4.5, 4: 5.0}, True, None), ({1: 4.5, 2: 4.0}, True, 1), ({1: 4.3}, False, 1)],
)
def test_auto_takes_the_fastest(
    study: Any,
    monkeypatch: pytest.MonkeyPatch,
    rates: dict[int, float],
    together: bool,
    max_packed: int | None,
) -> None:
    monkeypatch.setattr(packing, "_rates", lambda *arguments: (4.0, rates))
    choice = packing.choose_packing(study(), [])
    assert (choice.together, choice.max_packed) == (together, max_packed)


def test_auto_trains_alone_what_cannot_be_trained_together(
    study: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*arguments: Any) -> Any:
        raise Failure("the base drops 0.1 of its own numbers")

    monkeypatch.setattr(packing, "_rates", refused)
    choice = packing.choose_packing(study(), [])
    assert not choice.together
    assert "the base drops 0.1" in choice.why


@pytest.mark.parametrize("search", [{"concurrent": 1}, {"trials": 1}])
def test_auto_measures_nothing_where_there_is_nothing_to_win(study: Any, search: Any) -> None:
    choice = packing.choose_packing(study(**search), [])
    assert (choice.together, choice.why) == (
        False,
        "trials are trained alone: there is one at a time",
    )


def test_auto_measures_nothing_where_the_search_ends_as_soon(study: Any) -> None:
    config = load.with_overrides(study(), {"train.max_examples": 50})
    assert "too few articles" in packing.choose_packing(config, []).why
