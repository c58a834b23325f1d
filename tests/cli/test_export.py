"""The model for other programs: what is written, what is scored, what is refused."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from helpers import command
from helpers.snippets import blocks, run_snippet
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from nutgraf.cli import export
from nutgraf.cli.export import run
from nutgraf.config import LoraSettings, ModelConfig
from nutgraf.core.errors import Failure, UserError
from nutgraf.data.rows import Article
from nutgraf.generation.summarizer import load_summarizer
from nutgraf.modeling import adapters, saved_model
from nutgraf.modeling.load import load_base, load_tokenizer
from nutgraf.pocket import newswire

NEWS = [story.article for story in newswire.stories("test", 2, seed=11)]


@pytest.fixture(autouse=True)
def few_articles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "SAMPLE", 2)


@pytest.fixture(scope="module")
def merged(final_best_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    to = tmp_path_factory.mktemp("exports") / "deeper" / "merged"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "SAMPLE", 2)
        run(final_best_model, to, "merged")
    return to


def summaries(model: Path) -> list[str]:
    with load_summarizer(saved_model.read_saved_model(str(model))) as summarizer:
        return [row.summary for row in summarizer.summarize(NEWS)]


def test_a_merged_model_writes_what_the_adapter_on_its_base_writes(
    final_best_model: Path, merged: Path
) -> None:
    written = summaries(final_best_model)
    assert summaries(merged) == written
    alone = dataclasses.replace(saved_model.read_saved_model(str(final_best_model)), adapter=None)
    with load_summarizer(alone) as base:
        assert [row.summary for row in base.summarize(NEWS)] != written


def test_a_merged_model_is_in_the_base_s_own_precision_and_needs_no_adapter(merged: Path) -> None:
    weights = load_file(merged / "model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.float16}
    assert not any("lora" in name for name in weights)
    names = {path.name for path in merged.iterdir()}
    assert {"config.json", "tokenizer.json", "generation_config.json", "nutgraf.json",
            "README.md"} <= names  # fmt: skip
    assert not any(name.startswith("adapter") for name in names)
    assert json.loads((merged / "generation_config.json").read_text())["max_new_tokens"] == 24


def test_the_adapter_is_added_in_full_precision(final_best_model: Path, merged: Path) -> None:
    name = "model.layers.1.mlp.up_proj"
    base = load_file(Path(load_base(ModelConfig()).name_or_path) / "model.safetensors")
    adapter = load_file(final_best_model / "adapter_model.safetensors")
    down, up = (adapter[f"base_model.model.{name}.lora_{side}.weight"] for side in "AB")
    expected = base[f"{name}.weight"].float() + 8 / 4 * up @ down  # alpha / r
    merged_weight = load_file(merged / "model.safetensors")[f"{name}.weight"]
    assert torch.equal(merged_weight, expected.half())


def test_what_merging_changed_is_measured_and_kept(merged: Path) -> None:
    record = json.loads((merged / "nutgraf.json").read_text())["merged"]
    assert record["sample"] == "2 articles of the newswire"
    assert record["loss_before"] > 0.5
    assert abs(record["loss_before"] - record["loss_after"]) < 0.01
    assert f"from {record['loss_before']:.4f} to" in (merged / "README.md").read_text()


def test_a_merged_model_can_be_moved_and_its_snippet_runs(
    merged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(merged, moved)
    (code,) = (b for b in blocks((moved / "README.md").read_text(), "python") if "vllm" not in b)
    assert run_snippet(code, moved, NEWS[0], monkeypatch) == summaries(merged)[0]


def test_a_base_in_4_bits_is_merged_in_full_precision(
    final_best_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "model"
    shutil.copytree(final_best_model, model)
    about = json.loads((model / "nutgraf.json").read_text())
    about["model"]["quantization"] = "nf4"
    (model / "nutgraf.json").write_text(json.dumps(about))
    run(model, tmp_path / "merged", "merged", tolerance=1.0)
    record = json.loads((tmp_path / "merged" / "nutgraf.json").read_text())
    assert record["model"]["quantization"] == "none"
    assert record["merged"]["quantization"] == "nf4"
    assert record["merged"]["loss_before"] != pytest.approx(
        record["merged"]["loss_after"], abs=1e-4
    )
    weights = load_file(tmp_path / "merged" / "model.safetensors")
    base = load_file(Path(load_base(ModelConfig()).name_or_path) / "model.safetensors")
    same = [name for name in base if torch.equal(base[name], weights[name])]
    assert "model.embed_tokens.weight" in same  # no trace of 4 bits
    assert "before and after merging" in capsys.readouterr().out


def test_a_merge_that_changes_too_much_leaves_nothing(
    final_best_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    merge = adapters.merge_adapter

    def spoiled(*arguments: object) -> None:
        merge(*arguments)  # type: ignore[arg-type]
        file = Path(str(arguments[2])) / "model.safetensors"
        weights = load_file(file)
        weights["model.layers.0.mlp.up_proj.weight"] *= 1.5
        save_file(weights, file, metadata={"format": "pt"})

    monkeypatch.setattr(export, "merge_adapter", spoiled)
    with pytest.raises(
        Failure, match=r"merging changes the loss by [+-]\d\.\d+ .* raise --tolerance"
    ):
        run(final_best_model, tmp_path / "merged", "merged")
    assert list(tmp_path.iterdir()) == []


def test_a_run_folder_s_own_validation_articles_are_the_sample(tmp_path: Path) -> None:
    from nutgraf.data import article_store

    rows = [Article(f"v{i}", "News.", "News.") for i in range(5)]
    (tmp_path / "data").mkdir()
    article_store.write_split(rows, tmp_path / "data" / "validation.parquet")
    for model in (tmp_path, tmp_path / "final_best_model"):
        assert export._sample(model, 2) == (rows[:2], "validation articles")


def test_an_adapter_is_copied_with_all_it_needs(final_best_model: Path, tmp_path: Path) -> None:
    run(final_best_model, tmp_path / "adapter", "adapter")
    assert summaries(tmp_path / "adapter") == summaries(final_best_model)
    adapter = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert adapter["base_model_name_or_path"] == "pocket"


def test_an_adapter_on_tied_embeddings_is_merged_by_parting_them(tmp_path: Path) -> None:
    lora = LoraSettings(r=2, alpha=4, target_modules=("embed_tokens", "q_proj"))
    base = load_base(ModelConfig(dtype="fp32"))
    ids = torch.tensor([[5, 6, 7, 8]])
    with adapters.fresh_adapter(base, lora, seed=1) as model:
        for name, weight in model.named_parameters():
            if "lora_embedding_A" in name or "lora_B" in name:
                torch.nn.init.normal_(weight, std=0.1)
        expected = model(input_ids=ids).logits
        adapters.save_adapter(model, tmp_path / "adapter")
    assert not torch.allclose(base(input_ids=ids).logits, expected, atol=1e-2)
    adapters.merge_adapter(ModelConfig(), tmp_path / "adapter", tmp_path / "merged")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    assert torch.allclose(merged(input_ids=ids).logits, expected, atol=1e-2)


def test_sentencepiece_s_own_file_goes_along_for_llama_cpp(
    final_best_model: Path, tmp_path: Path
) -> None:
    (tmp_path / "tokenizer.model").write_bytes(b"pieces and scores")
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").touch()
    saved = saved_model.read_saved_model(str(final_best_model))
    tokenizer = load_tokenizer(saved.model)
    other = dataclasses.replace(saved, model=ModelConfig(base=str(tmp_path)))
    (out := tmp_path / "out").mkdir()
    tokenizer.save_pretrained(str(out))
    export._save_sentencepiece(other, tokenizer, out)
    assert (out / "tokenizer.model").read_bytes() == b"pieces and scores"
    added = json.loads((out / "tokenizer_config.json").read_text())["added_tokens_decoder"]
    assert added[str(tokenizer.eos_token_id)]["special"] is True


def test_what_cannot_be_exported_is_said(
    final_best_model: Path, merged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("taken", "empty", "home"):
        (tmp_path / folder).mkdir()
    (tmp_path / "taken" / "file").write_text("mine")
    (tmp_path / "link").symlink_to(final_best_model)
    monkeypatch.chdir(tmp_path / "empty")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for to, reason in (
        (tmp_path / "taken", "is there already: give it a new folder"),
        (tmp_path / "taken" / "file", "is there already"),
        (Path("."), "--to . is there already"),
        (Path(".."), "is there already"),
        (final_best_model, "is there already"),
        (tmp_path / "link" / "new", "is in .*, a part of the model"),
        (tmp_path / "taken" / "file" / "new", "no folder can be made there"),
    ):
        with pytest.raises(UserError, match=reason):
            run(final_best_model, to, "adapter")
    run(final_best_model, Path("~/new"), "adapter")
    assert (tmp_path / "home" / "new" / "adapter_config.json").is_file()
    for form in ("adapter", "merged"):
        with pytest.raises(UserError, match="is a whole model, merged already"):
            run(merged, tmp_path / "new", form)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"has no convert_hf_to_gguf\.py: give a copy"):
        run(merged, tmp_path / "new", "gguf", llama_cpp=tmp_path)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("words", "fact"),
    [
        ("--format merged --llama-cpp here", "--llama-cpp here is for --format gguf, this is"),
        ("--format adapter --llama-cpp here", "--llama-cpp here is for --format gguf, this is"),
        ("--format merged --author me", "--author me is for --format gguf without --llama-cpp"),
        ("--format adapter --author me", "--author me is for --format gguf without --llama-cpp"),
        ("--format gguf --llama-cpp here --author me", "--author me is for --format gguf without"),
    ],
)  # fmt: skip
def test_an_option_of_another_format_is_refused_before_any_work(
    final_best_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str, fact: str
) -> None:
    for work in ("_copy_adapter", "load_tokenizer", "recipe"):
        monkeypatch.delattr(export, work)  # a traceback, if it came so far
    to = ("--model", str(final_best_model), "--to", str(tmp_path / "new"))
    said = command.run("export", *to, *words.split(), status=2).stderr
    assert said.startswith(f"nutgraf: {fact}")
    assert said.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_model_without_scores_is_told_before_anything_is_made(
    final_best_model: Path, tmp_path: Path
) -> None:
    old = tmp_path / "old"
    shutil.copytree(final_best_model, old)
    about = json.loads((old / "nutgraf.json").read_text())
    del about["study"]
    (old / "nutgraf.json").write_text(json.dumps(about))
    with pytest.raises(UserError, match=r"nutgraf\.json has no scores for a model card.*--force"):
        run(old, tmp_path / "new", "merged")
    assert not (tmp_path / "new").exists()
    run(old, tmp_path / "adapter", "adapter")
    assert summaries(tmp_path / "adapter") == summaries(final_best_model)


def test_gguf_runs_llama_cpp_s_converter_on_the_whole_model(merged: Path, tmp_path: Path) -> None:
    (tmp_path / "convert_hf_to_gguf.py").write_text(
        "import pathlib, sys\n"
        "model, flag, out = sys.argv[1:]\n"
        "assert flag == '--outfile' and (pathlib.Path(model) / 'model.safetensors').exists()\n"
        "pathlib.Path(out).write_bytes(b'GGUF')\n"
    )
    run(merged, tmp_path / "gguf", "gguf", llama_cpp=tmp_path)
    assert {path.name for path in (tmp_path / "gguf").iterdir()} == {
        "model.gguf", "Modelfile", "nutgraf.json", "README.md",
    }  # fmt: skip
    (tmp_path / "convert_hf_to_gguf.py").write_text("raise SystemExit('no such tokenizer')")
    with pytest.raises(Failure, match=r"could not convert the model: no such tokenizer"):
        run(merged, tmp_path / "other", "gguf", llama_cpp=tmp_path)
    assert not (tmp_path / "other").exists()
