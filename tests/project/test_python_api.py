"""From Python: the examples of docs/python.md, and what they promise."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from helpers.places import ROOT

import nutgraf
from nutgraf import api
from nutgraf.config import Config
from nutgraf.config.load import load_config, shipped_configs
from nutgraf.core import hub as hub_module
from nutgraf.modeling import base_files
from nutgraf.pipeline import runner

ARTICLE = "The council of Garehouse met on Monday. It voted for 2,500 new homes. The mayor spoke."


@pytest.fixture
def runs(tmp_path: Path, final_best_model: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which `runs/mine` holds a model."""
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    (tmp_path / "runs" / "mine" / "final_best_model").symlink_to(final_best_model)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_importing_is_light_and_quick() -> None:
    code = (
        "import sys, time\nbegan = time.process_time()\nimport nutgraf\n"
        "print(time.process_time() - began, *sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds, *modules = done.stdout.split()
    assert float(seconds) < 0.1
    assert not {"torch", "numpy", "pydantic", "yaml", "nutgraf.api"} & set(modules)


def test_every_public_name_is_there_and_no_other() -> None:
    assert all(getattr(nutgraf, name) is getattr(api, name) for name in nutgraf.__all__)
    assert nutgraf.__all__ == api.__all__
    with pytest.raises(AttributeError, match="no attribute 'summarise'"):
        nutgraf.summarise  # noqa: B018


def test_the_examples_of_the_document_run(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[Config] = []
    real = runner.run_study

    def only_stages(config: Config, stages: Any, force: bool = False) -> bool:
        asked.append(config)  # a whole study takes minutes: tests/project/test_wheel.py
        return tuple(stages) == tuple(runner.STAGES) or real(config, stages, force)

    monkeypatch.setattr(runner, "run_study", only_stages)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/python.md").read_text(), re.S)
    assert len(blocks) == 8
    names: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks:
        exec(compile(block, "docs/python.md", "exec"), names)
    printed = capsys.readouterr().out
    assert str(names["summary"]) in printed
    assert "runs/mine/report.html" in printed
    assert "did you mean" in printed
    assert "learning_rate" in printed
    assert [config.train.learning_rate for config in asked] == [1e-3, 2e-3]
    assert (runs / "runs" / "small" / "data" / "card.json").is_file()


def test_several_summaries_are_those_of_one_at_a_time_and_streamed(runs: Path) -> None:
    articles = [ARTICLE, ARTICLE.replace("2,500", "90")]
    with nutgraf.Summarizer("runs/mine") as first, nutgraf.Summarizer("runs/mine") as second:
        both = first.summarize(articles)
        assert [str(one) for one in both] == [second.summarize(a).summary for a in articles]
        assert "".join(second.stream(ARTICLE)) == both[0].summary
        assert first.summarize([]) == []
        with pytest.raises(nutgraf.UserError, match=r"^article 2 is empty: give its text$"):
            first.summarize([ARTICLE, " "])
        with pytest.raises(nutgraf.UserError, match=r"^sentences is 0: give 1 or more"):
            first.stream(ARTICLE, sentences=0)


def test_a_closed_summarizer_says_so_and_may_be_closed_again(runs: Path) -> None:
    with nutgraf.Summarizer("runs/mine") as summarizer:
        pass
    summarizer.close()
    for write in (summarizer.summarize, summarizer.stream):
        with pytest.raises(nutgraf.UserError, match=r"^this Summarizer is closed: make"):
            write(ARTICLE)


def test_flags_without_articles_are_refused() -> None:
    with pytest.raises(nutgraf.UserError, match=r"^flags is True and there are no articles: give"):
        nutgraf.score(["A road."], ["A road."], flags=True)


def test_scores_are_typed_and_without_articles_there_are_no_indicators() -> None:
    scores = nutgraf.score(["A new road opened."], ["A new road opened."])
    assert (scores.n, scores.rouge1.mean, scores.indicators) == (1, 100.0, {})
    assert math.isnan(scores.rouge1.low)
    table = pd.DataFrame({"ours": ["The road closed."], "gold": ["The road closes."]})
    flagged = nutgraf.score(table["ours"], table["gold"], ["A road in Oslo."], flags=True)
    assert flagged.rouge1.precision == flagged.rows[0]["rouge1"] == 100
    assert [flag["kind"] for flag in flagged.rows[0]["flags"]] == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((["a"], ["b", "c"]), "1 summaries, 2 references: give equally many, at least one"),
        (([], []), "0 summaries, 0 references: give equally many, at least one"),
        (("a b", "a b"), "summaries is one text, 'a b': give a list of texts"),
        (
            (["a"], [math.nan]),
            "row 1: the reference is missing: correct it or leave the row out",
        ),
        ((["a"], [" "]), "row 1: the reference is empty: correct it or leave the row out"),
        ((["a"], ["b"], [None]), "row 1: the article is missing: correct it or leave the row out"),
    ],
)
def test_what_cannot_be_scored_is_named(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(nutgraf.UserError) as error:
        nutgraf.score(*arguments)
    assert str(error.value) == message


def test_settings_are_those_of_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[Config, Any]] = []
    monkeypatch.setattr(runner, "run_study", lambda c, stages, force: asked.append((c, stages)))
    folder = tmp_path / "mine"
    dotted = {"search.space.lora.r": {"choices": [4, 8]}}
    assert nutgraf.run("tinyllama-cnndm", run=str(folder), train__seeds=[1], **dotted) == folder
    words = {"run": str(folder), "train.seeds": "[1]", "search.space.lora.r": "{choices: [4, 8]}"}
    assert asked.pop()[0] == load_config(Path("tinyllama-cnndm"), words)
    folder.mkdir()
    (folder / "config.yaml").write_text("search: {trials: 7}")
    nutgraf.run(run=str(folder), stages=["search"])
    config, stages = asked.pop()
    assert (config.search.trials, stages) == (7, ("search",))
    with pytest.raises(nutgraf.UserError, match=r"^'serch' is no stage: there are prepare, search"):
        nutgraf.run(stages=["serch"])


@pytest.mark.parametrize(
    ("has_gpu", "has_wheel", "hub", "data", "config"),
    [
        (True, False, False, [], "tinyllama-cnndm"),
        (False, False, True, [], "smollm2"),
        (False, True, False, ["run", "data.train"], "smollm2"),
        (False, True, False, ["run"], "pocket"),
        (False, False, False, ["data.train"], "pocket"),
    ],
)
def test_the_configuration_for_a_machine(
    has_gpu: bool,
    has_wheel: bool,
    hub: bool,
    data: list[str],
    config: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    monkeypatch.setattr(base_files, "has_smollm2_wheel", lambda: has_wheel)
    monkeypatch.setattr(hub_module, "connection_error", lambda: None if hub else "no route")
    assert nutgraf.suggest_config(data) == config
    assert config in shipped_configs()
