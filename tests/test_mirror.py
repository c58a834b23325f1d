"""A study in a storage: it comes back whole, whoever was killed in putting it there."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from nutgraf import claims, lease, push
from nutgraf.lease import Lease
from nutgraf.mirror import Mirror
from nutgraf.problems import Failure, UserError
from nutgraf.runfolder import Artefact, RunFolder
from nutgraf.storage import Storage, Unreachable

KINDS = ("s3", "address", "folder", "memory")


def address(kind: str, s3: str, tmp_path: Path) -> str:
    name = f"{tmp_path.parent.name}-{tmp_path.name}"
    return {
        "s3": s3.format(name),
        "address": f"file://{tmp_path / 'kept'}",
        "folder": str(tmp_path / "kept"),
        "memory": f"memory://{name}",
    }[kind]


@pytest.fixture(params=KINDS)
def uri(request: pytest.FixtureRequest, s3: str, tmp_path: Path) -> str:
    return address(request.param, s3, tmp_path)


@pytest.fixture
def bucket(s3: str, tmp_path: Path) -> str:
    return address("s3", s3, tmp_path)


def two(folder: RunFolder, text: str) -> Artefact:
    return folder.artefact("two", outputs=["both", "table.csv"], settings={"text": text})


def make_two(folder: RunFolder, text: str) -> None:
    """Over another version the folder has another file, which must not stay."""
    with two(folder, text).writing(resume=True) as out:
        (out / "both").mkdir(exist_ok=True)
        (out / "both" / f"{text}.txt").write_text(text)
        (out / "both" / "same.txt").write_text(text)
        (out / "table.csv").write_text(text)


def found(folder: RunFolder) -> str | None:
    """Which version is there, by its manifest; that it is all of that version is checked."""
    if not folder.has("two"):
        return None
    text = str(folder.manifest("two")["settings"]["text"])
    assert two(folder, text).is_current
    assert {p.name for p in (folder / "both").iterdir()} == {f"{text}.txt", "same.txt"}
    return text


def half_made(folder: RunFolder, rate: int, *rows: str) -> Path:
    """A journal and a checkpoint of a search that was stopped."""
    place = folder.path / ".making" / "search"
    claims.take(place, {"rate": rate}, "search")
    with (place / "rows.part").open("a") as journal:
        journal.writelines(f"{rate} {row}\n" for row in rows)
    (place / "trials" / "1").mkdir(parents=True, exist_ok=True)
    (place / "trials" / "1" / "trial.json").write_text(f"{rate}")
    return place


def files(place: Path) -> dict[str, str]:
    paths = [p for p in place.rglob("*") if p.is_file() and p.name != ".mirror.json"]
    return {p.relative_to(place).as_posix(): p.read_text() for p in paths}


def fetched(uri: str, place: Path) -> RunFolder:
    """The study as another machine gets it."""
    shutil.rmtree(place, ignore_errors=True)
    Mirror(uri, place).pull()
    return RunFolder(place)


def test_what_is_made_here_comes_back_elsewhere(uri: str, tmp_path: Path) -> None:
    here = RunFolder(tmp_path / "here")
    mirror = Mirror(uri, here.path)
    make_two(here, "old")
    make_two(here, "new")
    half_made(here, 1, "a", "b")
    (here / "config.yaml").write_text("run: here\n")
    assert mirror.push()
    there = fetched(uri, tmp_path / "there")
    assert found(there) == "new"
    assert files(there.path) == files(here.path)
    make_two(here, "newer")
    shutil.rmtree(here / ".making" / "search")
    assert pickle.loads(pickle.dumps(mirror)).push()  # noqa: S301
    again = fetched(uri, tmp_path / "again")
    assert found(again) == "newer"
    assert files(again.path) == files(here.path)
    Mirror(uri, there.path).pull()
    assert files(there.path) == files(here.path)


def test_what_has_not_changed_does_not_travel(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = RunFolder(tmp_path / "here")
    make_two(here, "new")
    half_made(here, 1, "a")
    Mirror(bucket, here.path).push()
    fetched(bucket, tmp_path / "there")
    moved: list[str] = []
    monkeypatch.setattr(Storage, "put", lambda self, name, *_: moved.append(name))
    monkeypatch.setattr(Storage, "get", lambda self, name, *_: moved.append(name))
    for place in ("here", "there"):
        assert Mirror(bucket, tmp_path / place).push()
        Mirror(bucket, tmp_path / place).pull()
    assert moved == []


def vouched(storage: Storage) -> None:
    """Where a manifest is in the storage, all that it names is there as it says."""
    content = storage.read("manifests/two.json")
    for name, hashed in (json.loads(content)["files"] if content else {}).items():
        assert hashlib.sha256(storage.read(name) or b"").hexdigest() == hashed


class Killed(BaseException):
    """The end of a process in a test."""


def killed_everywhere(
    monkeypatch: pytest.MonkeyPatch, prepare: Callable[[int], Mirror], look: Callable[[int], None]
) -> int:
    """Kill the push of what `prepare` gives at each operation on the storage in turn."""
    left = 0

    def dying(work: Callable[..., None]) -> Callable[..., None]:
        def step(*args: Any) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise Killed
            work(*args)

        return step

    for kill in range(100):
        mirror = prepare(kill)
        left = kill
        with monkeypatch.context() as patch:
            patch.setattr(Storage, "put", dying(Storage.put))
            patch.setattr(Storage, "delete", dying(Storage.delete))
            try:
                mirror.push()
                survived = True
            except Killed:
                survived = False
        look(kill)
        if survived:
            return kill
    raise AssertionError("it never came to its end")


@pytest.mark.parametrize("kind", ["s3", "folder"])
def test_killed_at_any_operation_a_study_elsewhere_is_old_or_new_or_not_made_and_never_mixed(
    kind: str, s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = address(kind, s3, tmp_path)
    here = RunFolder(tmp_path / "here")
    seen = []

    def prepare(kill: int) -> Mirror:
        mirror = Mirror(uri, here.path)
        make_two(here, "old")
        assert mirror.push()
        make_two(here, "newer")
        return mirror

    def look(kill: int) -> None:
        vouched(Storage(uri))
        seen.append(found(fetched(uri, tmp_path / "there")))
        assert Mirror(uri, here.path).push()  # of another process, which goes on
        assert found(fetched(uri, tmp_path / "there")) == "newer"

    assert killed_everywhere(monkeypatch, prepare, look) > 4
    assert list(dict.fromkeys(seen)) == ["old", None, "newer"]


def test_killed_at_any_operation_half_made_work_is_never_of_two_claims(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = RunFolder(tmp_path / "here")
    seen = []

    def prepare(kill: int) -> Mirror:
        mirror = Mirror(bucket, here.path)
        half_made(here, 1, "a", "b")
        assert mirror.push()
        half_made(here, 22, "c")
        return mirror

    def look(kill: int) -> None:
        place = fetched(bucket, tmp_path / "there") / ".making" / "search"
        if not place.exists():
            seen.append("nothing")
            return
        rate = json.loads((place / "claim.json").read_text())["rate"]
        seen.append(str(rate))
        for name, text in files(place).items():
            assert name == "claim.json" or set(text.split()[::2]) == {str(rate)}

    killed_everywhere(monkeypatch, prepare, look)
    assert list(dict.fromkeys(seen)) == ["1", "nothing", "22"]


def test_work_that_becomes_an_artefact_is_in_the_storage_all_the_time(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = RunFolder(tmp_path / "here")

    def prepare(kill: int) -> Mirror:
        here.path.mkdir(exist_ok=True)
        Mirror(bucket, here.path).push()
        mirror = Mirror(bucket, here.path)
        for name in ("both", "manifests"):
            shutil.rmtree(here / name, ignore_errors=True)
        (here / "table.csv").unlink(missing_ok=True)
        claims.take(here.path / ".making" / "two", two(here, "newer")._claim(), "two")
        (here.path / ".making" / "two" / "rows.part").write_text("row\n")
        assert mirror.push()
        make_two(here, "newer")
        return mirror

    def look(kill: int) -> None:
        there = fetched(bucket, tmp_path / "there")
        work = there.path / ".making" / "two" / "rows.part"
        assert found(there) == "newer" or work.read_text() == "row\n"

    assert killed_everywhere(monkeypatch, prepare, look) > 4


def test_what_is_being_written_and_what_cannot_be_carried_on_stays_here(
    bucket: str, tmp_path: Path
) -> None:
    here = RunFolder(tmp_path / "here")
    place = half_made(here, 1, "a")
    for name in (".lock", ".trial.json.part", "half-written/checkpoint-4/model", ".ray/socket"):
        (place / name).parent.mkdir(exist_ok=True, parents=True)
        (place / name).write_text("half")
    unclaimed = here.path / ".making" / "data"
    unclaimed.mkdir()
    (unclaimed / "train.parquet").write_text("half")
    assert Mirror(bucket, here.path).push()
    assert set(Storage(bucket).list()) == {
        f".making/search/{name}" for name in ("claim.json", "rows.part", "trials/1/trial.json")
    }


def test_a_file_that_changes_while_it_is_looked_at_goes_the_next_time_and_a_journal_to_its_line(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = RunFolder(tmp_path / "here")
    place = half_made(here, 1, "a")
    trial = place / "trials" / "1" / "trial.json"
    put = Storage.put

    def meanwhile(self: Storage, name: str, source: BinaryIO, size: int) -> None:
        if name.endswith("claim.json"):
            with (place / "rows.part").open("a") as journal:
                journal.write("1 b\n1")
            trial.with_name("fresh").write_text("1 new")
            trial.with_name("fresh").replace(trial)
        put(self, name, source, size)

    mirror = Mirror(bucket, here.path)
    with monkeypatch.context() as patch:
        patch.setattr(Storage, "put", meanwhile)
        assert not mirror.push()
    there = fetched(bucket, tmp_path / "there").path / ".making" / "search"
    assert (there / "rows.part").read_text() == "1 a\n"
    assert not (there / "trials").exists()
    assert mirror.push()
    assert files(fetched(bucket, tmp_path / "there").path) == files(here.path)


def test_work_thrown_away_while_it_is_pushed_does_not_mix_with_what_takes_its_place(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = RunFolder(tmp_path / "here")
    half_made(here, 1, "a")
    mirror = Mirror(bucket, here.path)
    assert mirror.push()
    half_made(here, 1, "b")
    put = Storage.put

    def meanwhile(self: Storage, name: str, source: BinaryIO, size: int) -> None:
        put(self, name, source, size)
        half_made(here, 2, "c", "d")

    with monkeypatch.context() as patch:
        patch.setattr(Storage, "put", meanwhile)
        assert not mirror.push()
    there = fetched(bucket, tmp_path / "there").path / ".making" / "search"
    assert "2" not in "".join(files(there).values())
    assert mirror.push()
    assert files(fetched(bucket, tmp_path / "there").path) == files(here.path)


def test_work_that_takes_the_place_of_another_while_it_is_listed_does_not_mix_with_it(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = RunFolder(tmp_path / "here")
    half_made(here, 1, "a")
    mirror = Mirror(bucket, here.path)
    assert mirror.push()
    claim = here.path / ".making" / "search" / "claim.json"
    looks = 0
    version = push.version

    def meanwhile(path: Path) -> push.Version | None:
        nonlocal looks
        listed = version(path)
        looks += path == claim
        if looks == 2:
            looks += 1
            half_made(here, 22, "c")
            for file in claim.parent.rglob("*.json"):
                os.utime(file, (1, 1))  # as if it had been written before the look at the folder
        return listed

    with monkeypatch.context() as patch:
        patch.setattr(push, "version", meanwhile)
        assert not mirror.push()
    there = fetched(bucket, tmp_path / "there").path / ".making" / "search"
    assert "22" not in "".join(files(there).values())
    assert mirror.push()
    assert files(fetched(bucket, tmp_path / "there").path) == files(here.path)


def test_the_storage_wins_and_what_only_this_folder_has_stays(uri: str, tmp_path: Path) -> None:
    one, other = RunFolder(tmp_path / "one"), RunFolder(tmp_path / "other")
    make_two(one, "old")
    half_made(one, 1, "a", "b")
    assert Mirror(uri, one.path).push()
    Mirror(uri, other.path).pull()
    make_two(other, "new")
    place = half_made(other, 1, "c")
    (place / "trials" / "1" / "trial.json").unlink()
    assert Mirror(uri, other.path).push()
    make_two(one, "lost")
    half_made(one, 1, "lost")
    with one.artefact("data").writing() as out:
        (out / "data").write_text("only here")
    Mirror(uri, one.path).pull(over=False)
    assert found(one) == "lost"
    Mirror(uri, one.path).pull()
    assert found(one) == "new"
    assert one.artefact("data").is_current
    assert files(one.path / ".making") == files(other.path / ".making")


def test_without_over_what_is_missing_here_is_fetched(bucket: str, tmp_path: Path) -> None:
    here = RunFolder(tmp_path / "here")
    make_two(here, "old")
    mirror = Mirror(bucket, here.path)
    mirror.push()
    for name in ("both", "manifests"):
        shutil.rmtree(here / name)
    mirror.pull(over=False)
    assert found(here) == "old"


def test_two_contents_of_one_size_within_a_second_are_told_apart(
    bucket: str, tmp_path: Path
) -> None:
    one, other = RunFolder(tmp_path / "one"), Mirror(bucket, tmp_path / "other")
    mirror = Mirror(bucket, one.path)
    trial = half_made(one, 1) / "trials" / "1" / "trial.json"
    for text in "123":
        trial.write_text(text)
        assert mirror.push()
        other.pull(".making/search/trials/1")
        there = other.local / ".making" / "search" / "trials" / "1" / "trial.json"
        assert there.read_text() == text


def test_a_folder_in_it_goes_from_a_node_to_the_driver(bucket: str, tmp_path: Path) -> None:
    driver, node = Mirror(bucket, tmp_path / "driver"), Mirror(bucket, tmp_path / "node")
    half_made(RunFolder(driver.local), 1, "a")
    assert driver.push()
    under = ".making/search/trials/1"
    node.pull(under)
    assert set(files(node.local)) == {f"{under}/trial.json"}
    (node.local / under / "trial.json").write_text("1 evaluated")
    (node.local / under / "adapter").write_text("1")
    assert node.push(under)
    assert driver.push()  # which neither deletes nor replaces what the node has put there
    driver.pull(under)
    assert files(driver.local / under) == {"trial.json": "1 evaluated", "adapter": "1"}
    (node.local / under / "adapter").unlink()
    assert node.push(under)
    driver.pull(under)
    assert files(driver.local / under) == {"trial.json": "1 evaluated"}


def test_a_file_damaged_or_gone_in_the_storage_is_told_and_its_artefact_not_taken(
    bucket: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here = RunFolder(tmp_path / "here")
    make_two(here, "old")
    Mirror(bucket, here.path).push()
    Storage(bucket).write("table.csv", b"evil")
    assert found(fetched(bucket, tmp_path / "there")) is None
    assert "two is not fetched from s3://" in (line := capsys.readouterr().err)
    assert "table.csv is not as it was made" in line
    Storage(bucket).delete("table.csv")
    assert found(fetched(bucket, tmp_path / "there")) is None
    assert "table.csv is missing" in capsys.readouterr().err


def test_names_in_a_storage_do_not_lead_out_of_the_folder(uri: str, tmp_path: Path) -> None:
    storage = Storage(uri)
    for outside in ("../outside", "/tmp/outside"):
        manifest = {"artefact": "x", "outputs": [outside], "files": {outside: "0"}}
        storage.write("manifests/x.json", json.dumps(manifest).encode())
        with pytest.raises(Failure, match=r"a file named '.*outside': delete it there"):
            fetched(uri, tmp_path / "there")
    storage.write("manifests/x.json", b"{}")
    with pytest.raises(Failure, match=r"manifests/x.json of storage .* is damaged .*delete it"):
        fetched(uri, tmp_path / "there")


def test_a_write_that_breaks_leaves_nothing_under_the_name(uri: str) -> None:
    class Breaking:
        def __init__(self) -> None:
            self.rest = [b"half"]

        def read(self, size: int) -> bytes:
            if not self.rest:
                raise Killed
            return self.rest.pop()

    storage = Storage(uri)
    storage.write("before", b"1")
    with pytest.raises(Killed):
        storage.put("name", Breaking(), 8)  # type: ignore[arg-type]
    assert set(storage.list()) == {"before"}


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("nope://here/x", r"storage is nope://here/x, which cannot be opened \(Protocol not known"),
        ("github://a:b@c/x", r"storage is github://…@c/x, which cannot be opened|is missing"),
        ("s3://", r"storage is s3://, which names no bucket or folder"),
    ],
)
def test_an_address_that_is_none_is_told_in_one_line(uri: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Storage(uri)


def test_a_bucket_that_is_not_there_and_a_library_that_is_not_installed_are_told(
    s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="its bucket does not exist: make it, or correct storage"):
        Storage(s3.format("x").replace("studies", "nowhere")).write("x", b"")

    def missing(uri: str) -> None:
        raise ImportError("Install adlfs to access Azure")

    monkeypatch.setattr("fsspec.core.url_to_fs", missing)
    with pytest.raises(UserError, match="a library is missing: Install adlfs"):
        Storage("az://container/x")


class Broken:
    """A file system whose answer to everything is an error."""

    def __init__(self, said: str) -> None:
        self.said = said

    def __getattr__(self, name: str) -> Callable[..., None]:
        def broken(*_: Any, **__: Any) -> None:
            raise OSError(f"When writing: AWS Error {self.said}\nTrace: much more")

        return broken


def test_a_storage_that_does_not_answer_or_refuses_is_told_without_the_password(
    s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = Storage(s3.format("x").replace("s3://", "s3://key:secret@"))
    assert storage.read("x") is None
    monkeypatch.setattr(storage, "_files", Broken("NETWORK_CONNECTION: curlCode: 7"))
    with pytest.raises(
        Unreachable, match=r"storage s3://…@studies/x.* cannot be used .*7\)"
    ) as told:
        storage.read("x")
    assert "secret" not in str(told.value)
    monkeypatch.setattr(storage, "_files", Broken("ACCESS_DENIED during PutObject operation"))
    with pytest.raises(UserError, match=r"refuses access .*ACCESS_DENIED.*AWS_SECRET_ACCESS_KEY"):
        storage.write("x", b"")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "BEAT", 0.1)
    monkeypatch.setattr(lease, "EXPIRY", 0.8)
    monkeypatch.setattr(lease, "SETTLE", 0.05)


@pytest.mark.usefixtures("quick")
def test_a_second_run_says_who_holds_the_storage(uri: str) -> None:
    storage = Storage(uri)
    with (
        Lease(storage).held("") as before,
        pytest.raises(UserError, match=rf"in use by process {os.getpid()} on .* since 20.*wait"),
        Lease(storage).held(""),
    ):
        pass
    assert before == ""
    started = time.monotonic()
    with Lease(storage).held("") as before:
        assert before
    assert time.monotonic() - started < 0.6  # released: nobody waits


@pytest.mark.usefixtures("quick")
def test_a_dead_holder_is_waited_for_and_then_taken_over_which_is_told(
    bucket: str, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = Storage(bucket)
    dead = Lease(storage)
    dead._write()
    with Lease(storage).held("") as before:
        assert before == dead.token
        with pytest.raises(Failure, match="was taken over by process"):
            dead.check()
    told = capsys.readouterr().err
    assert "waiting 1 s for a sign of life" in told
    assert "gives no sign of life: its work is carried on" in told
    dead._write()
    with Lease(storage).held(dead.token):  # the same folder again: nobody else can be meant
        assert "waiting" not in capsys.readouterr().err


def test_a_lease_that_is_damaged_is_named(bucket: str) -> None:
    Storage(bucket).write(lease.LEASE, b"{}")
    with pytest.raises(Failure, match=r"lease.json of storage .* is damaged .*: delete it there"):
        Lease(Storage(bucket)).check()


def test_a_folder_with_another_study_is_not_overwritten(bucket: str, tmp_path: Path) -> None:
    one, other = RunFolder(tmp_path / "one"), RunFolder(tmp_path / "other")
    make_two(one, "old")
    make_two(other, "new")
    Mirror(bucket, one.path).push()
    with pytest.raises(UserError, match=r"hold different studies \(two differs\): give another"):
        Mirror(bucket, other.path).refuse_another_study()
    Mirror(bucket, one.path).refuse_another_study()
