"""The log that a study leaves in its run folder."""

from __future__ import annotations

import json
import logging
import signal
from pathlib import Path

import pytest

from nutgraf.core.errors import Failure
from nutgraf.core.signals import Stopped
from nutgraf.pipeline.run_log import logged

LOGGER = logging.getLogger("nutgraf.somewhere")


def lines(folder: Path) -> list[tuple[str, str, str]]:
    rows = map(json.loads, (folder / "log.jsonl").read_text().splitlines())
    return [(row["level"], row["stage"], row["text"]) for row in rows]


@pytest.mark.parametrize(
    ("error", "last"),
    [
        (Failure("the loss is nan: lower it"), ("error", "the loss is nan: lower it")),
        (Stopped(signal.SIGTERM), ("warning", "stopped by SIGTERM")),
        (KeyError("x\x1b[2J"), ("error", r"KeyError: 'x\x1b[2J'")),
        (OSError(28, "No space left on device", "/a"), ("error", "No space left on device: /a")),
    ],
    ids=["failure", "signal", "bug", "disk"],
)
def test_the_log_has_what_ended_a_study(
    tmp_path: Path, error: BaseException, last: tuple[str, str]
) -> None:
    def study() -> None:
        with logged(tmp_path) as log:
            log.stage = "search"
            LOGGER.warning("first\nsecond hf_%s", "a" * 30)
            raise error

    with pytest.raises(type(error)):
        study()
    LOGGER.warning("after")
    begin, warning, end = lines(tmp_path)
    assert begin[2].startswith("begins: process ")
    assert warning == ("warning", "search", "first second …")
    assert end == (last[0], "search", last[1])


def test_who_shows_warnings_alone_still_does_and_the_log_has_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    package = logging.getLogger("nutgraf")
    level = package.level
    monkeypatch.setattr(package, "handlers", [])  # a script that has set up no logging:
    monkeypatch.setattr(package, "propagate", False)  # pytest's handlers are further up
    package.setLevel(logging.WARNING)
    try:
        with logged(tmp_path):
            LOGGER.info("a step")
            LOGGER.warning("careful")
        LOGGER.info("after")
    finally:
        package.setLevel(level)
    assert capsys.readouterr().err == "careful\n"
    assert [text for _, _, text in lines(tmp_path)[1:-1]] == ["a step", "careful"]


def test_a_log_that_cannot_grow_stops_no_study(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with logged(tmp_path):
        (tmp_path / "log.jsonl").unlink()
        (tmp_path / "log.jsonl").mkdir()
        LOGGER.warning("one")
        LOGGER.warning("two")
    assert caplog.text.count("log.jsonl gets no more lines: Is a directory") == 1


@pytest.mark.parametrize("torn", [1, 9], ids=["its end", "a part of its text"])
def test_a_line_that_a_kill_tore_takes_none_of_the_next_session_with_it(
    tmp_path: Path, torn: int
) -> None:
    path = tmp_path / "log.jsonl"
    with logged(tmp_path):
        LOGGER.warning("careful")
    before = path.read_bytes()[:-torn]
    path.write_bytes(before)
    with logged(tmp_path):
        pass
    assert path.read_bytes().startswith(before + b"\n")
    begin, end = map(json.loads, path.read_bytes()[len(before) + 1 :].splitlines())
    assert begin["text"].startswith("begins: process ")
    assert end["text"].startswith("ends: ")


def test_a_log_with_whole_lines_gets_no_empty_one(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").touch()
    for _ in range(2):
        with logged(tmp_path):
            pass
    assert len(lines(tmp_path)) == 4
