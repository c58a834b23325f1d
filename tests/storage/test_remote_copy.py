"""A run folder and its copy: it comes back whole, whoever was killed in putting it there."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nutgraf.core.errors import Failure, UserError
from nutgraf.storage import work_claim
from nutgraf.storage.artefact import Artefact
from nutgraf.storage.remote_copy import RemoteCopy
from nutgraf.storage.remote_files import RemoteFiles
from nutgraf.storage.run_folder import RunFolder


@pytest.fixture(autouse=True)
def memory_is_a_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kills here are of the process: nothing is lost for want of an fsync, which takes the time."""
    monkeypatch.setattr("os.fsync", lambda _: None)


def two(folder: RunFolder, text: str) -> Artefact:
    return folder.artefact("two", outputs=["both", "table.csv"], settings={"text": text})


def make_two(folder: RunFolder, text: str) -> None:
    """Over another version the folder has another file, which must not stay."""
    with two(folder, text).writing(resume=True) as out:
        (out / "both").mkdir(exist_ok=True)
        (out / "both" / f"{text}.txt").write_text(text)
        (out / "both" / "same.txt").write_text(text)
        (out / "table.csv").write_text(text)


def version(folder: RunFolder) -> str | None:
    """Which version is there, by its manifest; that it is all of that version is checked."""
    if not folder.has("two"):
        return None
    text = str(folder.manifest("two")["settings"]["text"])
    assert two(folder, text).is_current
    assert {p.name for p in (folder / "both").iterdir()} == {f"{text}.txt", "same.txt"}
    return text


def unfinished(folder: RunFolder, rate: int, *rows: str) -> Path:
    """A journal and a checkpoint of a search that was stopped."""
    place = folder.path / ".making" / "search"
    work_claim.claim_folder(place, {"rate": rate}, "search")
    with (place / "rows.part").open("a") as journal:
        journal.writelines(f"{rate} {row}\n" for row in rows)
    (place / "trials" / "1").mkdir(parents=True, exist_ok=True)
    (place / "trials" / "1" / "trial.json").write_text(f"{rate}")
    return place


def contents(place: Path) -> dict[str, str]:
    """All files below a folder, those of the copy itself left out."""
    paths = [p for p in place.rglob("*") if p.is_file() and ".remote" not in p.parts]
    return {p.relative_to(place).as_posix(): p.read_text() for p in paths}


def fetched(uri: str, place: Path) -> RunFolder:
    """The study as another machine gets it."""
    shutil.rmtree(place, ignore_errors=True)
    RemoteCopy(uri, place).pull()
    return RunFolder(place)


def test_what_is_made_here_comes_back_elsewhere(uri: str, tmp_path: Path) -> None:
    here = RunFolder(tmp_path / "here")
    copy = RemoteCopy(uri, here.path)
    make_two(here, "old")
    assert copy.push()
    make_two(here, "new")
    unfinished(here, 1, "a", "b")
    (here / "tensorboard" / "best").mkdir(parents=True)
    (here / "tensorboard" / "best" / "events").write_text("curve")
    (here / "config.yaml").write_text("run: here\n")
    assert copy.push()
    there = fetched(uri, tmp_path / "there")
    assert version(there) == "new"
    assert contents(there.path) == contents(here.path)
    assert not (here / ".remote" / "staged").exists()
    make_two(here, "newer")
    shutil.rmtree(here / ".making" / "search")
    assert RemoteCopy(uri, here.path).push()  # of another process
    again = fetched(uri, tmp_path / "again")
    assert version(again) == "newer"
    assert contents(again.path) == contents(here.path)
    assert not RemoteFiles(uri).names(".making")


def test_what_has_not_changed_does_not_travel(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = RunFolder(tmp_path / "here")
    make_two(here, "new")
    place = unfinished(here, 1, "a")
    copy = RemoteCopy(bucket, here.path)
    copy.push()
    moved: list[str] = []
    put = RemoteFiles._put
    monkeypatch.setattr(RemoteFiles, "get", lambda self, name, _: moved.append(name))
    monkeypatch.setattr(
        RemoteFiles, "_put", lambda self, name, file: moved.append(name) or put(self, name, file)
    )
    assert copy.push()
    again = RemoteCopy(bucket, here.path)
    again.pull(over=False)
    assert moved == []
    (place / "trials" / "1" / "trial.json").write_text("evaluated")
    assert again.push()
    hashed = hashlib.sha256(b"evaluated").hexdigest()
    assert moved == [f".making/search/{hashed}", ".making/search.json"]


class Killed(BaseException):
    """The end of a process in a test."""


def killed_everywhere(
    monkeypatch: pytest.MonkeyPatch,
    prepare: Callable[[], RemoteCopy],
    look: Callable[[], None],
) -> int:
    """Kill the push of what `prepare` gives at each operation on the storage in turn."""
    left = 0

    def dying(work: Callable[..., Any]) -> Callable[..., Any]:
        def step(*args: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                raise Killed
            return work(*args)

        return step

    for kill in range(100):
        copy = prepare()
        left = kill
        with monkeypatch.context() as patch:
            patch.setattr(RemoteFiles, "_put", dying(RemoteFiles._put))
            patch.setattr(RemoteFiles, "delete", dying(RemoteFiles.delete))
            try:
                copy.push()
                survived = True
            except Killed:
                survived = False
        look()
        if survived:
            return kill
    raise AssertionError("it never came to its end")


def test_killed_at_any_operation_a_study_elsewhere_is_old_or_new_or_not_made_and_never_mixed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri, here = str(tmp_path / "kept"), RunFolder(tmp_path / "here")
    seen = []

    def prepare() -> RemoteCopy:
        copy = RemoteCopy(uri, here.path)
        make_two(here, "old")
        assert copy.push()
        make_two(here, "newer")
        return copy

    def look() -> None:
        files = RemoteFiles(uri)  # where a manifest is, all that it names is there as it says
        content = files.read("manifests/two.json")
        for name, hashed in (json.loads(content)["files"] if content else {}).items():
            assert hashlib.sha256(files.read(name) or b"").hexdigest() == hashed
        seen.append(version(fetched(uri, tmp_path / "there")))
        assert RemoteCopy(uri, here.path).push()  # of another process, which goes on
        assert version(fetched(uri, tmp_path / "there")) == "newer"

    assert killed_everywhere(monkeypatch, prepare, look) > 4
    assert list(dict.fromkeys(seen)) == ["old", None, "newer"]


def test_killed_at_any_operation_unfinished_work_is_the_old_or_the_new_and_always_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri, here = str(tmp_path / "kept"), RunFolder(tmp_path / "here")
    seen, states = [], list[dict[str, str]]()

    def prepare() -> RemoteCopy:
        copy = RemoteCopy(uri, here.path)
        states.clear()
        for rate, row in ((1, "a"), (22, "c")):
            if states:
                assert copy.push()
            states.append(contents(unfinished(here, rate, row)))
        return copy

    def look() -> None:
        place = fetched(uri, tmp_path / "there") / ".making" / "search"
        seen.append(states.index(contents(place)))

    assert killed_everywhere(monkeypatch, prepare, look) > 3
    assert list(dict.fromkeys(seen)) == [0, 1]


def test_work_that_becomes_an_artefact_is_in_the_storage_all_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri, here = str(tmp_path / "kept"), RunFolder(tmp_path / "here")

    def prepare() -> RemoteCopy:
        for place in (here.path, Path(uri)):
            shutil.rmtree(place, ignore_errors=True)
        copy = RemoteCopy(uri, here.path)
        work_claim.claim_folder(here.path / ".making" / "two", two(here, "newer")._claim(), "two")
        (here.path / ".making" / "two" / "rows.part").write_text("row\n")
        assert copy.push()
        make_two(here, "newer")
        return copy

    def look() -> None:
        there = fetched(uri, tmp_path / "there")
        work = there.path / ".making" / "two" / "rows.part"
        assert version(there) == "newer" or work.read_text() == "row\n"

    assert killed_everywhere(monkeypatch, prepare, look) > 4


def test_what_is_half_written_and_what_cannot_be_carried_on_stays_here(tmp_path: Path) -> None:
    uri, here = str(tmp_path / "kept"), RunFolder(tmp_path / "here")
    place = unfinished(here, 1, "a")
    expected = contents(place)
    for name in (".lock", ".trial.json.part", "half-written/checkpoint-4/model", ".ray/socket"):
        (place / name).parent.mkdir(exist_ok=True, parents=True)
        (place / name).write_text("half")
    unclaimed = here.path / ".making" / "data"
    unclaimed.mkdir()
    (unclaimed / "train.parquet").write_text("half")
    assert RemoteCopy(uri, here.path).push()
    there = fetched(uri, tmp_path / "there").path
    assert contents(there) == {f".making/search/{name}": text for name, text in expected.items()}


@pytest.mark.parametrize("change", ["replaced", "grown", "gone"])
def test_what_changes_on_its_way_is_as_it_was_before_or_goes_the_next_time(
    change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A snapshot is of one moment, whatever the trials go on to write."""
    uri, here = str(tmp_path / "kept"), RunFolder(tmp_path / "here")
    place = unfinished(here, 1, "a")
    before = contents(place)
    put = RemoteFiles.put

    def meanwhile(self: RemoteFiles, name: str, source: Path) -> str:
        if change == "replaced":
            unfinished(here, 22, "c")
        elif change == "grown":
            with (place / "rows.part").open("a") as journal:
                journal.write("1 b\n1")
        else:
            shutil.rmtree(place, ignore_errors=True)
        return put(self, name, source)

    copy = RemoteCopy(uri, here.path)
    with monkeypatch.context() as patch:
        patch.setattr(RemoteFiles, "put", meanwhile)
        copy.push()
    assert contents(fetched(uri, tmp_path / "there") / ".making" / "search") == before
    assert copy.push()
    assert contents(fetched(uri, tmp_path / "there").path) == contents(here.path)


def test_what_changes_while_it_is_listed_goes_the_next_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri, here = str(tmp_path / "kept"), RunFolder(tmp_path / "here")
    unfinished(here, 1, "a")
    with monkeypatch.context() as patch:
        patch.setattr("os.link", lambda *_: unfinished(here, 22, "c"))
        assert not RemoteCopy(uri, here.path).push()
    assert not RemoteFiles(uri).names()


def test_the_storage_wins_and_what_only_this_folder_has_stays(bucket: str, tmp_path: Path) -> None:
    one, other = RunFolder(tmp_path / "one"), RunFolder(tmp_path / "other")
    make_two(one, "old")
    unfinished(one, 1, "a", "b")
    assert RemoteCopy(bucket, one.path).push()
    fetched(bucket, other.path)
    make_two(other, "new")
    place = unfinished(other, 1, "c")
    (place / "trials" / "1" / "trial.json").unlink()
    assert RemoteCopy(bucket, other.path).push()
    make_two(one, "lost")
    unfinished(one, 1, "lost")
    with one.artefact("data").writing() as out:
        (out / "data").write_text("only here")
    RemoteCopy(bucket, one.path).pull(over=False)
    assert version(one) == "lost"
    RemoteCopy(bucket, one.path).pull()
    assert version(one) == "new"
    assert one.artefact("data").is_current
    assert contents(one.path / ".making") == contents(other.path / ".making")


def test_without_over_what_is_missing_here_is_fetched_and_what_is_sealed_here_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri, here = str(tmp_path / "kept"), RunFolder(tmp_path / "here")
    make_two(here, "old")
    copy = RemoteCopy(uri, here.path)
    copy.push()
    for name in ("both", "manifests"):
        shutil.rmtree(here / name)
    copy.pull(over=False)
    assert version(here) == "old"

    def killed(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("nutgraf.storage.artefact.move", killed)  # its old manifest is gone by then
        with pytest.raises(Killed):
            make_two(here, "new")
    copy.pull(over=False)
    assert version(here) == "new"


def test_a_file_damaged_or_gone_in_the_storage_is_told_and_its_artefact_not_taken(
    bucket: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here, files = RunFolder(tmp_path / "here"), RemoteFiles(bucket)
    make_two(here, "old")
    unfinished(here, 1, "a")
    RemoteCopy(bucket, here.path).push()
    (work,) = [n for n in files.names(".making/search") if files.read(n) == b"1 a\n"]
    for name in ("table.csv", work):
        files.write(name, b"evil")
    there = fetched(bucket, tmp_path / "there")
    assert version(there) is None
    assert not (there / ".making" / "search").exists()
    stderr = capsys.readouterr().err
    assert "two is not fetched from s3://" in stderr
    assert "table.csv is not as it was made" in stderr
    assert "rows.part is not as it was made" in stderr
    files.delete("table.csv")
    assert version(fetched(bucket, tmp_path / "there")) is None
    assert "table.csv is missing" in capsys.readouterr().err


def test_names_in_a_storage_do_not_lead_out_of_the_folder(uri: str, tmp_path: Path) -> None:
    files = RemoteFiles(uri)
    for outside in ("../outside", "/tmp/outside"):
        manifest = {"artefact": "x", "outputs": [outside], "files": {outside: "0"}}
        for name in ("manifests/x.json", ".making/x.json"):
            files.write(name, json.dumps(manifest).encode())
            with pytest.raises(Failure, match=r"a file named '.*outside': delete it there"):
                fetched(uri, tmp_path / "there")
            files.delete(name)
    files.write("manifests/x.json", b"{}")
    with pytest.raises(Failure, match=r"manifests/x.json of storage .* is damaged .*delete it"):
        fetched(uri, tmp_path / "there")


def test_a_folder_with_another_study_is_not_overwritten(bucket: str, tmp_path: Path) -> None:
    one, other = RunFolder(tmp_path / "one"), RunFolder(tmp_path / "other")
    make_two(one, "old")
    make_two(other, "new")
    RemoteCopy(bucket, one.path).push()
    copy = RemoteCopy(bucket, other.path)
    with pytest.raises(UserError, match=r"hold different studies \(two differs\): give another"):
        copy.refuse_another_study()
    RemoteCopy(bucket, one.path).refuse_another_study()
    copy.save_token("token")
    RemoteCopy(bucket, other.path).refuse_another_study()
    assert RemoteCopy(bucket, other.path).token == "token"
    assert RemoteCopy(str(tmp_path), other.path).token == ""  # of another storage
