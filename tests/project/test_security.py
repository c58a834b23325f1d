"""What SECURITY.md says."""

import socket

import pytest
import torch
from helpers.places import ROOT
from packaging.version import Version

from nutgraf.config import ModelConfig
from nutgraf.config.load import build_config
from nutgraf.core.errors import UserError
from nutgraf.modeling.adapters import with_adapter
from nutgraf.modeling.load import load_base

FLOORS = {"transformers": "5.3", "torch": "2.6", "ray": "2.54"}


def test_pinned_versions_meet_the_floors_of_the_advisories():
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    pins = dict(line.split(";")[0].split("==") for line in lines if "==" in line)
    for name, floor in FLOORS.items():
        assert Version(pins[name].strip()) >= Version(floor), name


@pytest.mark.parametrize("section", ["model", "rivals"])
def test_code_of_a_checkpoint_cannot_be_let_in(section):
    asked = {"trust_remote_code": True}
    raw = {"model": asked} if section == "model" else {"rivals": {"x": {"model": "a/b", **asked}}}
    with pytest.raises(UserError, match="trust_remote_code' is not a setting"):
        build_config(raw)


def test_an_adapter_that_is_a_pickle_is_refused(tmp_path):
    torch.save({}, tmp_path / "adapter_model.bin")
    with (
        pytest.raises(UserError, match=r"no adapter_model\.safetensors: pickles are not read"),
        with_adapter(torch.nn.Linear(1, 1), tmp_path),  # type: ignore[arg-type]
    ):
        pass


def test_a_base_that_is_a_pickle_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(
        '{"model_type": "llama", "hidden_size": 8, "intermediate_size": 8, "vocab_size": 8, '
        '"num_hidden_layers": 1, "num_attention_heads": 1}'
    )
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match="pickles are not read"):
        load_base(ModelConfig(base=str(tmp_path), device="cpu"))


def test_reading_a_configuration_writes_nothing_and_opens_no_connection(tmp_path, monkeypatch):
    def connect(*_: object) -> None:
        pytest.fail("a connection")

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(socket, "getaddrinfo", connect)
    monkeypatch.chdir(tmp_path)
    build_config(
        {
            "run": str(tmp_path / "run"),
            "storage": "s3://stranger/bucket",
            "ray": {"address": "ray://stranger:10001"},
            "model": {"base": "stranger/model"},
            "data": {"source": "stranger/data"},
            "rivals": {"x": {"model": "stranger/rival"}},
        }
    )
    assert list(tmp_path.iterdir()) == []
