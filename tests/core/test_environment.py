"""Variables of launchers, which would turn one study into a part of another program."""

from __future__ import annotations

import os
import re

import pytest

from nutgraf.cli import main
from nutgraf.core.environment import ignore_launchers

LAUNCHERS = (
    "WORLD_SIZE RANK LOCAL_RANK LOCAL_WORLD_SIZE NODE_RANK GROUP_RANK ROLE_WORLD_SIZE MASTER_ADDR "
    "MASTER_PORT TORCHELASTIC_RUN_ID ACCELERATE_USE_FSDP ACCELERATE_MIXED_PRECISION "
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS ACCELERATE_USE_DEEPSPEED FSDP_VERSION "
    "PARALLELISM_CONFIG_TP_SIZE MEGATRON_LM_TP_DEGREE OMPI_COMM_WORLD_SIZE PMI_SIZE PMIX_RANK "
    "MV2_COMM_WORLD_RANK MPI_LOCALRANKID"
).split()
OTHERS = ("HF_HOME", "SLURM_JOB_ID", "CUDA_VISIBLE_DEVICES", "RAY_TMPDIR", "RANKING", "MY_RANK")


@pytest.mark.parametrize("name", LAUNCHERS)
def test_a_launcher_is_ignored_and_named_once(monkeypatch, capsys, name):
    monkeypatch.setenv(name, "4")
    for other in OTHERS:
        monkeypatch.setenv(other, "1")
    assert main.main(["export"]) == 2  # any command; this one lacks its model
    ignore_launchers()
    assert name not in os.environ
    assert {os.environ[other] for other in OTHERS} == {"1"}
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith(f"{name} ignored: nutgraf is no program for torchrun")
    assert "--model" in second


def test_of_many_variables_four_are_named(monkeypatch, capsys):
    for name in LAUNCHERS:
        monkeypatch.setenv(name, "4")
    ignore_launchers()
    (line,) = capsys.readouterr().err.splitlines()
    assert re.match(rf"(\w+, ){{3}}\w+ and {len(LAUNCHERS) - 4} more ignored", line)
