"""One GGUF file of a study: the same model, proven, named, and refused if it is another."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from gguf import GGMLQuantizationType as Kind
from gguf import GGUFReader, GGUFWriter
from helpers import command, gguf_files, made_up
from transformers import AutoTokenizer

from nutgraf.cli import export, export_gguf
from nutgraf.config import ModelConfig
from nutgraf.core.errors import Failure, UserError
from nutgraf.generation.summarizer import load_summarizer
from nutgraf.modeling import gguf_file, gguf_tokenizer, gguf_write, saved_model
from nutgraf.modeling.gguf_tokenizer import tokenizer_fields
from nutgraf.modeling.load import load_tokenizer
from nutgraf.report.gguf_fields import chat_template, licence
from nutgraf.serving import models as serving_models

TEXTS = (*export_gguf._TEXTS, "  two  spaces", "a\n\n b", "The council met. It had 2024 roads.")


@pytest.fixture(autouse=True)
def few_articles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export_gguf, "ROWS", 2)


@pytest.fixture(scope="module")
def study(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    base = shutil.copytree(tiny_base, folder / "base")
    config = json.loads((base / "config.json").read_text())
    # Room for the prompts of a study that was never run, which preflight would have refused.
    (base / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 4096}))
    (base / "README.md").write_text("---\nlanguage: en\nlicense: mit\n---\n# Tiny\n")
    return made_up.write(str(base), folder / "model")


@pytest.fixture(scope="module")
def exported(study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    to = tmp_path_factory.mktemp("exports") / "f32"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export_gguf, "ROWS", 2)
        export.run(study, to, "gguf", quantize="f32", author="A. Writer")
    return to


def fields_of(file: Path) -> dict[str, Any]:
    return {name: field.contents() for name, field in GGUFReader(file).fields.items()}


def test_the_file_alone_writes_what_the_study_writes(
    study: Path, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = []
    for model in (study, exported):
        with load_summarizer(saved_model.read_saved_model(str(model))) as summarizer:
            written.append([(row.summary, row.new_tokens) for row in summarizer.summarize(TEXTS)])
    assert written[0] == written[1]
    assert len({summary for summary, _ in written[0]}) > 1
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    shutil.copy(exported / "model.gguf", "mine.gguf")
    asked = ["summarize", "--json", "--model", "mine.gguf", "--engine"]
    done = command.run(*asked, "transformers", stdin=TEXTS[0])
    row = json.loads(done.stdout)
    assert row["summary"] == written[0][0][0]
    pytest.importorskip("xllamacpp", reason="llama.cpp is not installed: pip install xllamacpp")
    other = json.loads(command.run(*asked, "llama.cpp", stdin=TEXTS[0]).stdout)
    assert other.keys() == row.keys()
    assert (other["prompt_tokens"], other["article"]) == (row["prompt_tokens"], TEXTS[0])
    pieces: list[Any] = []
    with serving_models.loaded("mine.gguf") as models:
        models.write("best", TEXTS[:1], [True], lambda _, event: not pieces.append(event))
    assert "".join(piece for piece in pieces[:-1]) == pieces[-1].summary == other["summary"]


def test_the_same_file_is_written_twice(study: Path, exported: Path, tmp_path: Path) -> None:
    export.run(study, tmp_path / "again", "gguf", quantize="f32", author="A. Writer")
    names = {path.name for path in exported.iterdir()}
    assert names == {"model.gguf", "Modelfile", "nutgraf.json", "README.md"}
    for name in names:
        assert (tmp_path / "again" / name).read_bytes() == (exported / name).read_bytes(), name


def test_the_file_says_what_it_is_and_what_was_proven(study: Path, exported: Path) -> None:
    fields = fields_of(exported / "model.gguf")
    about = json.loads((exported / "nutgraf.json").read_text())
    proof = about["gguf_file"]
    assert abs(proof["loss_after"] - proof["loss_before"]) < 1e-4
    assert (proof["format"], proof["articles"]) == ("f32", "2 articles of the newswire")
    if importlib.util.find_spec("xllamacpp"):
        assert (proof["summaries_by_llama_cpp"], proof["same_summaries"]) == (2, 2)
    assert fields["nutgraf.proof.loss"] == pytest.approx(proof["loss_after"], abs=1e-6)
    assert fields["nutgraf.proof.loss_of_study"] == pytest.approx(proof["loss_before"], abs=1e-6)
    assert fields["general.author"] == "A. Writer"
    assert fields["general.license"] == "mit"
    assert fields["general.size_label"] == "112K"
    assert "ROUGE-Lsum 35.12 (33.12 to 37.62) on 100 unseen" in fields["general.description"]
    scores = [fields[f"nutgraf.scores.rouge2{end}"] for end in ("", ".low", ".high")]
    assert scores == [20.25, 18.25, 22.75]
    card = (exported / "README.md").read_text()
    assert f"Writing the file in f32 changed the loss on {proof['articles']}" in card
    assert "$ nutgraf summarize --model model.gguf article.txt" in card
    # A program that knows chats alone writes the study's prompt of a message with an article.
    saved = saved_model.read_saved_model(str(exported))
    tokenizer = load_tokenizer(saved.model)
    chat = [{"role": "user", "content": f" {TEXTS[0]}\n"}]
    prompt = tokenizer.apply_chat_template(chat, tokenize=False)
    with load_summarizer(saved) as summarizer:
        assert tokenizer(prompt)["input_ids"] == summarizer._renderer.prompt(TEXTS[0]).ids


@pytest.mark.parametrize("text", ['say "x"\n\\n {{ y }} {% z %}', "<|im_start|>user\nÜber 'é'\t"])
def test_a_template_holds_any_prompt(study: Path, text: str) -> None:
    recipe = {"text_before": text, "text_after": text[::-1], "ends": {"</s>": 2}}
    tokenizer = load_tokenizer(saved_model.read_saved_model(str(study)).model)
    tokenizer.chat_template = chat_template(recipe)
    chat = [{"role": "user", "content": "A"}, {"role": "assistant", "content": "B"}]
    written = tokenizer.apply_chat_template(chat, tokenize=False)
    assert written == f"{text} A{text[::-1]}B</s>"


def test_without_llama_cpp_a_tokenizer_out_of_a_file_is_copied_as_it_is(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    without = lambda name, package=None: None if name == "xllamacpp" else find(name, package)  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", without)
    base = gguf_files.write(tiny_base, tmp_path / "base.gguf", {"general.license": "apache-2.0"})
    study = made_up.write(str(base), tmp_path / "study")
    export.run(study, tmp_path / "out", "gguf")
    own, its = fields_of(base), fields_of(tmp_path / "out" / "model.gguf")
    names = [name for name in own if name.startswith("tokenizer.")]
    assert len(names) == 9
    assert {name: its[name] for name in names} == {name: own[name] for name in names}
    assert its["general.license"] == "apache-2.0"
    assert [name for name in its if name.startswith("nutgraf.proof")] == [
        f"nutgraf.proof.{name}" for name in ("articles", "loss_of_study", "loss", "difference")
    ]
    assert "llama.cpp wrote" not in (tmp_path / "out" / "README.md").read_text()
    kinds = {tensor.tensor_type.name for tensor in GGUFReader(tmp_path / "out/model.gguf").tensors}
    assert kinds == {"F32", "Q8_0"}


def round_trip(tokenizer: Any, base: Path, file: Path, **changes: Any) -> Any:
    """Return the tokenizer as it is read out of a file, with a few more rows than tokens."""
    rows = np.zeros((len(tokenizer) + 5, 64), np.float32)
    old = dict.fromkeys(gguf_files._tokenizer(base))
    weights = dict.fromkeys(("token_embd.weight", "output.weight"), rows)
    fields = tokenizer_fields(tokenizer, len(rows))
    gguf_files.write(base, file, {**old, **fields, **weights, "llama.vocab_size": None, **changes})
    return gguf_file.read_tokenizer(file)


def test_a_llama_s_own_tokenizer_goes_into_a_file_and_comes_out(
    tiny_base: Path, shared: Path, tmp_path: Path
) -> None:
    """SentencePiece, as Llama 2, TinyLlama and Mistral have it; a file has scores, not merges."""
    tokenizer = AutoTokenizer.from_pretrained(shared / "llama-tokenizer")
    # A file of others may not say whether texts begin with a token.
    read = round_trip(
        tokenizer, tiny_base, tmp_path / "llama.gguf", **{"tokenizer.ggml.add_bos_token": None}
    )
    articles = pq.read_table(shared / "cnndm-train-100.parquet")["article"].to_pylist()[:20]
    for text in (*TEXTS, *articles, "你好 😀 \u200b", "</s> x", "\n 6.1", ""):
        ids = tokenizer(text)["input_ids"]
        assert read(text)["input_ids"] == ids
        assert read.decode(ids) == tokenizer.decode(ids)
    assert read.special_tokens_map.items() >= {"bos_token": "<s>", "eos_token": "</s>"}.items()
    fields = tokenizer_fields(tokenizer, 32_005)
    tokens, types, scores = (
        fields[f"tokenizer.ggml.{name}"] for name in ("tokens", "token_type", "scores")
    )
    score = dict(zip(tokens, scores, strict=True))
    assert score["▁t"] > score["er"] > score["▁the"] > score["▁council"] > score["a"]
    assert types[:4] == [2, 3, 3, 6]
    assert (tokens[-1], types[-1]) == ("[PAD32004]", 5)
    assert fields["tokenizer.ggml.add_bos_token"] is True


def with_tokenizer(base: Path, to: Path, **parts: Any) -> Any:
    """Return the tokenizer of `base` with other parts in its tokenizer.json."""
    shutil.copytree(base, to)
    raw = json.loads((to / "tokenizer.json").read_text())
    for name, part in parts.items():
        raw[name] = {**raw["model"], **part} if name == "model" else part
    (to / "tokenizer.json").write_text(json.dumps(raw))
    return AutoTokenizer.from_pretrained(to)


def sequence(name: str) -> dict[str, Any]:
    steps = [{**step, "trim_offsets": True} for step in gguf_tokenizer._SPLITS[name]]
    return {"type": "Sequence", "pretokenizers": steps}


@pytest.mark.parametrize("pre", ["smollm", "llama-bpe"])
def test_texts_are_split_as_the_tokenizer_splits_them(
    tiny_base: Path, tmp_path: Path, pre: str
) -> None:
    changes: dict[str, Any] = {"pre_tokenizer": sequence(pre)}
    if pre == "llama-bpe":
        vocabulary = json.loads((tiny_base / "tokenizer.json").read_text())["model"]["vocab"]
        whole = {**vocabulary, "Ġ2024": len(vocabulary)}  # a word that no merge makes
        changes["model"] = {"ignore_merges": True, "vocab": {**whole, "Ġroads": len(whole)}}
    tokenizer = with_tokenizer(tiny_base, tmp_path / "base", **changes)
    read = round_trip(tokenizer, tiny_base, tmp_path / "file.gguf")
    assert fields_of(tmp_path / "file.gguf")["tokenizer.ggml.pre"] == pre
    for text in TEXTS:
        assert read(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert ("Ġroads" in read.tokenize(TEXTS[-1])) is (pre == "llama-bpe")


NO_TOKENIZER: list[tuple[dict[str, Any], str]] = [
    ({"pre_tokenizer": {"type": "Whitespace"}}, "splits or changes texts in a way that has no nam"),
    ({"normalizer": {"type": "NFC"}}, "splits or changes texts in a way that has no name in GGUF"),
    ({"model": {"ignore_merges": True}}, "takes whole words without merges"),
    ({"model": {"byte_fallback": True}, "pre_tokenizer": None,
      "normalizer": {"type": "Sequence", "normalizers": [
          {"type": "Prepend", "prepend": "▁"},
          {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]}},
     "lacks tokens for single bytes"),
]  # fmt: skip


@pytest.mark.parametrize(("parts", "said"), NO_TOKENIZER, ids=lambda value: str(value)[:30])
def test_a_tokenizer_that_llama_cpp_has_not_is_refused(
    tiny_base: Path, tmp_path: Path, parts: dict[str, Any], said: str
) -> None:
    tokenizer = with_tokenizer(tiny_base, tmp_path / "base", **parts)
    with pytest.raises(UserError, match=f"tokenizer {said}.*: give --format merged$"):
        tokenizer_fields(tokenizer, len(tokenizer))


def test_merges_that_are_no_scores_are_refused(shared: Path) -> None:
    raw = json.loads((shared / "llama-tokenizer" / "tokenizer.json").read_text())
    assert list(gguf_tokenizer._faults(raw, "default")) == []
    pairs = gguf_tokenizer._merges(raw["model"])
    joined = Counter(map("".join, pairs))
    again = next(pair for pair in pairs if joined["".join(pair)] > 1)
    for merges in (pairs[:-1], [*(pair for pair in pairs if pair != again), again]):
        raw["model"]["merges"] = merges
        (fault,) = gguf_tokenizer._faults(raw, "default")
        assert fault == "has merges that do not follow from scores of its tokens"


def test_k_quants_are_proven_and_llama_cpp_writes_with_them(
    tiny_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("xllamacpp", reason="llama.cpp is not installed: pip install xllamacpp")
    study = made_up.write(str(gguf_files.wide(tiny_base, tmp_path / "base")), tmp_path / "study")
    for name in ("out", "again"):
        export.run(study, tmp_path / name, "gguf", quantize="q4_k_m", tolerance=1.0)
    file = tmp_path / "out" / "model.gguf"
    for path in file.parent.iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes(), path.name
    kinds = Counter(tensor.tensor_type.name for tensor in GGUFReader(file).tensors)
    assert kinds == {"Q4_K": 20, "Q6_K": 3, "F32": 7}
    fields, proof = fields_of(file), json.loads((file.parent / "nutgraf.json").read_text())
    proof, same = proof["gguf_file"], proof["gguf_file"]["same_summaries"]
    assert 0 < abs(proof["loss_after"] - proof["loss_before"]) < 0.1
    assert (fields["general.file_type"], proof["format"]) == (15, "q4_k_m")
    said = f"summaries   {same} of 2 the same by llama.cpp as by transformers"
    assert capsys.readouterr().out.count(said) == 2
    assert (fields["nutgraf.proof.summaries"], fields["nutgraf.proof.same_summaries"]) == (2, same)
    assert f"Of 2 summaries llama.cpp wrote {same} as" in (file.parent / "README.md").read_text()
    with load_summarizer(saved_model.read_saved_model(str(file)), "llama.cpp") as summarizer:
        (row,) = summarizer.summarize(TEXTS[-1:])
    assert row.new_tokens >= 22
    assert row.summary


def test_a_file_that_is_another_model_is_not_kept(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(
        Failure,
        match=r"^q4_0 changes the loss from \d\.\d{4} to \d\.\d{4} nats a token, 0 allowed: "
        "nothing was written; give a finer --quantize, or raise --tolerance$",
    ):
        export.run(study, tmp_path / "out", "gguf", quantize="q4_0", tolerance=0.0)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_a_file_is_refused_before_anything_is_made(
    study: Path, exported: Path, final_best_model: Path, tmp_path: Path
) -> None:
    to = tmp_path / "deeper" / "out"
    for model, words, said in (
        (
            study,
            {"quantize": "iq4_xs"},
            "--quantize iq4_xs cannot be .* one of f32, f16, .*, q6_k, ",
        ),
        (final_best_model, {}, "the base's tokenizer splits or changes texts in a way .*merged$"),
        (exported, {}, "model.gguf is a GGUF file already: export the run folder that it is of$"),
    ):
        with pytest.raises(UserError, match=said):
            export.run(model, to, "gguf", **words)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="--quantize f16 is for --format gguf without --llama-cpp"):
        export.run(study, to, "merged", quantize="f16")
    assert list(tmp_path.iterdir()) == []


OTHERS: list[tuple[dict[str, Any], str]] = [
    ({"model_type": "qwen2"}, "is a qwen2, not of the Llama family"),
    ({"attention_bias": True}, "has biases, which are not read back"),
    ({"hidden_act": "gelu"}, "has hidden_act gelu, not silu"),
    ({"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}}, "has scaled"),
    ({"model_type": "mistral", "sliding_window": 64}, "has sliding_window 64, which a Llama has n"),
]


@pytest.mark.parametrize(("changes", "said"), OTHERS, ids=lambda value: str(value)[:30])
def test_a_base_that_is_no_plain_llama_is_refused(
    tiny_base: Path, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    base = shutil.copytree(tiny_base, tmp_path / "base")
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, **changes}))
    with pytest.raises(UserError, match=f"{said}.*, or llama.cpp's converter with --llama-cpp DIR"):
        gguf_write.check_writable(ModelConfig(base=str(base)), "q8_0")


def test_each_tensor_is_in_a_format_that_fits_it() -> None:
    for name, width, quantization, kind in (
        ("blk.0.ffn_up.weight", 576, "q4_0", "Q4_0"),
        ("blk.0.ffn_up.weight", 48, "q4_0", "F16"),  # blocks are of 32 numbers
        ("blk.0.ffn_up.weight", 48, "bf16", "BF16"),
        ("token_embd.weight", 576, "q5_1", "Q8_0"),
        ("output.weight", 576, "q8_0", "Q8_0"),
        ("output.weight", 48, "q4_1", "F16"),
    ):
        assert gguf_write.tensor_kind(name, (8, width), quantization, 2, False).name == kind
    assert gguf_write.tensor_kind("output_norm.weight", (576,), "q4_0", 2, False) is Kind.F32


def test_shared_weights_are_written_once(tmp_path: Path) -> None:
    """The pocket model's embedding is its output layer too."""
    gguf_write.write_gguf(ModelConfig(), tmp_path / "pocket.gguf", "f16", {})
    tensors = {tensor.name: tensor for tensor in GGUFReader(tmp_path / "pocket.gguf").tensors}
    assert "token_embd.weight" in tensors
    assert "output.weight" not in tensors
    assert len(tensors) == 4 * 9 + 2


def test_a_weight_that_is_too_large_for_f16_is_named(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = gguf_write._read
    monkeypatch.setattr(gguf_write, "_read", lambda tensor: read(tensor) * 1e7)
    with pytest.raises(Failure, match=r"has a weight of .*, above the .*: give --quantize bf16"):
        gguf_write.write_gguf(ModelConfig(base=str(tiny_base)), tmp_path / "a.gguf", "f16", {})


def test_a_full_disk_is_named(study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write_to_full_disk(*_: object) -> None:
        with Path("/dev/full").open("wb") as file:
            np.zeros(10**5).tofile(file)

    monkeypatch.setattr(GGUFWriter, "write_tensor_data", write_to_full_disk)
    with pytest.raises(OSError, match=r"^\[Errno \d+\] .*: '.*-.*/gguf'$"):
        export.run(study, tmp_path / "out", "gguf")
    assert list(tmp_path.iterdir()) == []


def test_a_licence_is_read_out_of_a_card() -> None:
    assert licence("---\nlicense: apache-2.0\ntags:\n- a\n---\n") == "apache-2.0"
    assert licence("---\ntags: [a]\n---\nlicense: mit\n") is None
    assert licence("# Card\nlicense: mit\n") is None


def test_a_file_of_others_is_no_saved_model(tiny_base: Path, tmp_path: Path) -> None:
    file = gguf_files.write(tiny_base, tmp_path / "other.gguf")
    with pytest.raises(UserError, match=r"other\.gguf was not written by `nutgraf export`"):
        saved_model.read_saved_model(str(file))
