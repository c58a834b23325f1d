"""The right to write into a storage: who is stopped while taking it leaves it to others at once."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from nutgraf.core.errors import Failure
from nutgraf.storage import remote_lease
from nutgraf.storage.remote_files import RemoteFiles
from nutgraf.storage.remote_lease import LEASE, Lease


def read(files: RemoteFiles) -> dict[str, object]:
    return dict(json.loads(files.read(LEASE) or b"{}"))


def test_an_interrupt_while_the_lease_is_taken_gives_it_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = RemoteFiles(str(tmp_path))
    first = Lease(files)

    def interrupted(seconds: float) -> None:
        assert (seconds, read(files)["released"]) == (remote_lease.SETTLE, False)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(time, "sleep", interrupted)
        with pytest.raises(KeyboardInterrupt), first.acquired(""):
            pytest.fail("it was not taken yet")
    assert (read(files)["token"], read(files)["released"]) == (first.token, True)
    monkeypatch.setattr(remote_lease, "SETTLE", 0.0)
    with Lease(files).acquired("") as previous:  # without waiting for a sign of life
        assert previous == first.token


def test_who_loses_the_lease_while_taking_it_leaves_it_to_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = RemoteFiles(str(tmp_path))
    other = Lease(files)
    monkeypatch.setattr(time, "sleep", lambda _: other._write())
    with pytest.raises(Failure, match="was taken over by process"), Lease(files).acquired(""):
        pytest.fail("it is another's")
    assert (read(files)["token"], read(files)["released"]) == (other.token, False)
