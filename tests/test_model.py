"""Loading the base, in 4 bits or not, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from nutgraf import model
from nutgraf.problems import Failure, UserError
from nutgraf.settings import LoraSettings, ModelConfig


def test_nf4_holds_linear_layers_in_4_bits_and_keeps_the_output_close(tiny_base: Path) -> None:
    plain = model.load_base(ModelConfig(base=str(tiny_base), dtype="fp32", device="cpu"))
    packed = model.load_base(
        ModelConfig(base=str(tiny_base), dtype="fp32", device="cpu", quantization="nf4")
    )
    layer = packed.model.layers[0].mlp.up_proj.weight
    assert layer.dtype == torch.uint8
    assert layer.numel() == plain.model.layers[0].mlp.up_proj.weight.numel() // 2
    ids = torch.tensor([[1, 50, 60, 70]])
    with torch.no_grad():
        a, b = plain(input_ids=ids).logits, packed(input_ids=ids).logits
    assert 0 < (a - b).abs().mean() < 0.2 * a.abs().mean()


def test_all_linear_leaves_the_output_layer_out(tiny_base: Path) -> None:
    base = model.load_base(ModelConfig(base=str(tiny_base), dtype="fp32", device="cpu"))
    with model.fresh_adapter(base, LoraSettings(r=2), 0) as adapted:
        names = {n for n, p in adapted.named_parameters() if p.requires_grad}
        assert all(p.dtype == torch.float32 for p in adapted.parameters() if p.requires_grad)
    assert not any("lm_head" in name for name in names)
    assert any("q_proj" in name for name in names)
    assert any("down_proj" in name for name in names)


def test_unknown_target_modules_are_a_users_mistake(tiny_base: Path) -> None:
    base = model.load_base(ModelConfig(base=str(tiny_base), dtype="fp32", device="cpu"))
    lora = LoraSettings(target_modules=("nonsense_proj",))
    with pytest.raises(UserError, match="nonsense_proj"), model.fresh_adapter(base, lora, 0):
        pass


def test_a_base_that_is_not_there_says_what_to_do(tmp_path: Path) -> None:
    config = ModelConfig(base=str(tmp_path / "nowhere"))
    with pytest.raises(Failure, match="could not be loaded"):
        model.load_base(config)


def test_pickled_weights_are_refused(tiny_base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pickled"
    shutil.copytree(tiny_base, folder)
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(Failure, match="safetensors"):
        model.load_base(ModelConfig(base=str(folder), dtype="fp32", device="cpu"))


def test_identity_follows_the_shape_not_the_place(tiny_base: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tiny_base, copy)
    one = model.identity(ModelConfig(base=str(tiny_base)))
    assert one["shape"] == model.identity(ModelConfig(base=str(copy)))["shape"]
    config = json.loads((copy / "config.json").read_text())
    config["num_hidden_layers"] = 3
    (copy / "config.json").write_text(json.dumps(config))
    assert one["shape"] != model.identity(ModelConfig(base=str(copy)))["shape"]


def test_cuda_without_a_gpu_is_a_users_mistake() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(UserError, match=r"model\.device is 'cuda'"):
        model.choose_device(ModelConfig(device="cuda"))


def test_fp16_on_a_cpu_is_a_users_mistake() -> None:
    with pytest.raises(UserError, match=r"model\.dtype is 'fp16'"):
        model.choose_device(ModelConfig(device="cpu", dtype="fp16"))
