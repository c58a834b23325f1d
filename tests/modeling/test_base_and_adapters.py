"""Loading the base, in 4 bits or not, and what is refused."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from helpers import little
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from nutgraf.config import Config, LoraSettings, ModelConfig
from nutgraf.core.errors import Failure, UserError
from nutgraf.modeling import adapters, base_identity, load
from nutgraf.modeling import adapters as adapter
from nutgraf.modeling.base_files import base_fingerprint
from nutgraf.pipeline import artifacts
from nutgraf.storage.run_folder import RunFolder
from nutgraf.training.checkpoints import Checkpoints
from nutgraf.training.sft_trainer import AdapterTrainer


def test_nf4_holds_linear_layers_in_4_bits_and_keeps_the_output_close(tiny_base: Path) -> None:
    plain = load.load_base(ModelConfig(base=str(tiny_base), dtype="fp32", device="cpu"))
    packed = load.load_base(
        ModelConfig(base=str(tiny_base), dtype="fp32", device="cpu", quantization="nf4")
    )
    layer = packed.model.layers[0].mlp.up_proj.weight
    assert layer.dtype == torch.uint8
    assert layer.numel() == plain.model.layers[0].mlp.up_proj.weight.numel() // 2
    ids = torch.tensor([[1, 50, 60, 70]])
    with torch.no_grad():
        a, b = plain(input_ids=ids).logits, packed(input_ids=ids).logits
    assert 0 < (a - b).abs().mean() < 0.2 * a.abs().mean()


def test_a_base_too_large_for_the_device_names_what_to_set(
    tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 20 GiB")

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", full)
    with pytest.raises(Failure) as error:
        load.load_weights(ModelConfig(base=str(tiny_base)))
    assert str(error.value) == (
        f"no memory on the device for model.base {str(tiny_base)!r} (CUDA out of memory. Tried to "
        "allocate 20 GiB): free some, set model.quantization to nf4, or model.device to cpu"
    )


def test_all_linear_leaves_the_output_layer_out(tiny_base: Path) -> None:
    base = load.load_base(ModelConfig(base=str(tiny_base), dtype="fp32", device="cpu"))
    with adapters.fresh_adapter(base, LoraSettings(r=2), 0) as adapted:
        names = {n for n, p in adapted.named_parameters() if p.requires_grad}
        assert all(p.dtype == torch.float32 for p in adapted.parameters() if p.requires_grad)
    assert not any("lm_head" in name for name in names)
    assert any("q_proj" in name for name in names)
    assert any("down_proj" in name for name in names)


@pytest.mark.parametrize("rows", [1, 3])
def test_logits_of_the_last_positions_cost_no_copy_of_the_output_layer(tiny_base, rows) -> None:
    """torch multiplies a slice in batches, and in bf16 lays the weights out anew for each."""
    config = ModelConfig(base=str(tiny_base), dtype="bf16", device="cpu")
    base = load.load_base(config)
    head = base.get_output_embeddings().weight
    ids = torch.arange(1, 1 + 20 * rows).reshape(rows, 20)
    with load.choose_device(config).autocast(), torch.no_grad():
        everywhere = base(input_ids=ids).logits
        with torch.profiler.profile(record_shapes=True) as seen:
            last = base(input_ids=ids, logits_to_keep=5).logits
    torch.testing.assert_close(last, everywhere[:, -5:])
    copied = [
        math.prod(event.input_shapes[0])
        for event in seen.events()
        if event.name == "aten::copy_" and event.input_shapes[0]
    ]
    assert copied
    assert max(copied) < head.numel()


def test_unknown_target_modules_are_a_users_mistake(tiny_base: Path) -> None:
    base = load.load_base(ModelConfig(base=str(tiny_base), dtype="fp32", device="cpu"))
    lora = LoraSettings(target_modules=("nonsense_proj",))
    with pytest.raises(UserError, match="nonsense_proj"), adapters.fresh_adapter(base, lora, 0):
        pass


def test_a_base_that_is_not_there_says_what_to_do(tmp_path: Path) -> None:
    config = ModelConfig(base=str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="is not there: correct the path"):
        load.load_base(config)


def test_pickled_weights_are_refused(tiny_base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pickled"
    shutil.copytree(tiny_base, folder)
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="safetensors"):
        load.load_base(ModelConfig(base=str(folder), dtype="fp32", device="cpu"))


def test_identity_follows_the_shape_not_the_place(tiny_base: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tiny_base, copy)
    one = base_identity.base_identity(ModelConfig(base=str(tiny_base)))
    assert one["shape"] == base_identity.base_identity(ModelConfig(base=str(copy)))["shape"]
    config = json.loads((copy / "config.json").read_text())
    config["num_hidden_layers"] = 3
    (copy / "config.json").write_text(json.dumps(config))
    assert one["shape"] != base_identity.base_identity(ModelConfig(base=str(copy)))["shape"]


def test_cuda_without_a_gpu_is_a_users_mistake() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(UserError, match=r"model\.device is 'cuda'"):
        load.choose_device(ModelConfig(device="cuda"))


def test_fp16_on_a_cpu_is_a_users_mistake() -> None:
    with pytest.raises(UserError, match=r"model\.dtype is 'fp16'"):
        load.choose_device(ModelConfig(device="cpu", dtype="fp16"))


def changed_weights(base: Path, copy: Path) -> Path:
    """A base of the same form that was trained on: the same names and shapes, other numbers."""
    shutil.copytree(base, copy)
    weights = load_file(copy / "model.safetensors")
    save_file(
        {k: v + 1e-3 for k, v in weights.items()}, copy / "model.safetensors", {"format": "pt"}
    )
    return copy


def test_identity_sees_other_weights_of_the_same_shape(tiny_base: Path, tmp_path: Path) -> None:
    there = base_identity.base_identity(ModelConfig(base=str(tiny_base)))
    same = base_identity.base_identity(
        ModelConfig(base=str(shutil.copytree(tiny_base, tmp_path / "same")))
    )
    other = base_identity.base_identity(
        ModelConfig(base=str(changed_weights(tiny_base, tmp_path / "other")))
    )
    assert there["weights"] == same["weights"] != other["weights"]
    assert there["shape"] == other["shape"]


def test_identity_reads_every_shard(tiny_base: Path, tmp_path: Path) -> None:
    def sharded(name: str, plus: float) -> str:
        folder = shutil.copytree(tiny_base, tmp_path / name)
        weights = load_file(folder / "model.safetensors")
        (folder / "model.safetensors").unlink()
        files = {f"model-{n}.safetensors": dict(list(weights.items())[n::2]) for n in range(2)}
        save_file(files["model-0.safetensors"], folder / "model-0.safetensors")
        second = {k: v + plus for k, v in files["model-1.safetensors"].items()}
        save_file(second, folder / "model-1.safetensors")
        index = {"weight_map": {key: file for file, held in files.items() for key in held}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        return str(base_identity.base_identity(ModelConfig(base=str(folder)))["weights"])

    assert sharded("a", 0.0) == sharded("b", 0.0) != sharded("c", 1e-3)


def test_what_was_made_with_weights_that_have_changed_since_is_made_again(
    tiny_base: Path, tmp_path: Path
) -> None:
    """A folder, or the head of a repository on the Hub, can hold other weights tomorrow."""
    base = shutil.copytree(tiny_base, tmp_path / "base")
    config = Config.model_validate({"run": str(tmp_path / "run"), "model": {"base": str(base)}})
    folder = RunFolder(config.run)
    with folder.artefact("data").writing() as out:
        (out / "data").write_text("")
    (artefact,) = artifacts.search(config, folder)
    with artefact.writing() as out:
        (out / "search").mkdir()
        (out / "search" / "best.yaml").write_text("{}")
    assert artefact.is_current
    changed_weights(tiny_base, tmp_path / "other")
    shutil.copy(tmp_path / "other" / "model.safetensors", base)
    (artefact,) = artifacts.search(config, folder)
    assert (artefact.outdated or "").startswith("base_weights was ")
    fixed = ModelConfig(base="some/model", revision="0" * 40)
    asked = ("base_weights", "chat_template")
    assert base_fingerprint(fixed, *asked) == base_fingerprint(ModelConfig(), *asked) == {}


# Number formats.


def test_a_gpu_without_bf16_computes_in_fp16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as the T4. Where bf16 is only emulated it is slower than fp16."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    asked = []

    def supported(including_emulation: bool = True) -> bool:
        asked.append(including_emulation)
        return including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    assert load.choose_device(ModelConfig()) == load.Device("cuda", torch.float16)
    assert asked == [False]
    assert load.choose_device(ModelConfig(dtype="fp32")).dtype == torch.float32
    assert load.choose_device(ModelConfig(device="cpu")).name == "cpu"


@pytest.mark.parametrize(
    ("quantization", "held"), [("none", torch.float16), ("nf4", torch.float32)]
)
def test_adapters_are_trained_and_saved_in_fp32_whatever_the_base_is_held_in(
    tiny_base: Path, tmp_path: Path, quantization: str, held: torch.dtype
) -> None:
    """GradScaler refuses fp16 weights, and trl would cast those of a 4-bit base to bf16."""
    config = ModelConfig(base=str(tiny_base), device="cpu", dtype="fp32", quantization=quantization)
    base = load.load_base(config)
    if held == torch.float16:
        base = AutoModelForCausalLM.from_pretrained(tiny_base, dtype=held).requires_grad_(False)
    with adapters.fresh_adapter(base, LoraSettings(r=2), 0) as adapted:
        assert {p.dtype for p in adapted.parameters() if p.requires_grad} == {torch.float32}
        trainer = AdapterTrainer(
            adapted, load.load_tokenizer(config),
            little.job(config, little.SETTINGS, tmp_path / "a"),
            load.choose_device(config), Checkpoints(tmp_path / "a", {}, "a"),
        )  # fmt: skip
        optimizer = trainer.create_optimizer()
        trained = [p for group in optimizer.param_groups for p in group["params"]]
        assert {p.dtype for p in trained} == {torch.float32}
        assert len(trained) == len(adapter.adapter_weights(adapted))
        trainer.save_model(str(tmp_path / "b"))
    saved = load_file(tmp_path / "b" / "adapter_model.safetensors")
    assert {weight.dtype for weight in saved.values()} == {torch.float32}
