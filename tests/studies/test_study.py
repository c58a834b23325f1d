"""A whole study, for real, on the embedded model and newswire with a small budget."""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers import command

from nutgraf.config import Config, GenerateConfig, TrainConfig
from nutgraf.config.load import load_config, with_overrides
from nutgraf.config.systems import system_names
from nutgraf.core.files import read_json, read_records
from nutgraf.data import article_store
from nutgraf.evaluation.rouge import score_rouge
from nutgraf.generation.candidate_features import FEATURES
from nutgraf.generation.choose import choose, rate
from nutgraf.generation.draft import cut_sentences
from nutgraf.pipeline.choice import fit_choice
from nutgraf.pipeline.runner import STAGES
from nutgraf.storage.run_folder import RunFolder
from nutgraf.watching.snapshot import Watcher

SMALL = {
    "data.train-examples": "40",
    "data.validation-examples": "8",
    "data.test-examples": "10",
    "train.max-examples": "32",
    "train.micro-batch-size": "2",
    "train.eval-every": "16",
    "train.eval-examples": "4",
    "train.samples": "2",
    "train.rounds": "1",
    "preference.articles": "16",
    "preference.candidates": "4",
    "search.trials": "3",
    # In one process; test_chaos.py has trials, and trainings, side by side.
    "search.concurrent": "1",
    "search.rouge-examples": "4",
    # The second choice makes the loss no number: those trials must fail.
    "search.space.train.learning_rate": "{choices: [5e-3, 1e30]}",
    "facts.articles": "4",
    "generate.max-new-tokens": "32",
    "prompt.request": "Sum up the news:",
    "tracking.to": "[tensorboard]",
}
SYSTEMS = system_names(Config(train=TrainConfig(rounds=1)))
HEAVY = ("torch", "transformers", "peft", "trl", "datasets", "ray", "matplotlib")
# A token of the Hub as a user has it in the environment: of no account, and of the form of one.
TOKEN = "hf_" + "noToken0" * 4


def study(folder: Path, **changes: str) -> command.Result:
    settings = {**SMALL, **{k.replace("__", "."): v for k, v in changes.items()}}
    words = [word for name, value in settings.items() for word in (f"--{name}", value)]
    return command.run("run", "--run", str(folder), *words)


@pytest.fixture(scope="module", autouse=True)
def environment() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_TOKEN", TOKEN)
        yield


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, str, str]:
    """The run folder of one study, what it printed and what it said while it worked."""
    folder = tmp_path_factory.mktemp("runs") / "pocket"
    done = study(folder)
    return RunFolder(folder), done.stdout, done.stderr


def test_the_folder_holds_what_the_design_promises(first: tuple[RunFolder, str, str]) -> None:
    folder, printed, _ = first
    for name in (
        "config.yaml", "data/card.json", "data/train.parquet", "search/trials.csv",
        "search/best.yaml", "models/baseline/adapter_model.safetensors",
        "models/best/history.csv", "models/best/train.json", "analysis/errors.csv",
        "analysis/differences.csv", "analysis/facts.csv", "facts.jsonl",
        "analysis/examples.jsonl", "model_comparison_results.csv",
        "final_best_model/adapter_model.safetensors", "final_best_model/tokenizer.json",
        "final_best_model/README.md", "report.html", "report.md",
    ):  # fmt: skip
        assert (folder / name).is_file(), name
    assert list((folder / "figures").glob("*.svg"))
    facts = pd.read_csv(folder / "analysis" / "facts.csv")
    models = ("reference", "zero_shot", "baseline", "best", "best_round1")
    assert tuple(facts["system"]) == models
    assert set(facts["articles"]) == {4}
    assert facts["wrong"].isna().all()  # how often it errs is known of SmolLM2 only
    assert "not known of this base" in (folder / "report.md").read_text()
    assert list((folder / "figures").glob("*.png"))
    assert "synthetic newswire" in printed
    assert "synthetic newswire" in (folder / "report.html").read_text()
    assert not (folder / ".making").exists() or not any((folder / ".making").iterdir())


def test_the_folder_says_all_that_the_page_for_watching_shows(
    first: tuple[RunFolder, str, str],
) -> None:
    watcher = Watcher(first[0].path)
    seen = watcher.latest()
    assert (seen["state"], seen["holder"], seen["report"]) == ("finished", None, True)
    assert {stage["state"] for stage in seen["stages"]} == {"finished"}
    assert seen["log"][-1]["text"] == "ends: all that was asked for is there"
    assert {line["stage"] for line in seen["log"]} > set(STAGES)
    for number, trial in seen["trials"].items():
        assert bool(trial["why"]) == (trial["state"] != "completed")
        if trial["why"]:
            continue
        rows = read_json(first[0] / "search" / "trials" / number / "adapter.curves.json")
        assert {row["grad_norm"] is None for row in rows} == {True, False}
        samples = watcher.samples(number)
        assert [each["examples"] for each in samples["evaluations"]] == [16, 32]
        assert all(article["reference"] for article in samples["articles"])
    assert [trial["chosen"] for trial in seen["trials"].values()].count(True) == 1
    assert set(seen["trainings"]) == {"baseline", "best", "best_round1"}
    for name, training in seen["trainings"].items():
        evaluations = watcher.samples(name)["evaluations"]
        assert len(evaluations) == training["written"] == len(training["points"])
        assert {len(each["texts"]) for each in evaluations} == {2}


def test_a_token_in_the_environment_is_written_nowhere(first: tuple[RunFolder, str, str]) -> None:
    folder, printed, said = first
    files = [path for path in folder.path.rglob("*") if path.is_file()]
    assert len(files) > 30
    assert not [path for path in files if TOKEN.encode() in path.read_bytes()]
    assert TOKEN not in printed + said


def test_search_and_trainings_have_curves_for_tensorboard(
    first: tuple[RunFolder, str, str],
) -> None:
    folder, *_ = first
    trials = pd.read_csv(folder / "search" / "trials.csv")
    curves = {path.name for path in (folder / "tensorboard").iterdir()}
    assert curves == {
        "baseline",
        "best",
        "best_round1",
        *(f"trial-{number}" for number in trials["trial"]),
    }
    assert all(any(path.iterdir()) for path in (folder / "tensorboard").iterdir())


def test_every_system_is_measured_on_the_same_articles(
    first: tuple[RunFolder, str, str],
) -> None:
    folder, *_ = first
    ids = [a.id for a in article_store.read_split(folder.data("test"))]
    assert len(ids) == 10
    for system in SYSTEMS:
        summaries, scores = (
            read_records(path) for path in (folder.summaries(system), folder.scores(system))
        )
        assert [s["id"] for s in summaries] == ids
        assert [s["id"] for s in scores] == ids
        assert all(0 <= s["rougeLsum"] <= 100 for s in scores)


def test_the_table(first: tuple[RunFolder, str, str]) -> None:
    folder, printed, _ = first
    table = pd.read_csv(folder / "model_comparison_results.csv").set_index("system")
    assert list(table.columns) == [
        "source", "n", "rouge1", "rouge2", "rougeL", "rougeLsum", "rougeLsum_low",
        "rougeLsum_high", "loss", "perplexity", "learning_rate", "gradient_accumulation_steps",
        "weight_decay", "lora_r", "train_examples", "train_seconds",
    ]  # fmt: skip
    measured = table[table["source"] == "measured"]
    assert list(measured.index) == list(SYSTEMS)
    assert (measured["n"] == 10).all()
    intervals = pd.read_csv(folder / "analysis" / "intervals.csv").set_index("system")
    for kind in ("rouge1", "rouge2", "rougeL", "rougeLsum"):
        ends = measured if kind == "rougeLsum" else intervals
        assert (ends[f"{kind}_low"] <= measured[kind]).all()
        assert (measured[kind] <= ends[f"{kind}_high"]).all()
    assert len(table[table["source"] == "published"]) >= 2
    models = measured.loc[["zero_shot", "baseline", "best"]]
    assert models["perplexity"].notna().all()
    assert models.loc["baseline", "train_examples"] == models.loc["best", "train_examples"] == 32
    assert models.loc["baseline", "loss"] < models.loc["zero_shot", "loss"]
    for system in SYSTEMS:
        assert f"\n{system}" in printed
        row = pd.DataFrame(read_records(folder.scores(system)))
        assert table.loc[system, "rouge1"] == pytest.approx(row["rouge1"].mean(), abs=0.006)


def test_the_search_begins_with_a_plan_which_the_report_shows_beside_what_came(
    first: tuple[RunFolder, str, str],
) -> None:
    folder, _, said = first
    assert "\nplanned: search " in said
    assert "memory of a training" in (folder / "report.md").read_text()


def test_a_failed_trial_is_a_row_with_its_error(first: tuple[RunFolder, str, str]) -> None:
    folder, _, said = first
    trials = pd.read_csv(folder / "search" / "trials.csv")
    assert len(trials) == 3
    failed = trials[trials["status"] == "error"]
    assert 1 <= len(failed) <= 2
    assert failed["error"].str.contains("loss is (nan|inf)").all()
    assert failed["validation_loss"].isna().all()
    assert "failed: " in said
    chosen = trials[trials["chosen"]]
    assert len(chosen) == 1
    assert chosen["status"].item() == "completed"
    assert chosen["rougeLsum"].notna().all()


def test_every_trial_that_was_evaluated_has_its_rouge(first: tuple[RunFolder, str, str]) -> None:
    folder, _, said = first
    trials = pd.read_csv(folder / "search" / "trials.csv")
    assert (trials["rougeLsum"].notna() == trials["validation_loss"].notna()).all()
    assert not list(folder.path.glob("search/trials/*/evaluated"))
    assert "3 trials, all drawn at random" in said


def test_best_was_trained_with_the_chosen_settings(first: tuple[RunFolder, str, str]) -> None:
    folder, *_ = first
    trials = pd.read_csv(folder / "search" / "trials.csv")
    rate = trials.loc[trials["chosen"], "train.learning_rate"].item()
    assert read_json(folder.model("best") / "train.json")["learning_rate"] == pytest.approx(rate)


def test_best_is_the_chosen_trial_and_is_not_trained_again(
    first: tuple[RunFolder, str, str],
) -> None:
    folder, _, said = first
    assert "best: trained before, with the same settings and rows" in said
    trials = pd.read_csv(folder / "search" / "trials.csv")
    trial = folder / "search" / "trials" / str(trials.loc[trials["chosen"], "trial"].item())
    weights = "adapter_model.safetensors"
    best = folder.model("best") / weights
    assert best.read_bytes() == (trial / "adapter" / weights).read_bytes()
    history = pd.read_csv(folder.model("best") / "history.csv")["validation_loss"].dropna()
    assert history.min() == pytest.approx(trials.loc[trials["chosen"], "validation_loss"].item())
    assert len(pd.read_csv(folder.model("best") / "history.csv")) > len(history)


def test_a_round_trains_best_on_pairs_of_its_own_and_its_model_is_the_one_to_take_away(
    first: tuple[RunFolder, str, str],
) -> None:
    folder, printed, _ = first
    pairs = read_records(folder.model("best_round1") / "pairs.jsonl")
    trained_on = {a.id: a for a in article_store.read_split(folder.data("train"))}
    assert 1 <= len(pairs) <= 16
    assert len({pair["id"] for pair in pairs}) == len(pairs)
    for pair in pairs:
        reference = trained_on[pair["id"]].reference
        better, worse = (
            sum(
                score_rouge(reference, pair[side])[kind]
                for kind in ("rouge1", "rouge2", "rougeLsum")
            )
            for side in ("better", "worse")
        )
        assert better > worse
    record = read_json(folder.model("best_round1") / "train.json")
    assert (record["pairs"], record["learning_rate"]) == (len(pairs), 5e-5)
    weights = [
        (folder / name / "adapter_model.safetensors").read_bytes()
        for name in ("models/best", "models/best_round1", "final_best_model")
    ]
    assert weights[0] != weights[1] == weights[2]
    card = (folder / "final_best_model" / "README.md").read_text()
    assert f"Round 1: trained on with {len(pairs)} pairs of its own summaries" in card
    assert "This model, `best_round1`: ROUGE-1" in card
    table = pd.read_csv(folder / "model_comparison_results.csv").set_index("system")
    assert f"{table.loc['best_round1', 'rougeLsum']:.2f}" in card
    differences = pd.read_csv(folder / "analysis" / "differences.csv")
    others = {name: set(rows["other"]) for name, rows in differences.groupby("system")}
    assert others["best_round1"] - others["best"] == {"best"}
    assert "best_round1 against the others" in printed
    report = " ".join((folder / "report.md").read_text().replace("\\", "").split())
    assert "the best model (best_round1) reaches ROUGE-Lsum" in report
    assert "Beside ROUGE that changed, against best:" in report


def test_a_fitted_choice_is_fitted_without_the_test_and_travels_with_the_model(
    first: tuple[RunFolder, str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(tmp_path / "fitted")
    shutil.copytree(first[0].path, folder.path)
    done = study(folder.path, generate__candidates="3", generate__choose="fitted")
    assert "train    unchanged, skipped" in done.stderr
    choice, config = read_json(folder / "choice.json"), load_config(folder.config)
    assert tuple(choice["weights"]) == tuple(FEATURES)
    assert 10 <= choice["articles"] <= 16
    test = [row.article for row in article_store.read_split(folder.data("test"))]
    written = read_records(folder.summaries("best_round1"))
    chosen = read_records(folder.summaries("best_chosen"))
    for article, row, one in zip(test, written, chosen, strict=True):
        texts = [candidate["text"] for candidate in row["candidates"]]
        rated = rate(article, texts, choice["weights"])
        assert one["candidate"] == choose(rated, "fitted")
        expected = [rating["expected"] for rating in one["ratings"]]
        assert expected == pytest.approx([r.expected for r in rated], abs=0.01)
    report = " ".join((folder / "report.md").read_text().split())
    assert f"fitted on candidates of {choice['articles']} training articles" in report
    pairs = read_records(folder.model("best_round1") / "pairs.jsonl")
    of_round = read_records(folder.model("best_round1") / "candidates.jsonl")
    texts_of = {row["id"]: row["candidates"] for row in of_round}
    assert len(of_round) == 16
    assert all({p["better"], p["worse"]} <= set(texts_of[p["id"]]) for p in pairs)

    # The model to take away has the weights, in a folder of its own too.
    alone = shutil.copytree(folder / "final_best_model", tmp_path / "alone")
    files = [tmp_path / f"{number}.txt" for number in range(len(test))]
    for file, article in zip(files, test, strict=True):
        file.write_text(article)
    words = ("summarize", "--model", str(alone), "--json", *map(str, files))
    served = [json.loads(line) for line in command.run(*words).stdout.splitlines()]
    for row, one in zip(served, chosen, strict=True):
        assert row["summary"] == one["text"]
        ratings = [(c["agreement"], c["expected"]) for c in row["candidates"]]
        recorded = [(r["agreement"], r["expected"]) for r in one["ratings"]]
        assert np.array(ratings) == pytest.approx(np.array(recorded), abs=0.01)
    about = read_json(alone / "nutgraf.json")
    del about["choice"]
    (alone / "nutgraf.json").write_text(json.dumps(about))
    refused = command.run("summarize", "--model", str(alone), str(files[0]), status=2)
    assert "nutgraf.json is damaged (KeyError: 'choice')" in refused.stderr

    # A round has written the candidates. Without one, or after one of an earlier version, the model
    # that the round started from writes them: the same ones.
    with monkeypatch.context() as patch:
        patch.delattr("nutgraf.pipeline.choice.write_candidates")
        assert fit_choice(config, folder, tmp_path, None) == choice
    without_round = with_overrides(config, {"train.rounds": 0})
    assert fit_choice(without_round, folder, tmp_path, None) == choice


def test_one_of_several_candidates_is_chosen_and_the_choice_measured(
    first: tuple[RunFolder, str, str], tmp_path: Path
) -> None:
    greedy, folder = first[0], RunFolder(tmp_path / "candidates")
    shutil.copytree(greedy.path, folder.path)
    several = {"generate__candidates": "3", "generate__temperature": "1.5"}
    done = study(folder.path, **several, generate__whole_sentences="true", train__rounds="0")
    assert "train    unchanged, skipped" in done.stderr
    names = ("best", "best_chosen", "best_oracle")
    best, chosen, oracle = (read_records(folder.summaries(name)) for name in names)
    # In bf16 a near tie may fall otherwise in another batch; in fp32: test_decode_loop.py.
    settings = GenerateConfig(whole_sentences=True)
    before = [
        cut_sentences(row["text"], row["finish_reason"], settings)[0]
        for row in read_records(greedy.summaries("best"))
    ]
    assert sum(row["text"] == text for row, text in zip(best, before, strict=True)) >= 7
    for row, one, top in zip(best, chosen, oracle, strict=True):
        texts = [candidate["text"] for candidate in row["candidates"]]
        assert (len(texts), texts[0]) == (3, row["text"])
        agreement = [rating["agreement"] for rating in one["ratings"]]
        assert one["text"] == texts[one["candidate"]]
        assert agreement[one["candidate"]] == max(agreement)
        assert top["text"] == texts[top["candidate"]]
    scores = [[row["rougeLsum"] for row in read_records(folder.scores(n))] for n in names]
    assert all(top >= max(pair) for *pair, top in zip(*scores, strict=True))
    table = pd.read_csv(folder / "model_comparison_results.csv").set_index("system")
    assert {"best_chosen", "best_oracle"} <= set(table.index)
    differences = pd.read_csv(folder / "analysis" / "differences.csv")
    compared = differences[differences["system"] == "best_chosen"]
    assert set(compared["other"]) == {"lead3", "textrank", "zero_shot", "baseline", "best"}
    assert "best_oracle" not in {*differences["other"], *differences["system"]}
    for page in ("report.md", "final_best_model/README.md"):
        words = " ".join((folder / page).read_text().split())
        assert "greedily, at most 32 tokens, cut after the last whole sentence" in words
        assert "3 summaries are written of each article, the first greedily" in words
    said = (folder / "report.md").read_text()
    cells = [[cell.strip(" *") for cell in line.split("|")] for line in said.splitlines()]
    seconds = {row[1].replace("\\", ""): row[-2] for row in reversed(cells) if len(row) == 15}
    assert seconds["best"] == seconds["lead3"] == "–"
    assert 0 < float(seconds["zero_shot"]) < 60
    assert 0 < float(seconds["best_chosen"]) == float(seconds["best_oracle"])
    assert "those of all 3 candidates" in said
    assert "so training seems to bring less" in " ".join(said.split())
    assert said.count("as the model to take away does") == 1
    (sentence,) = [line for line in said.splitlines() if "as the model to take away does" in line]
    for points in compared.loc[compared["metric"] == "rougeLsum", "difference"]:
        assert f"{points:+.2f}".replace("-", "−") in sentence
    reasons = {c["finish_reason"] for row in best for c in row["candidates"]}
    assert "sentences" in reasons
    # All in one batch, as in the study: in bf16 what is drawn at a near tie depends on the batch.
    files = [tmp_path / f"{number}.txt" for number in range(len(best))]
    for file, article in zip(files, article_store.read_split(folder.data("test")), strict=True):
        file.write_text(article.article)
    words = ("summarize", "--model", str(folder / "final_best_model"), "--json", *map(str, files))
    served = [json.loads(line) for line in command.run(*words).stdout.splitlines()]
    for row, one, written in zip(served, chosen, best, strict=True):
        assert (row["summary"], row["finish_reason"]) == (one["text"], one["finish_reason"])
        texts = [candidate["text"] for candidate in written["candidates"]]
        assert [candidate["text"] for candidate in row["candidates"]] == texts


def test_again_all_is_done_in_seconds(first: tuple[RunFolder, str, str]) -> None:
    folder, printed, _ = first
    records = set(folder.path.rglob("*.jsonl")) - {folder.path / "log.jsonl"}
    before = {path: path.stat().st_mtime_ns for path in records}
    spent = _processor_seconds()
    again = subprocess.run(
        [sys.executable, "-m", "nutgraf", "run", "--run", str(folder.path)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    # Not by the clock: other programs may hold the machine's cores.
    assert _processor_seconds() - spent < 5
    assert "All is done" in again.stdout
    assert again.stderr.count("unchanged, skipped") == 7
    assert again.stdout.splitlines()[:8] == printed.splitlines()[:8]
    assert before == {path: path.stat().st_mtime_ns for path in records}


def test_what_is_done_loads_neither_torch_nor_ray(first: tuple[RunFolder, str, str]) -> None:
    folder, *_ = first
    code = "import sys\nfrom nutgraf.cli.main import main\n"
    code += "assert main(['run', '--run', sys.argv[1]]) == 0\n"
    code += f"print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder.path)], capture_output=True, text=True, check=True
    )
    assert "All is done" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"


def _processor_seconds() -> float:
    """Of all finished child processes so far."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_plain_peft_and_transformers_write_the_same_summaries(
    first: tuple[RunFolder, str, str],
) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from nutgraf.config import ModelConfig
    from nutgraf.modeling.base_files import base_source
    from nutgraf.modeling.load import choose_device

    folder, *_ = first
    final = folder / "final_best_model"
    tokenizer = AutoTokenizer.from_pretrained(str(final))
    base = AutoModelForCausalLM.from_pretrained(base_source(ModelConfig()), dtype=torch.float32)
    model = PeftModel.from_pretrained(base, str(final)).eval()
    article = article_store.read_split(folder.data("test"))[0]
    prompt = f"Sum up the news: {article.article}\n\nSummary:"
    assert "    Sum up the news: {article}\n\n    Summary:\n" in (folder / "report.md").read_text()
    ids = tokenizer(prompt, return_tensors="pt").input_ids
    with torch.no_grad(), choose_device(ModelConfig()).autocast():
        out = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=32, do_sample=False
        )
    text = tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True).strip()
    served = json.loads(
        command.run("summarize", "--model", str(final), "--json", "-", stdin=article.article).stdout
    )
    assert served["summary"] == text
    assert served["prompt_tokens"] == ids.shape[1]
    assert read_records(folder.summaries("best"))[0]["prompt_tokens"] == ids.shape[1]


def test_summarize_takes_files_and_a_run_folder(
    first: tuple[RunFolder, str, str], tmp_path: Path
) -> None:
    folder, *_ = first
    names = []
    for n, article in enumerate(article_store.read_split(folder.data("test"))[:2]):
        (tmp_path / f"{n}.txt").write_text(article.article)
        names.append(str(tmp_path / f"{n}.txt"))
    printed = command.run("summarize", "--model", str(folder.path), *names).stdout
    assert f"== {names[0]}" in printed
    assert f"== {names[1]}" in printed


def test_an_adapter_on_the_wrong_base_is_refused(
    first: tuple[RunFolder, str, str], tiny_base: Path, tmp_path: Path
) -> None:
    folder, *_ = first
    final = tmp_path / "final_best_model"
    final.mkdir()
    for file in (folder / "final_best_model").iterdir():
        (final / file.name).write_bytes(file.read_bytes())
    recipe = read_json(final / "nutgraf.json")
    recipe["model"]["base"] = str(tiny_base)
    (final / "nutgraf.json").write_text(json.dumps(recipe))
    done = command.run("summarize", "--model", str(final), "-", stdin="News.", status=2)
    assert "an adapter works on its own base only" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_further_seed_repeats_the_trainings_and_leaves_the_rest(
    first: tuple[RunFolder, str, str], tmp_path: Path
) -> None:
    folder, *_ = first
    shutil.copytree(folder.path, tmp_path / "run")
    done = study(tmp_path / "run", train__seeds="[42, 43]")
    assert "search   unchanged, skipped" in done.stderr
    assert done.stderr.count("done before") == 3 + 7 + 7 + 1  # trainings, summaries, scores, facts
    by_seed = pd.read_csv(tmp_path / "run" / "analysis" / "seeds.csv")
    assert list(by_seed["seed"]) == [42] * 3 + [43] * 3
    assert list(by_seed["system"]) == ["baseline", "best", "best_round1"] * 2
    for _, rows in by_seed.groupby("system"):
        assert rows["loss"].nunique() == 2
        assert rows["learning_rate"].nunique() == rows["train_examples"].nunique() == 1
    assert "over the seeds 42, 43, mean and standard deviation:" in done.stdout
    assert "Over the seeds 42, 43" in (tmp_path / "run" / "report.html").read_text()
    for name in ("model_comparison_results.csv", "final_best_model/adapter_model.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (folder / name).read_bytes()


def test_a_setting_that_matters_later_redoes_only_what_follows(
    first: tuple[RunFolder, str, str],
) -> None:
    folder, *_ = first
    done = command.run("run", "--run", str(folder.path), "--score.resamples", "1500")
    skipped = [line.split()[1] for line in done.stderr.splitlines() if "unchanged, skipped" in line]
    assert skipped == ["prepare", "search", "train", "generate", "score"]
