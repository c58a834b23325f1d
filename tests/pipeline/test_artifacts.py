"""What the artefacts of a study depend on, read from files as they are now."""

from __future__ import annotations

from pathlib import Path

import pytest

from nutgraf.config.load import build_config
from nutgraf.core.errors import UserError
from nutgraf.pipeline import artifacts
from nutgraf.storage.run_folder import RunFolder


@pytest.mark.parametrize(
    "files",
    [
        {"config.json": "[]", "model.safetensors": ""},
        {"config.json": "{", "model.safetensors": ""},
        {"config.json": "{}", "model.safetensors.index.json": "{}"},
        {"config.json": "{}", "model.safetensors.index.json": "[]"},
        {"config.json": "{}"},
    ],
    ids=["a list", "torn", "an index without weights", "a list as index", "no weights"],
)
def test_a_rival_with_damaged_files_is_named_in_one_line(
    tmp_path: Path, files: dict[str, str]
) -> None:
    rival = tmp_path / "bart"
    rival.mkdir()
    for name, content in files.items():
        (rival / name).write_text(content)
    config = build_config({"rivals": {"bart": {"model": str(rival)}}})
    said = (
        r"^rivals\.bart\.model '\S+/bart' could not be read \(.+\): give a folder with weights in "
        r"safetensors$"
    )
    with pytest.raises(UserError, match=said) as caught:
        artifacts.generate(config, RunFolder(tmp_path / "run"))
    assert "\n" not in str(caught.value)
