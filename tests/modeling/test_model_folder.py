"""What lies where a model should be is named for what it is, and never blamed on the Hub."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nutgraf.config import ModelConfig
from nutgraf.core import hub
from nutgraf.core.errors import Failure, UserError
from nutgraf.modeling.base_files import hash_weights
from nutgraf.modeling.load import load_tokenizer
from nutgraf.modeling.model_folder import check_folder
from nutgraf.modeling.saved_model import find_model

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
ADAPTER = json.dumps({"base_model_name_or_path": "someone/base"}).encode()


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (None, "is not there: correct the path"),
        ({}, "has no config.json and is empty"),
        ({"notes.txt": b""}, "has no config.json and holds notes.txt"),
        ({"a.gguf": b"GGUF"}, r"holds a GGUF file \(a.gguf\)"),
        (
            {"adapter_config.json": ADAPTER},
            "is an adapter, no model: give its base, 'someone/base'",
        ),
        ({"v1/config.json": b"{}"}, r"has no config.json: is it .*/v1\?"),
        (
            {"config.json": b"{}", "pytorch_model.bin": b""},
            "has no model.safetensors and holds pytorch_model.bin: .* pickles are not read",
        ),
        ({"config.json": b"{}", "adapter_model.safetensors": b""}, "holds adapter_model.safetens"),
        ({"config.json": b"{}", "model.safetensors": POINTER}, "model.safetensors is a pointer of"),
        (
            {"config.json": b"{}", "model.safetensors": b"", "tokenizer.json": POINTER},
            "tokenizer.json is a pointer of Git LFS, not the file itself: run `git lfs pull`",
        ),
    ],
)
@pytest.mark.parametrize("name", ["base", "[a] b#c"])
def test_what_is_no_model_is_named(tmp_path: Path, files, said, name) -> None:
    folder = tmp_path / name
    for file, content in (files or {}).items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(content)
    if files == {}:
        folder.mkdir()
    base = ModelConfig(base=str(folder))
    for use in (lambda: check_folder("model.base", str(folder)), lambda: load_tokenizer(base),
                lambda: hash_weights(base)):  # fmt: skip
        with pytest.raises(UserError, match=said) as error:
            use()
        assert "hugging" not in str(error.value).lower()


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(b"GGUF\x03")
    (tmp_path / "model.safetensors").write_bytes(b"\0")
    with pytest.raises(UserError, match=r"'.*/a.gguf' is a GGUF file: give the folder"):
        check_folder("rivals.x.model", str(tmp_path / "a.gguf"))
    with pytest.raises(UserError, match="is a file: give the folder"):
        check_folder("rivals.x.model", str(tmp_path / "model.safetensors"))


def test_a_saved_model_of_pointers_is_named(tmp_path: Path) -> None:
    (tmp_path / "nutgraf.json").write_text("{}")
    (tmp_path / "adapter_model.safetensors").write_bytes(POINTER)
    with pytest.raises(UserError, match=r"adapter_model.safetensors is a pointer of Git LFS"):
        find_model(str(tmp_path))


@pytest.mark.parametrize("model", ["./runs", "../runs", "~/runs", "runs/mine/deep", "[x]/y"])
def test_a_path_is_never_looked_for_on_the_hub(monkeypatch, model) -> None:
    monkeypatch.setattr(hub, "download", lambda *_: pytest.fail("asked the Hub"))
    with pytest.raises(UserError, match="holds no model"):
        find_model(model)


def test_without_a_connection_one_line_comes_at_once(monkeypatch) -> None:
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "_first_connection_error", lambda: "no route")
    with pytest.raises(Failure, match=r"'someone/new' is no folder here, not .* \(no route\)"):
        check_folder("model.base", "someone/new")
