"""Files and the lease of a storage: a bucket, a folder, what fsspec reaches."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nutgraf.core.errors import Failure, UserError
from nutgraf.storage import remote_lease
from nutgraf.storage.remote_files import RemoteFiles, Unreachable
from nutgraf.storage.remote_lease import Lease


def test_a_write_that_breaks_leaves_nothing_under_the_name(uri: str) -> None:
    class Breaking:
        def __init__(self) -> None:
            self.rest = [b"half"]

        def read(self, size: int) -> bytes:
            if not self.rest:
                raise KeyboardInterrupt
            return self.rest.pop()

    files = RemoteFiles(uri)
    files.write("before", b"1")
    with pytest.raises(KeyboardInterrupt):
        files._put("name", Breaking())  # type: ignore[arg-type]
    assert files.names() == {"before"}


def test_a_read_that_breaks_leaves_no_file(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chunks = iter([b"half"])
    files = RemoteFiles(uri)
    files.write("name", b"half and half")
    monkeypatch.setattr(files, "_read", lambda _: next(chunks))
    with pytest.raises(StopIteration):
        files.get("name", tmp_path / "name")
    assert not (tmp_path / "name").exists()


def test_an_address_of_a_folder_is_that_folder(tmp_path: Path) -> None:
    RemoteFiles(f"file://{tmp_path}/kept").write("in/x", b"1")
    assert RemoteFiles(str(tmp_path / "kept")).read("in/x") == b"1"
    assert (tmp_path / "kept" / "in" / "x").read_bytes() == b"1"


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        (
            "nope://here/x",
            r"storage is nope://here/x, which cannot be opened \(.*Protocol not",
        ),
        ("github://a:b@c/x", r"storage is github://…@c/x, which cannot be opened"),
        ("github://x", r"storage is github://x, which cannot be opened \(TypeError: "),
        ("s3://", r"storage is s3://.*, which cannot be opened \(.*bucket"),
    ],
)
def test_an_address_that_is_none_is_told_in_one_line(uri: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        RemoteFiles(uri)


def test_a_bucket_that_is_not_there_and_a_library_that_is_not_installed_are_told(
    s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=r"bucket does not exist.*that its bucket or folder exists"):
        RemoteFiles(s3.format("x").replace("studies", "nowhere")).write("x", b"")

    def missing(uri: str) -> None:
        raise ImportError("Install adlfs to access Azure")

    monkeypatch.setattr("fsspec.core.url_to_fs", missing)
    with pytest.raises(UserError, match=r"which cannot be opened \(ImportError: Install adlfs"):
        RemoteFiles("az://container/x")


class Broken:
    """A file system whose answer to everything is an error."""

    type_name = "s3"

    def __init__(self, reason: str) -> None:
        self.reason = reason

    def __getattr__(self, name: str) -> Callable[..., None]:
        def broken(*_: Any, **__: Any) -> None:
            raise OSError(f"When writing: AWS Error {self.reason}\nTrace: much more")

        return broken


def test_a_storage_that_does_not_answer_or_refuses_is_told_without_the_password(
    s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = RemoteFiles(s3.format("x").replace("s3://", "s3://key:secret@"))
    assert files.read("x") is None
    monkeypatch.setattr(files, "_system", Broken("NETWORK_CONNECTION: curlCode: 7"))
    with pytest.raises(
        Unreachable, match=r"storage s3://…@studies/x.* cannot be used .*7\)"
    ) as error:
        files.read("x")
    assert "secret" not in str(error.value)
    monkeypatch.setattr(files, "_system", Broken("ACCESS_DENIED during PutObject operation"))
    with pytest.raises(UserError, match=r"ACCESS_DENIED.*your rights .*AWS_SECRET_ACCESS_KEY"):
        files.write("x", b"")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_lease, "BEAT", 0.1)
    monkeypatch.setattr(remote_lease, "EXPIRY", 5.0)
    monkeypatch.setattr(remote_lease, "SETTLE", 0.05)


@pytest.mark.usefixtures("quick")
def test_a_second_run_says_who_holds_the_storage(
    uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    files = RemoteFiles(uri)
    with (
        Lease(files).acquired("") as before,
        pytest.raises(UserError, match=rf"in use by process {os.getpid()} on .* since 20.*wait"),
        Lease(files).acquired(""),
    ):
        pass
    assert before == ""
    assert "waiting 5 s for a sign of life" in capsys.readouterr().err
    with Lease(files).acquired("") as before:
        assert before
    assert "waiting" not in capsys.readouterr().err  # it was released


@pytest.mark.usefixtures("quick")
def test_a_dead_holder_is_waited_for_and_then_taken_over_which_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(remote_lease, "EXPIRY", 0.8)
    files = RemoteFiles(str(tmp_path))
    dead = Lease(files)
    dead._write()
    with Lease(files).acquired("") as before:
        assert before == dead.token
        with pytest.raises(Failure, match="was taken over by process"):
            dead.check()
    stderr = capsys.readouterr().err
    assert "waiting 1 s for a sign of life" in stderr
    assert "gives no sign of life: its work is carried on" in stderr
    dead._write()
    with Lease(files).acquired(dead.token):  # the same folder again: nobody else can be meant
        assert "waiting" not in capsys.readouterr().err


def test_a_lease_that_is_damaged_is_named(tmp_path: Path) -> None:
    files = RemoteFiles(str(tmp_path))
    for damaged in (b"{}", b"half"):
        files.write(remote_lease.LEASE, damaged)
        with pytest.raises(Failure, match=r"lease.json of storage .* is damaged .*: delete it"):
            Lease(files).check()
