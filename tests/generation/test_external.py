"""Rivals: files of summaries and sequence-to-sequence checkpoints, as systems like any other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from transformers import GenerationConfig

from nutgraf.config import LoraSettings, RivalConfig
from nutgraf.config.load import ConfigError, build_config
from nutgraf.core.errors import Failure, UserError
from nutgraf.core.files import read_records
from nutgraf.data.rows import Article
from nutgraf.evaluation import rouge
from nutgraf.generation import external
from nutgraf.modeling.adapters import fresh_adapter
from nutgraf.modeling.load import load_base
from nutgraf.pipeline.runner import run_stage
from nutgraf.storage.run_folder import RunFolder

TEST = [
    Article("a", "The mayor opened a bridge. It rained.", "Mayor opens bridge."),
    Article("b", "A dog won the race in Oldport on Monday.", "Dog wins race."),
    Article("c", "Nothing happened.", "Nothing."),
]


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize(
    ("rivals", "said"),
    [
        ({"bart": {}}, "rivals.bart: model is None and file None: set exactly one"),
        ({"bart": {"model": "x", "file": "y"}}, "set exactly one of them"),
        ({"best": {"file": "y"}}, "'best' cannot be a rival's name"),
        ({"reference": {"file": "y"}}, "'reference' cannot be a rival's name"),
        ({"best-seed-2": {"file": "y"}}, "'best-seed-2' cannot be a rival's name"),
        ({"nan": {"file": "y"}}, "'nan' cannot be a rival's name"),  # no name in a table
        ({"null": {"file": "y"}}, "'null' cannot be a rival's name"),
        ({"../x": {"file": "y"}}, "'../x' cannot be a rival's name"),
        ({"bart": {"modell": "x"}}, "'rivals.bart.modell' is not a setting"),
    ],
)
def test_settings_say_what_is_wrong(rivals: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said.replace(".", r"\.")):
        build_config({"rivals": rivals})


def test_a_file_is_joined_by_id(tmp_path: Path) -> None:
    rows = [{"key": key, "text": f"About {key}."} for key in "xcb"] + [{"key": "a", "text": ""}]
    rival = RivalConfig(file=write(tmp_path / "s.jsonl", rows), id="Key", summary="text ")
    summaries = external.read_summaries("other", rival, TEST)
    texts = [(row["id"], row["text"]) for row in summaries]
    assert texts == [("a", ""), ("b", "About b."), ("c", "About c.")]


def test_marks_of_a_generator_are_cleaned_and_counted_once(tmp_path: Path, caplog) -> None:
    rows = [{"id": key, "summary": f"It&#39;s {key}.<q>Yes.</s>"} for key in "ab"]
    rival = RivalConfig(file=write(tmp_path / "s.jsonl", [*rows, {"id": "c", "summary": "C < d."}]))
    with caplog.at_level("INFO", "nutgraf"):
        readings = [external.read_summaries("other", rival, TEST) for _ in range(2)]
    assert [row["text"] for row in readings[0]] == ["It's a.\nYes.", "It's b.\nYes.", "C < d."]
    (line,) = caplog.messages
    assert line.endswith("marks of a generator cleaned in 2 (&#39; 2, <q> 2, </s> 2)")


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"id": "a", "summary": "A."}], "lacks summaries of 2 of 3 test articles, the first 'b'"),
        ([{"id": k, "summary": None} for k in "abc"], "lacks summaries of 3 of 3"),
        ([{"id": k, "summary": 3} for k in "abc"], "summary of article 'a' is 3, not text"),
        ([{"id": "a", "sumary": "A."}], "no column 'summary': did you mean 'sumary'"),
        ([{"id": "a", "summary": t} for t in "xy"], "two summaries of article 'a'"),
    ],
)
def test_what_a_file_lacks_is_said(tmp_path: Path, rows: list[dict[str, str]], said: str) -> None:
    with pytest.raises(UserError, match=said):
        external.read_summaries("other", RivalConfig(file=write(tmp_path / "s.jsonl", rows)), TEST)


def test_a_missing_file_is_known_before_anything_is_made(tmp_path: Path) -> None:
    config = build_config(
        {"run": str(tmp_path / "run"), "rivals": {"other": {"file": "gone.jsonl"}}}
    )
    folder = RunFolder(config.run)
    with pytest.raises(UserError, match=r"gone\.jsonl does not exist"):
        run_stage("prepare", config, folder)
    assert not (folder / "data").exists()


def _checkpoint(folder: Path, kind: str, tokenizer: Path) -> str:
    """A tiny random model with decoding settings of its own."""
    import torch
    from transformers import (
        AutoTokenizer,
        BartConfig,
        BartForConditionalGeneration,
        GenerationConfig,
        PegasusConfig,
        PegasusForConditionalGeneration,
    )

    words = AutoTokenizer.from_pretrained(tokenizer)
    words.pad_token, words.model_max_length = "<unk>", 64
    words.save_pretrained(str(folder))
    shape = {
        "vocab_size": len(words), "d_model": 32, "encoder_layers": 1, "decoder_layers": 1,
        "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 32,
        "decoder_ffn_dim": 32, "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1,
        "eos_token_id": 2, "decoder_start_token_id": 2, "forced_eos_token_id": 2,
    }  # fmt: skip
    torch.manual_seed(3)
    model = (
        BartForConditionalGeneration(BartConfig(**shape))
        if kind == "bart"
        else PegasusForConditionalGeneration(PegasusConfig(**shape))
    )
    model.generation_config = GenerationConfig(
        num_beams=3, min_length=5, max_length=9, no_repeat_ngram_size=2, pad_token_id=0,
        eos_token_id=2, decoder_start_token_id=2, forced_eos_token_id=2,
    )  # fmt: skip
    model.save_pretrained(str(folder))
    return str(folder)


@pytest.mark.parametrize("kind", ["bart", "pegasus"])
def test_a_checkpoint_decodes_by_its_own_settings(
    kind: str, tmp_path: Path, tiny_base: Path
) -> None:
    import torch
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    folder = _checkpoint(tmp_path / kind, kind, tiny_base)
    news = [*TEST, Article("long", "word " * 200, "Words.")]
    rival = RivalConfig(model=folder, batch_size=2)
    model = external.load_rival(kind, rival, "cpu")
    first, *others = model.summaries(news)
    assert list(model.summaries(news, done=first)) == others
    row_by_index = {index: row for batch in (first, *others) for index, row in batch.items()}
    rows = [row_by_index[index] for index in range(len(news))]
    assert [row["id"] for row in rows] == [a.id for a in news]
    assert rows[-1]["prompt_tokens"] == 64
    assert rows[-1]["trimmed_tokens"] > 100
    assert all(row["trimmed_tokens"] == 0 for row in rows[:-1])
    # The same text as the model alone gives, so no setting of ours got in.
    tokenizer = AutoTokenizer.from_pretrained(folder)
    plain = AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
    for row, article in zip(rows, news, strict=True):
        ids = tokenizer(article.article, truncation=True, max_length=64, return_tensors="pt")
        with torch.no_grad():
            out = plain.generate(ids["input_ids"], attention_mask=ids["attention_mask"])
        assert row["text"] == tokenizer.decode(out[0], skip_special_tokens=True).strip()
        assert 5 <= out.shape[1] <= 9
        # An end that was forced in the ninth place is no end of the model's own.
        assert row["finish_reason"] == ("length" if out.shape[1] == 9 else "stop")
        assert row["decoding"]["num_beams"] == 3


def test_a_rival_without_memory_names_its_own_batch_size(
    tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    folder = _checkpoint(tmp_path / "bart", "bart", tiny_base)
    rival = external.load_rival("mine", RivalConfig(model=folder, batch_size=3), "cpu")

    def full(**_: Any) -> None:
        raise torch.OutOfMemoryError("tried to allocate 20 GiB")

    monkeypatch.setattr(rival._model, "generate", full)
    with pytest.raises(Failure, match=r"lower rivals\.mine\.batch_size \(now 3\)$") as error:
        list(rival.summaries(TEST))
    assert "no memory on the device for 3 rows" in str(error.value)


def test_a_decoder_is_no_rival_checkpoint(tiny_base: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"rivals\.x\.model .* is a llama, no sequence-to-sequence"):
        external.load_rival("x", RivalConfig(model=str(tiny_base)), "cpu")
    with pytest.raises(Failure, match=r"rivals\.x\.model .* could not be loaded"):
        external.load_rival("x", RivalConfig(model=str(tmp_path)), "cpu")


def test_published_outputs_score_as_the_library_scores_them(shared: Path, tmp_path: Path) -> None:
    real = shared / "cnndm-test-a.parquet"
    systems = ("seq2seq", "pgn", "pgn_cov")
    config = build_config(
        {
            "run": str(tmp_path / "run"),
            "data": {
                **dict.fromkeys(("train", "validation", "test"), str(real)),
                "train_examples": 4, "validation_examples": 4, "test_examples": 8,
            },
            "train": {"eval_examples": 4},
            "search": {"rouge_examples": 4},
            "generate": {"max_new_tokens": 4},
            "rivals": {name: {"file": str(real), "summary": name} for name in systems},
        }
    )  # fmt: skip
    folder = RunFolder(config.run)
    run_stage("prepare", config, folder)
    rows = pd.read_parquet(real).set_index("id")
    for name in systems:
        artefact = folder.artefact(
            f"summaries/{name}", outputs=[f"summaries/{name}.jsonl"], inputs=["data"]
        )
        assert not artefact.is_current
    for seed, name in enumerate(("baseline", "best")):
        with (
            folder.artefact(f"models/{name}").writing() as out,
            fresh_adapter(load_base(config.model), LoraSettings(r=2), seed) as model,
        ):
            model.save_pretrained(str(out / "models" / name))
    run_stage("generate", config, folder)
    for name in systems:
        for row in read_records(folder.summaries(name)):
            assert row["text"] == rows.loc[row["id"], name].strip()
    run_stage("score", config, folder)
    for name in systems:
        for row in read_records(folder.scores(name)):
            expected = rouge.score_rouge(
                rows.loc[row["id"], "highlights"], rows.loc[row["id"], name]
            )
            assert {kind: row[kind] for kind in expected} == pytest.approx(expected)


@pytest.mark.parametrize(
    ("ids", "more", "expected"),
    [
        ([2, 7, 8, 2, 1], {"eos_token_id": 2}, ([2, 7, 8], "stop")),
        ([2, 7, 9, 8, 2], {"eos_token_id": [2, 9]}, ([2, 7], "stop")),
        ([2, 7, 8], {"eos_token_id": [2, 9]}, ([2, 7, 8], "length")),
        ([2, 7, 2], {"eos_token_id": 2, "forced_eos_token_id": 2, "max_new_tokens": 2},
         ([2, 7], "length")),
    ],
)  # fmt: skip
def test_a_rival_s_summary_ends_at_any_of_its_ends(ids, more, expected) -> None:
    assert external._cut(ids, GenerationConfig(**more)) == expected


def test_a_rival_with_an_adapter_in_its_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match=r"rivals\.a\.model .* holds an adapter"):
        external.Seq2SeqRival("a", RivalConfig(model=str(tmp_path)), "cpu")
