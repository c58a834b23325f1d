"""Artefacts are whole or absent, and current only while inputs and settings are."""

from __future__ import annotations

from pathlib import Path

import pytest

from nutgraf.problems import Failure, UserError
from nutgraf.runfolder import RunFolder, read_records, write_records


def make(folder: RunFolder, text: str = "x", **kwargs: object) -> None:
    with folder.artefact("data", **kwargs).writing() as out:
        (out / "data").mkdir()
        (out / "data" / "a.txt").write_text(text)


def test_current_after_writing_and_not_before(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert not folder.artefact("data", settings={"n": 1}).is_current
    make(folder, settings={"n": 1})
    assert folder.artefact("data", settings={"n": 1}).is_current
    assert not folder.artefact("data", settings={"n": 2}).is_current


def test_changed_input_makes_what_follows_stale(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    make(folder, "one")
    with folder.artefact("scores", outputs=["s.json"], inputs=["data"]).writing() as out:
        (out / "s.json").write_text("1")
    assert folder.artefact("scores", outputs=["s.json"], inputs=["data"]).is_current
    make(folder, "one")
    assert folder.artefact("scores", outputs=["s.json"], inputs=["data"]).is_current
    make(folder, "two")
    assert not folder.artefact("scores", outputs=["s.json"], inputs=["data"]).is_current


def test_failure_leaves_what_was_there(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    make(folder, "good")

    def interrupted() -> None:
        with folder.artefact("data").writing() as out:
            (out / "data").mkdir()
            (out / "data" / "a.txt").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert (tmp_path / "data" / "a.txt").read_text() == "good"
    assert folder.artefact("data").is_current


def test_an_output_that_was_not_written_is_a_failure(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with (
        pytest.raises(Failure, match=r"b\.txt was not written"),
        folder.artefact("x", outputs=["a.txt", "b.txt"]).writing() as out,
    ):
        (out / "a.txt").write_text("")
    assert not (tmp_path / "a.txt").exists()


def test_a_deleted_file_is_made_again(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    make(folder)
    (tmp_path / "data" / "a.txt").unlink()
    assert not folder.artefact("data").is_current


def test_missing_input_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(Failure, match="has not been made: run `nutgraf run"):
        RunFolder(tmp_path).artefact("search", inputs=["data"])


def test_records_keep_any_text(tmp_path: Path) -> None:
    rows = [{"id": "1", "text": "line\u2028separator\x85 and \n newline"}, {"id": "é", "text": ""}]
    write_records(tmp_path / "r.jsonl", rows)
    assert read_records(tmp_path / "r.jsonl") == rows


def test_a_broken_record_is_named(tmp_path: Path) -> None:
    (tmp_path / "r.jsonl").write_text('{"id": 1}\n{"id": \n')
    with pytest.raises(UserError, match="line 2 is not JSON"):
        read_records(tmp_path / "r.jsonl")
