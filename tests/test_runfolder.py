"""Artefacts are whole or absent, and current only while inputs and settings are."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nutgraf.lock import held
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


def changed_manifest(folder: RunFolder, **changes: Any) -> None:
    path = folder / "manifests" / "data.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_what_was_made_otherwise_is_named_and_made_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = RunFolder(tmp_path)
    make(folder, settings={"train": {"seed": 1, "rate": 0.5}, "old": True})
    assert capsys.readouterr().err == ""
    asked = {"train": {"seed": 2, "rate": 0.5}, "old": True}
    make(folder, settings=asked)
    assert "data is made again: train.seed was 1, is now 2\n" in capsys.readouterr().err
    assert folder.artefact("data", settings=asked).is_current


def test_a_file_changed_by_hand_is_not_taken_for_what_was_made(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    make(folder, "good")
    (tmp_path / "data" / "a.txt").write_text("evil")
    assert "a.txt is not as it was made" in (folder.artefact("data").stale or "")
    make(folder, "good")
    assert folder.artefact("data").is_current


def test_a_manifest_tampered_with_is_not_believed(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    make(folder)
    changed_manifest(folder, files={})
    assert "has been changed" in (folder.artefact("data").stale or "")
    make(folder)
    path = tmp_path / "manifests" / "data.json"
    for half in ("", path.read_text()[:40], "[]", "{}"):
        path.write_text(half)
        assert "is damaged" in (folder.artefact("data").stale or "")
    path.write_text('{"artefact": ')
    with pytest.raises(Failure, match=r"data\.json is damaged .*: delete it"):
        folder.manifests()
    make(folder)
    assert folder.artefact("data").is_current


def test_killed_at_any_step_of_moving_it_is_whole_or_not_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stops at each step in turn: never a manifest beside files that it does not name."""
    from nutgraf import runfolder

    class Killed(BaseException):
        pass

    steps = 0
    for stop in range(1, 100):
        folder = RunFolder(tmp_path / str(stop))
        make(folder, "old")
        steps = 0

        def step(real: Any, stop: int = stop) -> Any:
            def call(*args: Any) -> Any:
                nonlocal steps
                steps += 1
                if steps == stop:
                    raise Killed
                return real(*args)

            return call

        with monkeypatch.context() as patch:
            for name in ("_sync", "_move"):
                patch.setattr(runfolder, name, step(getattr(runfolder, name)))
            try:
                make(folder, "new")
            except Killed:
                done = False
            else:
                done = True
        text = (folder / "data" / "a.txt").read_text() if folder.artefact("data").is_current else ""
        assert text in ("", "old", "new")
        if done:
            assert text == "new"
            break
    assert steps >= 4


HOLD = """
import sys
from pathlib import Path
from nutgraf.lock import held
with held(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_run_says_who_holds_the_folder_and_a_dead_one_holds_nothing(
    tmp_path: Path,
) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert holder.stdout
        assert holder.stdout.readline() == "held\n"
        found = rf"in use by process {holder.pid} on {os.uname().nodename} since 20\d\d-"
        with pytest.raises(UserError, match=found), held(tmp_path):
            pass
    finally:
        holder.kill()
        holder.communicate()
    assert (tmp_path / ".lock").exists()
    with held(tmp_path):
        assert f"process {os.getpid()} " in (tmp_path / ".lock").read_text()
