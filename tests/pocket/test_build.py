"""The pocket model: its tokenizer, the shipped checkpoint and a build in seconds."""

import json
import random
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

from nutgraf import pocket
from tools.pocket import lessons
from tools.pocket.build import build
from tools.pocket.pretrain import Settings, encode, random_copies
from tools.pocket.probes import probe
from tools.pocket.tokenizer import BOS, EOS, name_pieces

CHECKPOINT = Path(pocket.__file__).parent / "checkpoint"


@cache
def shipped_tokenizer():
    return AutoTokenizer.from_pretrained(CHECKPOINT)


def ids_of(text: str) -> list[int]:
    return shipped_tokenizer()(text, add_special_tokens=False).input_ids


def test_special_tokens_are_those_of_llama():
    tokenizer = shipped_tokenizer()
    names = ["<unk>", "<s>", "</s>", "<pad>", "<|user|>", "<|assistant|>", "<|system|>"]
    assert tokenizer.convert_tokens_to_ids(names) == list(range(7))
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 3)
    assert tokenizer("Summarize: a storm").input_ids[0] == BOS
    assert tokenizer("Summarize: a storm").input_ids.count(BOS) == 1


def test_chat_template_is_zephyrs():
    text = shipped_tokenizer().apply_chat_template(
        [{"role": "user", "content": "Hello"}], tokenize=False, add_generation_prompt=True
    )
    assert text == "<|user|>\nHello</s>\n<|assistant|>\n"


@pytest.mark.parametrize(
    "text",
    [
        "Storm Ada left 1,204 homes dark.",
        "(CNN) -- The café’s “owner”, McDonald, said:\n\n 'no' … 日本 🙂",
        "  two  spaces\tand a tab\n",
    ],
)
def test_any_text_survives_the_tokenizer(text):
    assert shipped_tokenizer().decode(ids_of(text)) == text


def test_names_are_two_tokens_seen_or_not_and_digits_stand_alone():
    for held_out in (False, True):
        assert name_pieces(shipped_tokenizer(), held_out, n=500) == {2: 1.0}
    assert len(ids_of("12,345")) == 6


def test_vocabulary_is_2048():
    assert len(shipped_tokenizer()) == 2048


def test_shipped_checkpoint_is_small_half_precision_and_loads():
    files = [path for path in CHECKPOINT.iterdir() if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 10_000_000
    assert not [path for path in files if path.suffix in {".bin", ".pt"}]
    with safe_open(CHECKPOINT / "model.safetensors", "pt") as tensors:
        assert {tensors.get_tensor(name).dtype for name in list(tensors.keys())} == {torch.float16}
    model = AutoModelForCausalLM.from_pretrained(CHECKPOINT, dtype=torch.float32)
    assert model.config.model_type == "llama"
    assert model.config.tie_word_embeddings
    assert model.config.max_position_embeddings == 2048
    with torch.no_grad():
        logits = model(input_ids=torch.randint(7, 2048, (1, 1500))).logits
    assert bool(logits.isfinite().all())


def test_shipped_recipe_tells_how_it_was_made():
    recipe = json.loads((CHECKPOINT / "recipe.json").read_text(encoding="utf-8"))
    assert {"command", "settings", "versions", "machine", "result"} <= recipe.keys()
    assert recipe["result"]["tokens"] > 1_000_000
    rows = (CHECKPOINT / "curve.csv").read_text(encoding="utf-8").splitlines()
    assert rows[0].startswith("step,tokens,seconds,loss")
    assert len(rows) > 5


def test_shipped_model_copies_and_finds_facts_that_it_never_saw():
    model = AutoModelForCausalLM.from_pretrained(CHECKPOINT, dtype=torch.float32)
    shares = probe(model, shipped_tokenizer(), "cpu")
    assert shares["names"] >= 0.95
    assert shares["facts"] >= 0.95


def test_lesson_ends_and_is_weighted_like_its_spans():
    ids, weights = encode(shipped_tokenizer(), [(" a storm", 0.0), (" hit", 1.0)])
    assert ids[0] == BOS
    assert ids[-1] == EOS
    assert len(ids) == len(weights)
    assert weights[0] == 0
    assert weights[-2:] == [1.0, 1.0]


def test_random_copies_train_on_the_second_writing_alone():
    ids, weights = random_copies(random.Random(0), length=6, vocabulary=60, tokens=130)
    assert ids.shape == weights.shape == (10, 13)
    assert bool((ids[:, 1:7] == ids[:, 7:]).all())
    assert weights[0].tolist() == [0.0] * 8 + [1.0] * 5


def test_lessons_do_not_use_the_prompt_of_the_study():
    rng = random.Random(1)
    for _ in range(200):
        text = "".join(span for span, _ in lessons.lesson(rng))
        assert "Summar" not in text


def test_a_micro_build_runs_from_nothing_to_a_checkpoint(tmp_path):
    micro = replace(
        Settings(),
        hidden=32,
        layers=1,
        mlp=32,
        heads=2,
        kv_heads=1,
        curriculum_steps=2,
        warm_copy_steps=2,
        copy_batch_tokens=128,
        rows=2,
        row_tokens=64,
        tokens=800,
        probe_every=4,
    )
    result = build(tmp_path, micro, minutes=1, articles=200)
    assert result["tokens"] >= 800
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert model.dtype == torch.float16
    assert AutoTokenizer.from_pretrained(tmp_path)("x").input_ids[0] == BOS
    recipe = json.loads((tmp_path / "recipe.json").read_text(encoding="utf-8"))
    assert recipe["settings"]["hidden"] == 32
    assert (tmp_path / "curve.csv").read_text(encoding="utf-8").count("\n") >= 3
