"""A study in a storage, as the page for watching sees it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from helpers.watched import TRIALS, write_search, write_trial

from nutgraf.storage import remote_lease
from nutgraf.storage.remote_copy import RemoteCopy, read_index
from nutgraf.storage.remote_files import RemoteFiles
from nutgraf.storage.remote_view import RemoteView
from nutgraf.storage.run_folder import RunFolder
from nutgraf.watching.snapshot import Watcher


def test_a_study_in_a_storage_is_seen_as_in_its_folder(tmp_path: Path) -> None:
    run, there, here = (tmp_path / name for name in ("run", "storage", "here"))
    write_search(run)
    shutil.rmtree(run / "manifests")
    (run / "log.jsonl").write_text("")
    (run / TRIALS / "1" / "adapter.safetensors").write_bytes(b"weights")
    copy, lease = RemoteCopy(str(there), run), remote_lease.Lease(RemoteFiles(str(there)))
    assert copy.push()
    view = RemoteView(str(there), here)
    view.update()
    watcher = Watcher(here, view.holder, view.uri)
    seen = watcher._take()
    assert (seen["state"], seen["folder"]) == ("stopped", str(there))
    assert [trial["state"] for trial in seen["trials"].values()] == [
        "completed", "stopped", "error", "interrupted", "queued",
    ]  # fmt: skip
    assert seen["trials"]["4"]["seen"] == 120
    assert (here / TRIALS / "4" / "adapter.samples.json").exists()
    assert not list(here.rglob("*.safetensors"))
    lease._write()
    write_trial(run, 4, [2.8, 2.4])
    assert copy.push()
    view.update()
    seen = watcher._take()
    assert seen["holder"].startswith("process ")
    assert (seen["trials"]["4"]["state"], seen["trials"]["4"]["seen"]) == ("running", 160)
    # The search is finished, and is no longer among the unfinished.
    artefact = RunFolder(run).artefact("search")
    with artefact.writing() as out:
        (out / "search").mkdir()
        (out / "search" / "trials.csv").write_text("trial,status\n")
    assert copy.push()
    view.update()
    assert watcher._take()["stages"][1]["state"] == "finished"
    assert not (here / ".making" / "search").exists()


def test_what_is_gone_between_listing_and_reading_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, there, here = (tmp_path / name for name in ("run", "storage", "here"))
    write_search(run)
    shutil.rmtree(run / "manifests")
    for name in ("data", "comparison"):
        with RunFolder(run).artefact(name).writing() as out:
            (out / name).mkdir()
            (out / name / "card.json").write_text("{}")
    assert RemoteCopy(str(there), run).push()
    read = RemoteFiles.read

    def gone(files: RemoteFiles, name: str) -> bytes | None:
        """As if the study had deleted these since they were listed."""
        if name in (".making/search.json", "manifests/comparison.json"):
            files.delete(name)
        return read(files, name)

    monkeypatch.setattr(RemoteFiles, "read", gone)
    view = RemoteView(str(there), here)
    view.update()
    assert [path.name for path in (here / "manifests").iterdir()] == ["data.json"]
    assert not (here / ".making" / "search").exists()
    view.update()


def test_an_index_that_is_gone_is_not_taken_for_a_damaged_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"^manifests/data\.json of storage "):
        read_index(RemoteFiles(str(tmp_path)), "manifests/data.json")
