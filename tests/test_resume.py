"""A study that is stopped anywhere carries on with the same command and ends the same."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest

from nutgraf import study
from nutgraf.runfolder import Artefact, RunFolder
from nutgraf.settings import Config

# What is made again.


class Stage:
    """A stage of one artefact, which is stopped in the middle as long as `stops` is set."""

    def __init__(self, name: str, inputs: list[str], section: str) -> None:
        self.name, self.inputs, self.section, self.stops = name, inputs, section, False

    def artefacts(self, config: Config, folder: RunFolder) -> list[Artefact]:
        settings = config.model_dump(mode="json", include={self.section})
        return [folder.artefact(self.name, inputs=self.inputs, settings=settings)]

    def run(self, config: Config, folder: RunFolder, force: bool) -> bool:
        (made,) = self.artefacts(config, folder)
        if made.is_current:
            return False
        with made.writing(resume=True) as out:
            (out / self.name).write_text(str(made.settings))
            if self.stops:
                raise KeyboardInterrupt
        return True


def test_what_is_made_again_and_why_is_told_before_anything_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stages = {
        "prepare": Stage("data", [], "data"),
        "search": Stage("search", ["data"], "search"),
        "train": Stage("models", ["data", "search"], "train"),
    }
    monkeypatch.setattr(study, "_stage", stages.__getitem__)

    def told(**changes: Any) -> list[str]:
        config = Config.model_validate({"run": str(tmp_path), **changes})
        with contextlib.suppress(KeyboardInterrupt):
            study.run(config, tuple(stages))
        lines = capsys.readouterr().err.splitlines()
        begun = next(i for i, line in enumerate(lines) if line.startswith("[1/7]"))
        return lines[:begun]

    assert told() == []
    assert told() == []
    stages["train"].stops = True
    assert told(search={"trials": 6}) == [
        "search is made again: search.trials was 4, is now 6",
        "models is made again: it follows search",
    ]
    assert told(search={"trials": 6}) == ["models is made again: changed: search"]
    assert told(search={"trials": 6}, train={"eval_every": 64}) == [
        "models is made again: changed: search",
        "models, half made, is thrown away: settings.train.eval_every was 224, is now 64",
    ]
    assert told(search={"trials": 7}, train={"eval_every": 64}) == [
        "search is made again: search.trials was 6, is now 7",
        "models is made again: it follows search",
        "models, half made, is thrown away: it follows search",
    ]
