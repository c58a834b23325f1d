"""The compare stage on a made-up run folder: known scores in, the table and its verdicts out."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from huggingface_hub import ModelCard

from nutgraf.config import Config
from nutgraf.config.load import build_config, with_overrides
from nutgraf.config.systems import system_names
from nutgraf.core.files import read_json, read_records, write_json, write_records
from nutgraf.data import article_store
from nutgraf.data.rows import Article
from nutgraf.evaluation import indicators
from nutgraf.pipeline.artifacts import BY_STAGE
from nutgraf.pipeline.runner import run_stage
from nutgraf.report.terminal_table import render_table
from nutgraf.storage.run_folder import RunFolder

# Every article's scores: best is ahead of lead3, behind zero_shot, and baseline goes both ways.
GAPS: dict[str, Callable[[int], float]] = {
    "lead3": lambda i: -4.0 - i % 3,
    "zero_shot": lambda i: 2.0 + i % 5,
    "baseline": lambda i: 3.0 if i % 2 else -2.5,
    "textrank": lambda i: -6.0 - i % 3,
    "oracle": lambda i: 9.0 + i % 3,
    "best": lambda i: 0.0,
    "best_round1": lambda i: -1.0 - i % 2,  # if there is a round
}
TRAINED = {
    "learning_rate": 1e-3, "gradient_accumulation_steps": 2, "micro_batch_size": 4,
    "weight_decay": 0.01, "lora_r": 16, "lora_alpha": 32, "examples": 800, "steps": 100,
    "seconds": 48.2, "seed": 42, "device": "cpu", "dtype": "fp32",
    "base": {"base": "someone/tiny", "revision": None, "shape": "0123"},
}  # fmt: skip


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> tuple[RunFolder, Config]:
    folder = RunFolder(tmp_path_factory.mktemp("runs") / "made-up")
    test = [Article(f"test-{i}", f"The mayor met {i} voters.", "She met them.") for i in range(40)]
    with folder.artefact("data").writing() as scratch:
        article_store.write_split(test, scratch / "data" / "test.parquet")
        splits = {name: {"sampled": 40} for name in ("train", "validation", "test")}
        write_json(scratch / "data" / "card.json", {"splits": splits})
        write_json(scratch / "data" / "frame.json", ["Summarize:", "\n\nSummary:"])
    for name in ("baseline", "best", "best_round1"):
        with folder.artefact(f"models/{name}").writing() as scratch:
            (scratch / "models" / name).mkdir(parents=True)
            write_json(scratch / "models" / name / "train.json", {**TRAINED, "pairs": 12})
            adapter = {"base_model_name_or_path": "/home/someone/tiny", "revision": None, "r": 16}
            write_json(scratch / "models" / name / "adapter_config.json", adapter)
            (scratch / "models" / name / "adapter_model.safetensors").write_bytes(
                b"round" if name == "best_round1" else b"weights"
            )
    for system, gap in GAPS.items():
        texts, scores = [], []
        for i, article in enumerate(test):
            row = {"id": article.id, "text": "She did.", "reference_nll": 8, "reference_tokens": 4,
                   "trimmed_tokens": 5 if system == "best" and i < 10 else 0,
                   "finish_reason": "stop"}  # fmt: skip
            texts.append(row)
            score = 30 + i / 8 + gap(i)
            rouge = {"rouge1": score + gap(i), "rouge2": score - 10, "rougeL": score - 5}
            counts = dict.fromkeys(indicators.MEANINGS, 0) | {"unsupported_names": int(i >= 30)}
            scores.append({"id": article.id, **rouge, "rougeLsum": score, **counts})
        for kind, rows in (("summaries", texts), ("scores", scores)):
            name = f"{kind}/{system}"
            with folder.artefact(name, outputs=[f"{name}.jsonl"]).writing() as scratch:
                write_records(scratch / f"{name}.jsonl", rows)
    config = build_config({"run": str(folder.path), "model": {"base": str(tiny_base)}})
    assert run_stage("compare", config, folder)
    return folder, config


def test_it_is_done_once(compared: tuple[RunFolder, Config]) -> None:
    folder, config = compared
    assert not run_stage("compare", config, folder)
    assert run_stage("compare", config, folder, force=True)


def test_best_is_compared_with_every_other_system(compared: tuple[RunFolder, Config]) -> None:
    folder, _ = compared
    table = pd.read_csv(folder / "analysis" / "differences.csv")
    assert list(table.columns) == [
        "system", "other", "metric", "n", "difference", "low", "high", "p", "p_holm", "verdict",
    ]  # fmt: skip
    assert len(table) == 12  # the oracle reads the reference: nothing to be tested against
    assert (table["system"] == "best").all()
    assert (table["n"] == 40).all()
    said = table.groupby("other")["verdict"].unique()
    assert said["lead3"].tolist() == ["better"]
    assert said["zero_shot"].tolist() == ["worse"]
    (undecided,) = said["baseline"]
    assert undecided.startswith("no significant difference at n = 40; about ")
    assert (table["p_holm"] >= table["p"]).all()
    means = pd.read_csv(folder / "model_comparison_results.csv").set_index("system")["rougeLsum"]
    for row in table[table["metric"] == "rougeLsum"].itertuples():
        assert row.difference == pytest.approx(means["best"] - means[row.other], abs=0.011)
        assert row.low < row.difference < row.high


def test_errors_tell_how_long_each_article_was_and_how_much_of_it_was_cut(
    compared: tuple[RunFolder, Config],
) -> None:
    folder, _ = compared
    errors = pd.read_csv(folder / "analysis" / "errors.csv")
    assert list(errors.columns[:4]) == ["id", "system", "article_words", "trimmed_tokens"]
    assert (errors["article_words"] == 5).all()
    assert list(errors["system"].unique()) == ["reference", *system_names(Config())]
    cut = errors[errors["trimmed_tokens"] > 0]
    assert set(cut["system"]) == {"best"}
    assert len(cut) == 10


def test_rates_stand_beside_the_references_own_by_length_and_trimming(
    compared: tuple[RunFolder, Config],
) -> None:
    folder, _ = compared
    rates = pd.read_csv(folder / "analysis" / "rates.csv").set_index(["group", "kind", "system"])
    names = rates.xs("unsupported_names", level="kind")
    assert names.loc[("all articles", "best"), ["n", "rate", "reference"]].tolist() == [40, 25, 0]
    assert names.loc[("trimmed articles", "best"), ["n", "rate"]].tolist() == [10, 0]
    assert names.loc[("whole articles", "lead3"), ["n", "rate"]].tolist() == [30, 33.33]


def test_there_are_examples_along_the_range_and_of_each_kind(
    compared: tuple[RunFolder, Config],
) -> None:
    folder, _ = compared
    along = read_records(folder / "analysis" / "examples.jsonl")
    assert [row["id"] for row in along][:1] == ["test-0"]
    assert len(along) == 10
    wrong = read_records(folder / "analysis" / "error_examples.jsonl")
    assert {row["kind"] for row in wrong} == {"unsupported_names"}
    assert [row["place"] for row in wrong] == ["worst"] * 5 + ["typical"] * 5


def test_what_is_taken_away_has_all_that_it_needs_and_no_path_of_this_machine(
    compared: tuple[RunFolder, Config],
) -> None:
    folder, config = compared
    final = folder / "final_best_model"
    assert {path.name for path in final.iterdir()} >= {
        "adapter_config.json", "adapter_model.safetensors", "generation_config.json",
        "nutgraf.json", "README.md", "tokenizer.json",
    }  # fmt: skip
    adapter = read_json(final / "adapter_config.json")
    assert (adapter["base_model_name_or_path"], adapter["r"]) == (config.model.base, 16)
    assert read_json(final / "generation_config.json")["max_new_tokens"] == 96
    read = ModelCard.load(final / "README.md").data
    results = {result.metric_name: result for result in read.eval_results}
    table = pd.read_csv(folder / "model_comparison_results.csv").set_index("system")
    assert results["ROUGE-Lsum"].metric_value == table.loc["best", "rougeLsum"]
    low, high = results["ROUGE-1"].metric_args["interval_95"]
    assert low < table.loc["best", "rouge1"] < high
    assert results["ROUGE-2"].dataset_args == {"n": 40, "seed": 42}
    assert "| has a name that the article lacks | 25 (" in (final / "README.md").read_text()


def test_the_terminal_tells_the_verdicts(compared: tuple[RunFolder, Config]) -> None:
    folder, config = compared
    lines = render_table(folder / "model_comparison_results.csv", config).splitlines()
    assert "Holm-corrected over 12 comparisons" in "\n".join(lines)
    verdicts = {line.split()[0]: line for line in lines if "  p 0." in line or "  p 1." in line}
    assert list(verdicts) == ["lead3", "textrank", "zero_shot", "baseline"]
    assert verdicts["lead3"].endswith("  better")
    assert "+4.97" in verdicts["lead3"]
    assert verdicts["zero_shot"].endswith("  worse")
    assert "no significant difference at n = 40" in verdicts["baseline"]


def test_a_round_that_is_worse_than_its_start_is_warned_of_and_compared_with_all(
    compared: tuple[RunFolder, Config], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(compared[0].path, tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    config = with_overrides(compared[1], {"train.rounds": 1})
    assert run_stage("compare", config, folder)
    expected = "best_round1 is worse than best by 1.50 ROUGE-Lsum, and is the model to take away"
    assert expected in capsys.readouterr().err
    lines = render_table(folder / "model_comparison_results.csv", config).splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("best_round1 against the"))
    others = ["lead3", "textrank", "zero_shot", "baseline", "best"]
    assert [line.split()[0] for line in lines[start + 1 : start + 6]] == others
    table = pd.read_csv(folder / "analysis" / "differences.csv")
    assert "best_round1" not in set(table.loc[table["system"] == "best", "other"])
    assert (folder / "final_best_model" / "adapter_model.safetensors").read_bytes() == b"round"
    about = read_json(folder / "final_best_model" / "nutgraf.json")
    assert about["rounds"][0]["pairs"] == 12
    assert about["study"]["rouge"]["rougeLsum"]["mean"] == pytest.approx(30.94, abs=0.02)
    named = {row["system"] for row in read_records(folder / "analysis" / "error_examples.jsonl")}
    assert named == {"best_round1"}


def test_the_terminal_gives_no_interval_of_few_articles_and_names_another_tokenizer(
    compared: tuple[RunFolder, Config], tmp_path: Path
) -> None:
    folder, config = compared
    (tmp_path / "analysis").mkdir()
    for name in ("model_comparison_results.csv", "analysis/differences.csv", "analysis/seeds.csv"):
        table = pd.read_csv(folder / name)
        ends = [column for column in table if column.endswith(("low", "high"))]
        table.assign(**dict.fromkeys(ends, float("nan")), n=3).to_csv(tmp_path / name, index=False)
    unicode = with_overrides(config, {"score.tokenizer": "unicode"})
    printed = render_table(tmp_path / "model_comparison_results.csv", unicode)
    assert "words of every script) on 3 test articles" in printed
    assert "none below 6 articles" in printed
    assert "nan to nan" not in printed
    assert "R-Lsum; another tokenizer, not to be compared)" in printed


def test_another_tokenizer_makes_again_what_depends_on_it_and_the_default_nothing(
    compared: tuple[RunFolder, Config],
) -> None:
    folder, config = compared
    unicode = with_overrides(config, {"score.tokenizer": "unicode"})
    for stage, names in {
        "prepare": {"data"},
        "search": {"search"},
        "generate": {"summaries/oracle", "summaries/textrank"},
        "score": {f"scores/{system}" for system in system_names(Config())},
    }.items():
        before, after = (BY_STAGE[stage](of, folder) for of in (config, unicode))
        pairs = zip(before, after, strict=True)
        assert {one.name for one, other in pairs if one.settings != other.settings} == names
        assert all("rouge_tokenizer" not in one.settings for one in before)
