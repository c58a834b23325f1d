"""A study with `storage`: a machine dies, another one carries on with the same command."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nutgraf.cli import main
from nutgraf.config import Config
from nutgraf.core.errors import Failure, UserError
from nutgraf.core.files import Journal, write_records
from nutgraf.pipeline import artifacts, runner
from nutgraf.storage import remote_lease, remote_sync
from nutgraf.storage.artefact import Artefact
from nutgraf.storage.remote_files import RemoteFiles, Unreachable
from nutgraf.storage.run_folder import RunFolder

ROWS = 6


class Prepare:
    """A stage that is over at once."""

    def artefacts(self, config: Config, folder: RunFolder) -> list[Artefact]:
        return [folder.artefact("data", settings={"seed": config.data.seed})]

    def run(self, config: Config, folder: RunFolder, outdated: list[Artefact]) -> None:
        (artefact,) = outdated
        with artefact.writing() as scratch:
            (scratch / "data").mkdir()
            (scratch / "data" / "train.txt").write_text("articles")


class Generate:
    """A stage that keeps rows as they come; `stop` is called before the row of that number."""

    def __init__(self, stop: dict[int, object] | None = None) -> None:
        self.stop = stop or {}
        self.added: list[int] = []

    def artefacts(self, config: Config, folder: RunFolder) -> list[Artefact]:
        return [folder.artefact("summaries", outputs=["summaries.jsonl"], inputs=["data"])]

    def run(self, config: Config, folder: RunFolder, outdated: list[Artefact]) -> None:
        (artefact,) = outdated
        with artefact.writing(resume=True) as scratch:
            journal = Journal(scratch / "rows.part")
            for number in range(len(journal.rows), ROWS):
                if number in self.stop:
                    self.stop[number]()  # type: ignore[operator]
                journal.add([{"row": number}])
                self.added.append(number)
            write_records(scratch / "summaries.jsonl", journal.rows)


def run(folder: Path, storage: str, generate: Generate) -> bool:
    stages = {"prepare": Prepare(), "generate": generate}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "_stage", stages.__getitem__)
        for name, stage in stages.items():
            patch.setitem(artifacts.BY_STAGE, name, stage.artefacts)
        patch.setattr(remote_lease, "SETTLE", 0.05)
        return runner.run_study(Config(run=str(folder), storage=storage), tuple(stages))


def contents(folder: Path) -> dict[str, str]:
    """All files of a run but its log, and those of locks and of the copy itself."""
    others = {".remote", ".lock", "log.jsonl"}
    paths = [p for p in folder.rglob("*") if p.is_file() and not others & {*p.parts}]
    return {p.relative_to(folder).as_posix(): p.read_text() for p in paths}


def test_the_folder_gone_the_same_command_says_that_all_is_done(s3: str, tmp_path: Path) -> None:
    uri, folder = s3.format("whole"), tmp_path / "run"
    assert run(folder, uri, Generate())
    files, log = contents(folder), (folder / "log.jsonl").read_text()
    shutil.rmtree(folder)
    assert not run(folder, uri, Generate())
    assert contents(folder) == files
    assert (folder / "log.jsonl").read_text().startswith(log)  # it goes on, wherever it does
    assert "summaries.jsonl" in RemoteFiles(uri).names()


def test_an_artefact_changed_by_hand_is_not_copied_and_that_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, storage = tmp_path / "run", tmp_path / "other"
    assert run(folder, str(tmp_path / "storage"), Generate())
    (folder / "summaries.jsonl").write_text("by hand")
    with remote_sync.synced(str(storage), folder):
        pass
    assert "the storage lacks an artefact" in caplog.text
    assert RemoteFiles(str(storage)).read("manifests/data.json")
    assert not RemoteFiles(str(storage)).read("manifests/summaries.json")


def interrupt() -> None:
    raise KeyboardInterrupt


def test_stopped_in_a_stage_another_machine_carries_on_from_the_last_row(
    s3: str, tmp_path: Path
) -> None:
    uri = s3.format("stopped")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "one", uri, Generate({4: interrupt}))
    shutil.rmtree(tmp_path / "one")
    other = Generate()
    assert run(tmp_path / "other", uri, other)
    assert other.added == [4, 5]
    rows = (tmp_path / "other" / "summaries.jsonl").read_text().splitlines()
    assert [json.loads(row)["row"] for row in rows] == list(range(ROWS))
    assert not run(tmp_path / "one", uri, Generate())


DYING = """
import hashlib, sys, time
from pathlib import Path
from nutgraf.storage import remote_lease
from nutgraf.storage import remote_sync
from nutgraf.storage.remote_files import RemoteFiles
from test_remote_sync import Generate, run
remote_sync.EVERY, remote_lease.BEAT = 0.1, 0.1
def wait():
    (rows,) = Path(sys.argv[1]).glob(".making/*/rows.part")
    hashed = hashlib.sha256(rows.read_bytes()).hexdigest().encode()
    while hashed not in (RemoteFiles(sys.argv[2]).read(".making/summaries.json") or b""):
        time.sleep(0.05)
    print("there", flush=True)
    time.sleep(60)
run(Path(sys.argv[1]), sys.argv[2], Generate({3: wait}))
"""


def test_a_machine_that_dies_is_waited_for_and_its_work_carried_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = str(tmp_path / "kept")
    paths = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    machine = subprocess.Popen(
        [sys.executable, "-c", DYING, str(tmp_path / "one"), storage],
        env={**os.environ, "PYTHONPATH": paths}, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    monkeypatch.setattr(remote_lease, "EXPIRY", 5.0)
    try:
        assert machine.stdout
        assert machine.stdout.readline() == "there\n"
        with pytest.raises(UserError, match=f"in use by process {machine.pid} on "):
            run(tmp_path / "other", storage, Generate())
        machine.send_signal(signal.SIGKILL)
        machine.wait()
    finally:
        machine.kill()
        machine.communicate()
    monkeypatch.setattr(remote_lease, "EXPIRY", 0.5)
    other = Generate()
    assert run(tmp_path / "other", storage, other)
    assert other.added == [3, 4, 5]
    assert "gives no sign of life: its work is carried on" in capsys.readouterr().err


def test_two_machines_in_turn_and_what_one_kept_to_itself_gives_way(tmp_path: Path) -> None:
    storage = str(tmp_path / "kept")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "one", storage, Generate({2: interrupt}))
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "other", storage, Generate({5: interrupt}))
    (part,) = (tmp_path / "one" / ".making").rglob("rows.part")
    Journal(part).add([{"row": "kept here"}])
    last = Generate()
    assert run(tmp_path / "one", storage, last)
    assert last.added == [5]
    assert (tmp_path / "one" / "log.jsonl").read_text().count("begins: process ") == 3


def test_what_this_machine_had_not_put_there_yet_is_not_lost(tmp_path: Path) -> None:
    storage = str(tmp_path / "kept")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "one", storage, Generate({2: interrupt}))
    (part,) = (tmp_path / "one" / ".making").rglob("rows.part")
    Journal(part).add([{"row": 2}, {"row": 3}])
    last = Generate()
    assert run(tmp_path / "one", storage, last)
    assert last.added == [4, 5]


def test_a_storage_that_goes_away_ends_the_stage_with_all_whole_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    storage, folder = str(tmp_path / "kept"), tmp_path / "run"
    monkeypatch.setattr(remote_sync, "WAITS", (0.01, 0.01))

    def away(self: RemoteFiles, name: str, *_: object) -> None:
        raise Unreachable("storage kept cannot be used (gone): check it and the network")

    with monkeypatch.context() as patch:

        def cut() -> None:
            patch.setattr(RemoteFiles, "put", away)

        message = (
            r"cannot be used \(gone\).*; what was made is whole in .*run, and the same command"
        )
        with pytest.raises(Failure, match=message):
            run(folder, storage, Generate({5: cut}))
    stderr = capsys.readouterr().err
    assert stderr.count("the work goes on here, and the storage is tried again") == 1
    assert (
        RunFolder(folder)
        .artefact("summaries", outputs=["summaries.jsonl"], inputs=["data"])
        .is_current
    )
    assert not run(folder, storage, Generate())
    assert (tmp_path / "kept" / "summaries.jsonl").exists()


def test_a_lease_lost_ends_the_run_which_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = str(tmp_path / "kept")
    monkeypatch.setattr(remote_sync, "EVERY", 0.1)

    def taken() -> None:
        remote_lease.Lease(RemoteFiles(storage))._write()
        deadline = time.monotonic() + 10
        stderr = ""
        while "nothing more goes into the storage" not in stderr and time.monotonic() < deadline:
            time.sleep(0.05)
            stderr += capsys.readouterr().err
        assert "nothing more goes into the storage" in stderr

    with pytest.raises(Failure, match=r"was taken over by process .* the same command carries on"):
        run(tmp_path / "run", storage, Generate({3: taken}))
    assert not (tmp_path / "kept" / "summaries.jsonl").exists()


def test_the_settings_come_from_the_storage_where_the_folder_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = str(tmp_path / "kept")
    got: list[Config] = []
    monkeypatch.setattr(runner, "run_study", lambda config, *_, **__: got.append(config))
    RemoteFiles(storage).write("config.yaml", b"run: elsewhere\ndata: {seed: 7}\n")
    folder = str(tmp_path / "run")
    for _ in range(2):
        assert main.main(["prepare", "--run", folder, "--storage", storage]) == 0
    assert [(c.run, c.storage, c.data.seed) for c in got] == [(folder, storage, 7)] * 2


def test_a_storage_is_no_place_for_a_password(capsys: pytest.CaptureFixture[str]) -> None:
    for secret in ("s3://KEYKEYKEYKEYKEYKEY:sec/ret@b/x", "abfs://c/x?account_key=secret"):
        assert main.main(["prepare", "--storage", secret]) == 2
        stderr = capsys.readouterr().err
        assert "set the environment variable AWS_SECRET_ACCESS_KEY or its like" in stderr
        assert "ret" not in stderr.replace("SECRET", "")


def test_without_storage_no_library_of_file_systems_is_loaded() -> None:
    code = "import sys, nutgraf.cli.main, nutgraf.pipeline.runner; print('fsspec' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
