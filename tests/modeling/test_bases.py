"""Bases as people have them: what they say of their ends, other architectures, incomplete files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import command
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from nutgraf.config import Config, GenerateConfig, LoraSettings, ModelConfig
from nutgraf.config.load import build_config
from nutgraf.core.errors import UserError
from nutgraf.generation.decoding import generate_batch, stream_tokens
from nutgraf.modeling import adapters, load, shape
from nutgraf.modeling.attention import training_attention
from nutgraf.modeling.base_identity import base_identity
from nutgraf.modeling.end_tokens import unused_settings
from nutgraf.modeling.load import Device, end_tokens, load_base, load_tokenizer
from nutgraf.pipeline import preflight
from nutgraf.planning.measuring import open_benchmark

PROMPTS = [[1, 50, 60, 70, 270], [1, 285]]  # of which the random base writes many a token
FEW = GenerateConfig(max_new_tokens=8)
CPU = Device("cpu", torch.float32)

Copy = Callable[..., ModelConfig]


@pytest.fixture
def copy(tiny_base: Path, tmp_path: Path) -> Copy:
    """Return a function that copies the base, with changes of its JSON files."""

    def changed(**files: dict[str, Any]) -> ModelConfig:
        folder = tmp_path / f"base-{len(list(tmp_path.iterdir()))}"
        shutil.copytree(tiny_base, folder)
        for name, change in files.items():
            path = folder / f"{name}.json"
            path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
        return ModelConfig(base=str(folder), dtype="fp32", device="cpu")

    return changed


def written(config: ModelConfig, **settings: Any) -> list[tuple[list[int], str]]:
    few = FEW.model_copy(update=settings)
    batch = generate_batch(load_base(config), load_tokenizer(config), PROMPTS, few, CPU)
    return [(summary.ids, summary.finish_reason) for summary in batch]


def streamed(config: ModelConfig) -> list[list[int]]:
    model, tokenizer = load_base(config), load_tokenizer(config)
    return [list(stream_tokens(model, tokenizer, ids, FEW, CPU)) for ids in PROMPTS]


# What a base says of decoding.


@pytest.mark.parametrize("where", ["generation_config", "config"])
def test_all_ends_that_the_base_names_end_a_summary(copy: Copy, where: str) -> None:
    (ids, reason), _ = written(copy())
    assert (len(ids), reason) == (8, "length")
    until, end = ids[:3], ids[3]
    config = copy(**{where: {"eos_token_id": [2, end]}})
    assert end_tokens(config) == (2, end)
    assert written(config)[0] == (until, "stop")
    assert streamed(config)[0] == until
    assert streamed(config) == [ids for ids, _ in written(config)]
    with adapters.fresh_adapter(load_base(config), LoraSettings(r=2), 0) as adapted:
        batch = generate_batch(adapted.eval(), load_tokenizer(config), PROMPTS[:1], FEW, CPU)
    assert (batch[0].ids, batch[0].finish_reason) == (until, "stop")
    assert all(end not in ids for ids, _ in written(config, num_beams=2))


@pytest.mark.parametrize(
    "files",
    [
        {"generation_config": {"stop_strings": ["<|im_end|>"]}},
        {
            "tokenizer_config": {
                "chat_template": "{% for m in messages %}<{{ m.role }}>{{ m.content }}<|im_end|>"
                "{% endfor %}"
            }
        },
    ],
)
def test_the_end_of_an_answer_in_a_chat_ends_a_summary(copy: Copy, files: dict[str, Any]) -> None:
    config = copy(**files)
    tokenizer = AutoTokenizer.from_pretrained(config.base)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<unk>", "<|im_end|>"]})
    tokenizer.save_pretrained(config.base)
    rows = tokenizer.convert_tokens_to_ids("<|im_end|>") + 1
    model = AutoModelForCausalLM.from_pretrained(config.base)
    model.resize_token_embeddings(rows)
    model.save_pretrained(config.base)
    for name, change in files.items():
        path = Path(config.base) / f"{name}.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    assert end_tokens(config) == (2, rows - 1)


def test_the_configuration_names_the_end_for_a_tokenizer_that_does_not(copy: Copy) -> None:
    ends = {"eos_token_id": [2, 270, 10**6, True]}  # some that no base can write
    config = copy(tokenizer_config={"eos_token": None}, generation_config=ends)
    assert load_tokenizer(config).eos_token == "</s>"
    assert end_tokens(config) == (2, 270)


def test_other_settings_of_the_base_change_neither_whole_summaries_nor_streams(copy: Copy) -> None:
    """transformers would fill them in, and `prompt_lookup` refuses batches."""
    plain = written(copy())
    config = copy(
        generation_config={
            "repetition_penalty": 50.0, "suppress_tokens": plain[0][0][:1], "min_new_tokens": 20,
            "stop_strings": ["of the"], "prompt_lookup_num_tokens": 3,
            "do_sample": True, "temperature": 0.5,
        },
        config={"num_beams": 4, "forced_eos_token_id": None},
    )  # fmt: skip
    assert written(config) == plain
    assert streamed(config) == [ids for ids, _ in plain]
    assert set(unused_settings(config)) == {
        "repetition_penalty", "suppress_tokens", "min_new_tokens", "stop_strings",
        "prompt_lookup_num_tokens", "do_sample", "temperature", "num_beams",
    }  # fmt: skip


# Bases that are none.


def test_a_base_with_an_adapter_in_its_folder_is_refused_everywhere(copy: Copy) -> None:
    """transformers would apply the adapter by itself."""
    config = copy()
    (Path(config.base) / "adapter_config.json").write_text('{"base_model_name_or_path": "x"}')
    for use in (load_base, load_tokenizer, load.load_weights, base_identity, end_tokens):
        with pytest.raises(UserError, match=r"holds an adapter \(adapter_config\.json\)"):
            use(config)
    result = command.run("check", "--model.base", config.base, status=2)
    assert "holds an adapter" in " ".join(result.stdout.split())


@pytest.mark.parametrize(
    ("model_type", "more", "reason"),
    [
        ("mamba", {}, "layers with a state"),
        ("lfm2", {"layer_types": ["conv"] * 32}, "layers with a state"),
        ("bart", {}, "is an encoder-decoder"),
        ("bert", {}, "is no causal language model"),
        ("clip", {}, "reads more than text"),
        ("gemma3", {}, "reads more than text"),
        ("llama", {"quantization_config": {"quant_method": "gptq", "bits": 4}}, r"\(gptq\)"),
        (
            "llama",
            {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}},
            r"stored quantized \(bitsandbytes\), .*model\.quantization nf4",
        ),
    ],
)
def test_a_base_that_cannot_be_trained_says_why(
    copy: Copy, model_type: str, more: dict[str, Any], reason: str
) -> None:
    config = copy()
    base_config = AutoConfig.for_model(model_type).to_dict() if model_type != "llama" else {}
    path = Path(config.base) / "config.json"
    path.write_text(json.dumps({**(base_config or json.loads(path.read_text())), **more}))
    for use in (load_base, load_tokenizer):
        with pytest.raises(UserError, match=reason):
            use(config)


def test_weights_that_are_not_there_are_not_drawn_at_random(copy: Copy) -> None:
    config = copy()
    file = Path(config.base) / "model.safetensors"
    weights = load_file(file)
    del weights["lm_head.weight"]  # as in a classifier
    save_file(weights, file, {"format": "pt"})
    study = build_config({"model": {"base": config.base}})
    for use in (lambda: load_base(config), lambda: preflight.require(preflight.of_models(study))):
        with pytest.raises(UserError, match=r"lacks weights of a LlamaForCausalLM .*lm_head"):
            use()


@pytest.mark.parametrize("token", ["[PAD]", "<|im_start|>", "Trump"])
def test_tokens_beyond_the_embedding(copy: Copy, token: str) -> None:
    """A padding token is none that the base ever reads; others would be an error in the middle."""
    config = copy()
    tokenizer = AutoTokenizer.from_pretrained(config.base)
    if token == "[PAD]":
        tokenizer.add_special_tokens({"pad_token": token})
    elif token == "Trump":
        tokenizer.add_tokens([token])
    else:
        tokenizer.add_special_tokens({"additional_special_tokens": [token]})
        tokenizer.chat_template = "<|im_start|>{{ messages[0].content }}"
    tokenizer.save_pretrained(config.base)
    if token == "[PAD]":
        assert load_tokenizer(config).pad_token_id == 2
        assert len(written(config)) == 2
    else:
        with pytest.raises(UserError, match=r"in its tokenizer and \d+ rows in its embedding"):
            load_tokenizer(config)


def test_a_configured_padding_token_beyond_the_embedding_is_left_out(copy: Copy) -> None:
    """torch makes no embedding with it."""
    assert written(copy(config={"pad_token_id": 10**6})) == written(copy())


def test_code_of_a_base_is_not_run_and_an_empty_tokenizer_is_named(copy: Copy) -> None:
    config = copy(config={"model_type": "own", "auto_map": {"AutoConfig": "own.Own"}})
    with pytest.raises(UserError, match="needs Python code of its own, which is never run"):
        load_tokenizer(config)
    config = copy(tokenizer_config={"tokenizer_class": "LlamaTokenizer"})
    (Path(config.base) / "tokenizer.json").unlink()
    with pytest.raises(UserError, match="has a tokenizer without tokens"):
        load_tokenizer(config)


def test_a_base_that_ends_at_once_is_measured(copy: Copy) -> None:
    """Of an empty summary there would be no second token to measure."""
    config = copy(generation_config={"eos_token_id": list(range(300))})
    assert written(config) == [([], "stop")] * 2
    study = build_config({"model": config.model_dump()})
    dims = shape.read_dims(config, study.lora)
    with open_benchmark(study, dims, CPU) as benchmark:
        assert min(benchmark.generation(PROMPTS, 1)) > 0
    assert written(config) == [([], "stop")] * 2


# Layers that get an adapter.


@pytest.mark.parametrize(
    ("targets", "reason"),
    [
        (("q_proj", "v_porj"), "'v_porj', and the base has no such layer: did you mean 'v_proj'"),
        (("q_proj", "self_attn"), "'self_attn', and that is a LlamaAttention, which cannot"),
        (("q_proj", "lm_head"), "'lm_head', and that is a Linear, which cannot"),
        (("proj",), "'proj', and the base has no such layer"),
    ],
)
def test_every_name_of_a_layer_has_to_fit(
    tiny_base: Path, targets: tuple[str, ...], reason: str
) -> None:
    config = build_config({"model": {"base": str(tiny_base)}, "lora": {"target_modules": targets}})
    for each in (config, _searched(tiny_base, list(targets))):
        with pytest.raises(UserError, match=reason) as caught:
            preflight.require(preflight.of_models(each))
        assert str(caught.value).endswith("up_proj, v_proj")


def _searched(base: Path, targets: list[str]) -> Config:
    space = {"lora.target_modules": {"choices": ["all-linear", targets]}}
    return build_config({"model": {"base": str(base)}, "search": {"space": space}})


# Other architectures.

SMALL = {"vocab_size": 384, "hidden_size": 32, "n_layer": 2, "n_head": 2, "bos_token_id": 1,
         "eos_token_id": 2}  # fmt: skip


@pytest.mark.parametrize(
    ("model_type", "more", "positions"),
    [
        ("bloom", SMALL, 2**31),
        ("gpt2", {**SMALL, "n_embd": 32, "n_positions": 128}, 128),
        ("mpt", {"vocab_size": 384, "d_model": 32, "n_layers": 2, "n_heads": 2}, 2048),
        (
            "gpt_neo",
            {"vocab_size": 384, "hidden_size": 32, "num_layers": 4, "num_heads": 2,
             "attention_types": [[["global", "local"], 2]]},
            2048,
        ),
    ],
)  # fmt: skip
def test_dimensions_are_read_whatever_an_architecture_calls_them(
    tiny_base: Path, tmp_path: Path, model_type: str, more: dict[str, Any], positions: int
) -> None:
    folder = shutil.copytree(tiny_base, tmp_path / "base")
    base_config = AutoConfig.for_model(model_type, **more)
    AutoModelForCausalLM.from_config(base_config).save_pretrained(folder)
    config = ModelConfig(base=str(folder), dtype="fp32", device="cpu")
    dims = shape.read_dims(config, LoraSettings(r=2))
    assert (dims.width, dims.heads, dims.query_width, dims.vocabulary) == (32, 2, 32, 384)
    assert min(dims.positions, 2**31) == positions
    assert dims.adapter > 0
    shape.write_random_base(config, 2, tmp_path / "stand-in")
    stand_in = ModelConfig(base=str(tmp_path / "stand-in"), dtype="fp32", device="cpu")
    assert shape.read_dims(stand_in, LoraSettings(r=2)).layers == 2
    assert [len(ids) for ids, _ in written(stand_in)] <= [8, 8]
    load_base.cache_clear()


def test_a_base_that_caps_its_attention_is_trained_so(tiny_base: Path) -> None:
    """Gemma 2 does; attention in blocks would leave it out."""
    base_config = AutoConfig.for_model(
        "gemma2", vocab_size=384, hidden_size=32, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, head_dim=16, attn_logit_softcapping=0.01,
    )  # fmt: skip
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(base_config, attn_implementation="eager").eval()
    ids = torch.tensor([[1, 50, 60, 70, 90]])
    with torch.no_grad():
        expected = model(input_ids=ids).logits
        with training_attention(model, CPU, 1, 5):
            torch.testing.assert_close(model(input_ids=ids).logits, expected)


def test_experts_of_a_mixture_get_no_adapter_and_the_rest_does(tmp_path: Path) -> None:
    base_config = AutoConfig.for_model(
        "mixtral", vocab_size=384, hidden_size=32, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2, num_local_experts=2,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(base_config)
    with (
        pytest.raises(UserError, match=r"experts of a mixture.*k_proj, o_proj, q_proj, v_proj"),
        adapters.fresh_adapter(model, LoraSettings(r=2), 0),
    ):
        pass
    with adapters.fresh_adapter(model, LoraSettings(r=2, target_modules=("q_proj",)), 0) as adapted:
        assert len(adapters.adapter_weights(adapted)) == 2
