"""`nutgraf score FILE`: scores of any file of summaries, and mistakes told in one line."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rouge_score.rouge_scorer import RougeScorer

from nutgraf.cli import main
from nutgraf.data import sentences
from nutgraf.evaluation import indicators, rouge
from nutgraf.pipeline import runner

ROWS = [
    {"id": "a", "story": "Ann Lee met 12 voters in Oslo. It rained.", "gold": "Ann Lee met voters.",
     "ours": "Ann Lee met 12 voters."},
    {"id": "b", "story": "The bridge is closed, the city said.\nRepairs take 3 weeks.",
     "gold": "The bridge is closed.\nRepairs take 3 weeks.", "ours": "Repairs take 4 weeks"},
    {"id": "c", "story": "A cat sat.", "gold": "A cat sat.", "ours": ""},
]  # fmt: skip
COLUMNS = ("--reference", "gold", "--summary", "ours")


def write(path: Path, rows: list[dict]) -> Path:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    else:
        pd.DataFrame(rows).to_parquet(path)
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write(tmp_path / "outputs.jsonl", ROWS)


def scored(capsys: pytest.CaptureFixture[str], path: Path, *words: str) -> dict:
    assert main.main(["score", str(path), *words, "--json"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1
    return json.loads(printed)


def complaint(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line that a mistake leaves on standard error; nothing is printed as a result."""
    assert main.main(["score", *words]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    line = told.err.splitlines()[-1]
    assert line.startswith("nutgraf: ")
    assert "Traceback" not in told.err
    return line


# What is measured.


def test_json_holds_scores_intervals_indicators_and_the_signature(capsys, file):
    found = scored(capsys, file, *COLUMNS, "--article", "story")
    assert list(found) == [
        "n", *rouge.ROUGE_TYPES, "indicators", "reference_indicators", "signature",
    ]  # fmt: skip
    assert found["n"] == 3
    for kind in rouge.ROUGE_TYPES:
        values = [rouge.score_rouge(row["gold"], row["ours"])[kind] for row in ROWS]
        assert found[kind]["mean"] == pytest.approx(np.mean(values), abs=1e-4)
        assert found[kind]["low"] <= found[kind]["mean"] <= found[kind]["high"]
    assert (
        list(found["indicators"])
        == list(found["reference_indicators"])
        == list(indicators.MEANINGS)
    )
    # One summary of three has a number that its article lacks, two do not end; no reference does.
    assert found["indicators"]["unsupported_numbers"] == pytest.approx(1 / 3, abs=1e-4)
    assert found["indicators"]["unfinished"] == pytest.approx(2 / 3, abs=1e-4)
    assert found["reference_indicators"]["unsupported_numbers"] == 0
    assert found["reference_indicators"]["length_ratio"] == 1
    assert found["signature"] == rouge.rouge_signature(seed=42, resamples=10_000)


def test_without_articles_there_are_no_indicators(capsys, file):
    found = scored(capsys, file, *COLUMNS)
    assert list(found) == ["n", *rouge.ROUGE_TYPES, "signature"]


def test_every_kind_of_file_gives_the_same(capsys, tmp_path):
    words = (*COLUMNS, "--article", "story")
    found = [
        scored(capsys, write(tmp_path / f"outputs{suffix}", ROWS), *words)
        for suffix in (".jsonl", ".csv", ".parquet")
    ]
    assert found[0] == found[1] == found[2]


def test_the_table_says_the_same_as_json(capsys, file):
    found = scored(capsys, file, *COLUMNS, "--article", "story")
    assert main.main(["score", str(file), *COLUMNS, "--article", "story"]) == 0
    told = capsys.readouterr()
    lines = {line.split()[0]: line for line in told.out.splitlines()}
    assert lines["3"].startswith(f"3 summaries of {file}: ROUGE F1, 0 to 100")
    for kind in rouge.ROUGE_TYPES:
        mean, low, high = (found[kind][name] for name in ("mean", "low", "high"))
        assert lines[kind].split() == [kind, f"{mean:.2f}", f"{low:.2f}", "to", f"{high:.2f}"]
    for name, meaning in indicators.MEANINGS.items():
        assert lines[name].endswith(meaning)
    assert "rouge-score" in lines["package"]
    assert told.err == ""  # no bar: it is no terminal


def test_published_outputs_score_as_the_library_says(capsys, shared, tmp_path):
    half = pd.read_parquet(shared / "cnndm-test-a.parquet")
    path = tmp_path / "sample.csv"
    half.sample(100, random_state=42).to_csv(path, index=False)
    words = ("--reference", "highlights", "--summary", "pgn_cov", "--article", "article")
    found = scored(capsys, path, *words)
    scorer = RougeScorer(list(rouge.ROUGE_TYPES), use_stemmer=True)
    direct = [
        scorer.score(*("\n".join(sentences.split_sentences(text)) for text in pair))
        for pair in half.sample(100, random_state=42)[["highlights", "pgn_cov"]].to_numpy()
    ]
    published = {"rouge1": 39.27, "rouge2": 17.27, "rougeL": 26.75, "rougeLsum": 36.18}
    for kind, known in published.items():
        mean = 100 * np.mean([score[kind].fmeasure for score in direct])
        assert found[kind]["mean"] == pytest.approx(mean, abs=1e-4)
        # Of another sample of the same articles: within three standard errors.
        assert abs(found[kind]["mean"] - known) < 1.53 * (found[kind]["high"] - found[kind]["low"])
    assert found["indicators"]["coverage"] == pytest.approx(0.999, rel=0.02)
    assert found["reference_indicators"]["coverage"] == pytest.approx(0.886, rel=0.05)


def test_processes_measure_the_same_and_name_the_row(tmp_path):
    """In a process of its own, as from a shell: the other processes start from its main module."""
    texts = [f"The council of ward {n} met on Monday." for n in range(240)]
    rows = [{"story": f"{text} It rained.", "gold": text, "ours": text[:-9]} for text in texts]
    path = write(tmp_path / "many.jsonl", rows)
    words = [sys.executable, "-m", "nutgraf", "score", str(path), *COLUMNS, "--json"]
    done = subprocess.run(
        [*words, "--article", "story"], capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout)
    assert found["n"] == 240
    scores = [rouge.score_rouge(row["gold"], row["ours"])["rouge2"] for row in rows]
    assert found["rouge2"]["mean"] == pytest.approx(np.mean(scores), abs=1e-4)
    write(path, [*rows, {"story": "Rain.", "gold": "—", "ours": "Rain."}])
    done = subprocess.run(
        [*words, "--article", "story"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.splitlines()[-1].startswith(f"nutgraf: {path} row 241: reference '—' has no")


# Mistakes.


def test_a_column_that_is_not_there(capsys, file):
    for words in (
        ("--reference", "golf", "--summary", "ours"),
        ("--reference", "ours", "--summary", "golf"),
        (*COLUMNS, "--article", "golf"),
    ):
        line = complaint(capsys, str(file), *words)
        assert f"{file} row 1 has no column 'golf': did you mean 'gold'?" in line
        assert "(it has id, story, gold, ours)" in line


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"gold": ""}, "row 2: the reference in column 'gold' is empty: correct it or leave"),
        ({"gold": " \n"}, "row 2: the reference in column 'gold' is empty"),
        ({"gold": "—"}, "row 2: reference '—' has no word that ROUGE counts"),
        ({"gold": None}, "row 2: the reference in column 'gold' is missing"),
        ({"ours": None}, "row 2: the summary in column 'ours' is missing"),
        ({"ours": 7}, "row 2: the summary in column 'ours' is not text: it is of type int"),
        ({"story": " "}, "row 2: the article in column 'story' is empty"),
    ],
)
def test_a_row_that_cannot_be_measured_is_named(capsys, tmp_path, change, told):
    path = write(tmp_path / "outputs.jsonl", [ROWS[0], {**ROWS[1], **change}, ROWS[2]])
    line = complaint(capsys, str(path), *COLUMNS, "--article", "story")
    assert line.startswith(f"nutgraf: {path} {told}")


@pytest.mark.parametrize("name", ["none.jsonl", "none.csv", "header.csv", "none.parquet"])
def test_an_empty_file(capsys, tmp_path, name):
    path = tmp_path / name
    path.write_text("")
    if name == "header.csv":
        path.write_text("gold,ours\n")
    if name == "none.parquet":
        pd.DataFrame({"gold": [], "ours": []}).to_parquet(path)
    assert f"{path} holds no row" in complaint(capsys, str(path), *COLUMNS)


def test_a_file_that_cannot_be_read(capsys, tmp_path):
    path = tmp_path / "outputs.jsonl"
    assert f"{path} does not exist" in complaint(capsys, str(path), *COLUMNS)
    path.write_text('{"gold": "A cat."')
    assert f"{path} line 1 is not JSON" in complaint(capsys, str(path), *COLUMNS)
    other = tmp_path / "outputs.txt"
    assert f"{other} is of an unknown kind" in complaint(capsys, str(other), *COLUMNS)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["FILE"], "FILE: name its columns with --reference COL and --summary COL"),
        (["FILE", "--reference", "gold"], "name its columns with --reference COL"),
        (["--json"], "--json goes with a FILE of summaries (.jsonl, .csv, .parquet)"),
        (["FILE", *COLUMNS, "--run", "runs/x"], "--run is of a study"),
        (["FILE", *COLUMNS, "--force"], "--force is of a study"),
        (["FILE", *COLUMNS, "--score.seed", "3"], "--score.seed is of a study"),
        (["mine.yaml", *COLUMNS], "mine.yaml is of an unknown kind"),
        (["nowhere.yaml"], "nowhere.yaml does not exist: give the path of a YAML file"),
    ],
)
def test_the_file_and_the_study_do_not_mix(capsys, file, words, told):
    assert told.replace("FILE:", f"{file}:") in complaint(
        capsys, *(str(file) if word == "FILE" else word for word in words)
    )


def test_without_a_file_it_is_the_stage(monkeypatch, tmp_path):
    stages = []
    monkeypatch.setattr(runner, "run_study", lambda config, names, force: stages.append(names))
    path = tmp_path / "mine.yaml"
    path.write_text("score: {seed: 3}\n")
    for words in ([], [str(path)], ["--run", str(tmp_path)], ["--score.seed", "4"]):
        assert main.main(["score", *words]) == 0
    assert stages == [("score",)] * 4
