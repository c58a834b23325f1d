"""Artefacts are whole or absent, and current only while inputs and settings are."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers.killer import Killer

from nutgraf.core import files
from nutgraf.core.errors import Failure, UserError
from nutgraf.core.files import read_records, write_records
from nutgraf.storage import artefact as artefacts
from nutgraf.storage import work_claim
from nutgraf.storage.artefact import Artefact
from nutgraf.storage.run_folder import RunFolder
from nutgraf.storage.run_lock import run_lock


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


def test_what_was_made_from_another_input_is_refused_in_one_line(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    make(folder, "one")
    with folder.artefact("scores", outputs=["s.json"], inputs=["data:a"]).writing() as out:
        (out / "s.json").write_text("1")
    folder.check_made_from("scores", "data:a")
    make(folder, "two")
    with pytest.raises(Failure, match=r"^\S+scores was made from other data:a: run `nutgraf run"):
        folder.check_made_from("scores", "data:a")
    with pytest.raises(Failure, match=r"models/best has not been made: run `nutgraf run"):
        folder.check_made_from("models/best", "data:a")


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


def test_a_finished_file_is_hashed_once_and_again_when_it_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, hashed = RunFolder(tmp_path), list[str]()
    make(folder)
    file = tmp_path / "data" / "a.txt"
    os.utime(file, (1_000_000_000, 1_000_000_000))
    monkeypatch.setattr(files, "_SETTLED", 0)
    digest = hashlib.file_digest

    def counted(file: Any, name: str) -> Any:
        hashed.append(file.name)
        return digest(file, name)

    monkeypatch.setattr(hashlib, "file_digest", counted)
    assert all(folder.artefact("data").is_current for _ in range(3))
    assert hashed == [str(file)]
    file.write_text(file.read_text().swapcase())
    os.utime(file, (1_000_000_000, 1_000_000_000))  # as a program does that keeps times
    assert "a.txt is not as it was made" in (folder.artefact("data").outdated or "")


def test_a_deleted_file_is_made_again(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    make(folder)
    (tmp_path / "data" / "a.txt").unlink()
    assert not folder.artefact("data").is_current


def test_missing_input_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(Failure, match="has not been made: run `nutgraf run"):
        _ = RunFolder(tmp_path).artefact("search", inputs=["data"]).is_current


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


def test_a_setting_that_an_earlier_version_lacked_changes_nothing_while_it_is_off(
    tmp_path: Path,
) -> None:
    folder = RunFolder(tmp_path)
    make(folder)
    off = {"generate.max_sentences": None, "generate.whole_sentences": False}
    artefact = folder.artefact("data")
    again = dataclasses.replace(artefact, settings=artefact.settings | off)
    assert again.is_current
    for name, on in (("generate.max_sentences", 3), ("generate.whole_sentences", True)):
        changed = dataclasses.replace(again, settings=again.settings | {name: on})
        assert f"{name} was null, is now {json.dumps(on)}" in str(changed.outdated)
    changed_manifest(folder, settings=artefact.settings | {"generate.max_sentences": 3})
    assert "generate.max_sentences was 3, is now null" in str(again.outdated)


def test_what_was_made_otherwise_is_told(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    make(folder, settings={"train": {"seed": 1, "rate": 0.5}, "old": True})
    asked = folder.artefact("data", settings={"train": {"seed": 2, "rate": 0.5}, "old": True})
    assert asked.outdated == "train.seed was 1, is now 2"
    make(folder, settings=asked.settings)
    assert asked.is_current


def test_what_an_older_version_made_is_made_again_and_a_patch_is_no_other_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(tmp_path)
    monkeypatch.setattr(artefacts, "library_versions", lambda: {"nutgraf": "3.4.0"})
    make(folder)
    monkeypatch.setattr(artefacts, "__version__", "3.4.1")
    assert folder.artefact("data").is_current
    monkeypatch.setattr(artefacts, "__version__", "3.5.0")
    assert folder.artefact("data").outdated == "made by nutgraf 3.4.0, this is 3.5.0"


def test_a_file_changed_by_hand_is_not_taken_for_what_was_made(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    make(folder, "good")
    (tmp_path / "data" / "a.txt").write_text("evil")
    assert "a.txt is not as it was made" in (folder.artefact("data").outdated or "")
    make(folder, "good")
    assert folder.artefact("data").is_current


def test_a_manifest_tampered_with_is_not_believed(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    make(folder)
    changed_manifest(folder, files={})
    assert "has been changed" in (folder.artefact("data").outdated or "")
    make(folder)
    path = tmp_path / "manifests" / "data.json"
    for half in ("", path.read_text()[:40], "[]", "{}"):
        path.write_text(half)
        assert "is damaged" in (folder.artefact("data").outdated or "")
    path.write_text('{"artefact": ')
    with pytest.raises(Failure, match=r"data\.json is damaged .*: delete it"):
        folder.manifests()
    make(folder)
    assert folder.artefact("data").is_current


def make_two(folder: RunFolder, text: str) -> None:
    """Over an older version the folder has another file, which must not stay."""
    with two(folder, text).writing(resume=True) as out:
        (out / "both").mkdir(exist_ok=True)
        (out / "both" / f"{text}.txt").write_text(text)
        (out / "table.csv").write_text(text)


def two(folder: RunFolder, text: str) -> Artefact:
    return folder.artefact("two", outputs=["both", "table.csv"], settings={"text": text})


def version_there(folder: RunFolder) -> str | None:
    """Which version is there, by its manifest; that it is all of that version is checked."""
    if not folder.has("two"):
        return None
    text = folder.manifest("two")["settings"]["text"]
    assert two(folder, text).is_current
    assert [p.name for p in (folder / "both").iterdir()] == [f"{text}.txt"]
    assert (folder / "both" / f"{text}.txt").read_text() == text
    assert (folder / "table.csv").read_text() == text
    return str(text)


@pytest.mark.parametrize("over_an_old_version", [False, True])
def test_killed_at_any_operation_on_files_it_is_old_or_new_or_not_made_and_never_mixed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, over_an_old_version: bool
) -> None:
    killer = Killer(tmp_path, monkeypatch)
    states: list[str | None] = []
    whole = 0
    for left in range(1000):
        folder = RunFolder(tmp_path / str(left))
        if over_an_old_version:
            make_two(folder, "old")
        survived = killer.survives(left, lambda folder=folder: make_two(folder, "new"))
        states.append(version_there(folder))
        sealed = (folder / ".making" / "two" / "manifest.json").exists()
        whole += sealed
        # The next run is killed as well, in one case at every operation in turn until one is not.
        again = 0 if whole == 1 else 1000
        while not killer.survives(again, folder.recover):
            assert version_there(folder) in (states[-1], None, "new")
            again += 1
        if version_there(folder) != "new":
            assert not sealed  # what was sealed has not to be made again
            make_two(folder, "new")
        assert version_there(folder) == "new"
        assert not list((folder / ".making").iterdir())
        if survived:
            break
    seen = list(dict.fromkeys(states))
    assert seen == (["old", None, "new"] if over_an_old_version else [None, "new"])
    assert len(states) > 40
    assert whole > 10


def test_what_a_stopped_run_left_is_carried_on_only_by_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(tmp_path)
    make(folder)

    def stopped(resume: bool = True, **settings: object) -> list[str]:
        """What lies in the scratch at the start of an attempt that is stopped."""
        there: list[str] = []
        artefact = folder.artefact("search", inputs=["data"], settings=settings)
        with contextlib.suppress(KeyboardInterrupt), artefact.writing(resume=resume) as out:
            there = sorted(p.name for p in out.iterdir() if p.name != "claim.json")
            (out / f"{len(there)}.txt").write_text("half")
            raise KeyboardInterrupt
        return there

    assert stopped(rate=1) == []
    assert stopped(rate=1) == ["0.txt"]
    assert stopped(rate=1) == ["0.txt", "1.txt"]
    assert capsys.readouterr().err == ""
    assert stopped(rate=2) == []
    line = capsys.readouterr().err
    assert line == (
        "search: what a stopped run left is thrown away: settings.rate was 1, is now 2\n"
    )
    make(folder, "other data")
    assert stopped(rate=2) == []
    assert "thrown away: inputs.data was " in capsys.readouterr().err
    monkeypatch.setattr(artefacts, "library_versions", lambda: {"torch": "1.0"})
    assert stopped(rate=2) == []
    assert "versions.torch was " in capsys.readouterr().err
    (tmp_path / ".making" / "search" / "claim.json").write_text("{")
    assert stopped(rate=2) == []
    assert "claim.json is missing or damaged" in capsys.readouterr().err
    assert stopped(rate=2, resume=False) == []  # a stage that cannot carry on
    assert capsys.readouterr().err == ""


def test_work_goes_on_if_only_settings_have_changed_that_are_replayed(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    make(folder)

    def search(stop: bool, trials: int, rate: int = 1) -> list[str]:
        """What lies there at the start of an attempt."""
        settings = {"search.trials": trials, "rate": rate}
        artefact = folder.artefact(
            "search", inputs=["data:a"], settings=settings, replayed=["search.trials"]
        )
        with contextlib.suppress(KeyboardInterrupt), artefact.writing(resume=True) as out:
            (out / "search").mkdir(exist_ok=True)
            there = sorted(path.name for path in (out / "search").iterdir())
            (out / "search" / f"{trials}-{rate}").touch()
            if stop:
                raise KeyboardInterrupt
        assert stop or artefact.is_current
        return there

    assert search(True, 2) == []
    assert search(False, 3) == ["2-1"]  # after an interruption
    assert search(True, 5) == ["2-1", "3-1"]  # after its end, which stays until the new one's
    assert not (tmp_path / "search" / "5-1").exists()
    make(folder, "x")  # made again, it is the same
    assert search(False, 4) == ["2-1", "3-1", "5-1"]
    assert search(False, 4, rate=2) == []


def test_a_kill_while_it_is_thrown_away_leaves_nothing_that_is_carried_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killer = Killer(tmp_path, monkeypatch)
    survived = False
    for left in range(100):
        place = tmp_path / str(left)
        work_claim.claim_folder(place, {"n": 1}, "it")
        for name in "abc":
            (place / name).write_text("one")
        survived = killer.survives(
            left, lambda place=place: work_claim.claim_folder(place, {"n": 2}, "it")
        )
        work_claim.claim_folder(place, {"n": 1}, "it")  # as it was before
        assert {p.name for p in place.iterdir()} in ({"claim.json"}, {"claim.json", "a", "b", "c"})
        if survived:
            break
    assert survived


HOLD = """
import sys
from pathlib import Path
from nutgraf.storage.run_lock import run_lock
with run_lock(Path(sys.argv[1])):
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
        message = rf"in use by process {holder.pid} on {os.uname().nodename} since 20\d\d-"
        with pytest.raises(UserError, match=message), run_lock(tmp_path):
            pass
    finally:
        holder.kill()
        holder.communicate()
    assert (tmp_path / ".lock").exists()
    with run_lock(tmp_path):
        assert f"process {os.getpid()} " in (tmp_path / ".lock").read_text()
