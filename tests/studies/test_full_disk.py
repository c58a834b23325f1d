"""A disk that is full in any stage: one line, status 1, and with space the same command goes on."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from nutgraf.cli import main
from nutgraf.storage.run_folder import RunFolder

SIZE = 6 * 2**20


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A file system of its own, of a few MB."""
    place = tmp_path_factory.mktemp("disk")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(place)],
        capture_output=True, text=True,
    )  # fmt: skip
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def fill(disk: Path, room: int) -> None:
    """Leave `room` bytes."""
    with (disk / "filler").open("wb") as file:
        file.write(bytes(shutil.disk_usage(disk).free - room))


def test_full_in_any_stage(disk: Path, tiny_base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = RunFolder(disk / "run")
    settings = {
        "data.train-examples": "24", "data.validation-examples": "8", "data.test-examples": "24",
        "train.max-examples": "16", "train.eval-every": "8", "train.eval-examples": "4",
        "prompt.max-tokens": "400", "prompt.max-article-tokens": "60",
        "generate.max-new-tokens": "48", "generate.batch-size": "8", "search.concurrent": "1",
        "search.trials": "2", "search.finalists": "1", "search.rouge-examples": "2",
        "lora.r": "4", "model.base": str(tiny_base), "model.device": "cpu", "model.dtype": "fp32",
    }  # fmt: skip
    words = [word for name, value in settings.items() for word in (f"--{name}", value)]
    for stage, room in {
        "prepare": 16, "search": 200, "train": 64, "generate": 16,
        "score": 16, "compare": 16, "report": 16,
    }.items():  # fmt: skip
        folder.path.mkdir(exist_ok=True)
        fill(disk, room * 1024)
        capsys.readouterr()
        status = main.main([stage, "--run", str(folder.path), *words])
        lines = capsys.readouterr().err.splitlines()
        assert status == 1, lines
        assert sum(line.startswith("nutgraf: ") for line in lines) == 1
        assert lines[-1].startswith("nutgraf: ")
        assert "No space left on device" in lines[-1]
        assert str(disk) in lines[-1]
        assert lines[-1].endswith("free space there; the same command carries on from here")
        (disk / "filler").unlink()
        if stage != "report":  # whose figures take their time
            assert main.main([stage, "--run", str(folder.path), *words]) == 0
    assert (folder / "final_best_model" / "adapter_model.safetensors").is_file()
