"""The wheel, installed where there is no source tree: a study from an empty folder, by a name."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path

import pandas as pd
import pytest
from helpers.places import ROOT

SMALL = {
    "data.train-examples": "24", "data.validation-examples": "4", "data.test-examples": "4",
    "train.max-examples": "8", "train.eval-every": "8", "train.eval-examples": "4",
    "search.trials": "1", "search.concurrent": "1", "search.rouge-examples": "2",
    "generate.max-new-tokens": "16", "score.resamples": "500", "tracking.to": "[]",
}  # fmt: skip
# As torchrun, accelerate and MPI would start it: a study is one program all the same.
LAUNCHER = {
    "WORLD_SIZE": "4", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "10.255.255.1",
    "MASTER_PORT": "29500", "PMI_SIZE": "4", "ACCELERATE_USE_FSDP": "true",
    "ACCELERATE_MIXED_PRECISION": "fp8", "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "8",
}  # fmt: skip
BUILD = "import sys; from setuptools import build_meta as b; getattr(b, sys.argv[1])(sys.argv[2])"


def ran(*words: str | Path, cwd: Path) -> str:
    """Output of a command that has neither this source tree nor a network."""
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    env |= {
        "PIP_NO_INDEX": "1",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "OMP_NUM_THREADS": "1",
    } | LAUNCHER
    done = subprocess.run(list(map(str, words)), cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def bin_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a fresh environment with the wheel of the source distribution, and our libraries."""
    folder = tmp_path_factory.mktemp("wheel")
    source, dist = folder / "source", folder / "dist"
    source.mkdir()
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(ROOT / "src", source / "src", ignore=ignored)
    (source / "configs").symlink_to("src/nutgraf/configs")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    ran(sys.executable, "-c", BUILD, "build_sdist", dist, cwd=source)
    with tarfile.open(next(dist.glob("*.tar.gz"))) as archive:
        archive.extractall(folder, filter="data")
    ran(sys.executable, "-c", BUILD, "build_wheel", dist, cwd=next(folder.glob("nutgraf-*")))
    env = folder / "env"
    ran(sys.executable, "-m", "venv", "--without-pip", env, cwd=folder)
    python = env / "bin" / "python"
    site = Path(ran(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))",
                    cwd=folder).strip())  # fmt: skip
    # A path, whose own .pth files are not read: an editable nutgraf there is not found.
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    wheel = next(dist.glob("*.whl"))
    ran(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps",
        "--ignore-installed", wheel, cwd=folder)  # fmt: skip
    return env / "bin"


def test_a_shipped_study_runs_from_an_empty_folder(bin_folder: Path, tmp_path: Path) -> None:
    module = ran(bin_folder / "python", "-c", "import nutgraf; print(nutgraf.__file__)",
                 cwd=tmp_path)  # fmt: skip
    assert Path(module.strip()).is_relative_to(bin_folder.parent)
    words = [word for name, value in SMALL.items() for word in (f"--{name}", value)]
    printed = ran(bin_folder / "nutgraf", "run", "pocket", *words, cwd=tmp_path)
    assert "Model:  runs/pocket/final_best_model" in printed
    trials = pd.read_csv(tmp_path / "runs" / "pocket" / "search" / "trials.csv")
    assert trials["rougeLsum"].notna().all()


def test_every_configuration_is_there_by_name(bin_folder: Path, tmp_path: Path) -> None:
    code = (
        "from nutgraf.config.load import load_config, shipped_configs; "
        "print(*[P(load_config(n).run).name for n in map(P, shipped_configs())])"
    )
    printed = ran(bin_folder / "python", "-c", "from pathlib import Path as P; " + code,
                  cwd=tmp_path)  # fmt: skip
    assert printed.split() == ["original-notebook", "pocket", "smollm2", "tinyllama-cnndm"]
