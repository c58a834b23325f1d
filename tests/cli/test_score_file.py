"""`nutgraf score FILE`: scores of any file of summaries, and mistakes told in one line."""

from __future__ import annotations

import csv
import gzip
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from rouge_score.rouge_scorer import RougeScorer

import nutgraf
from nutgraf.cli import main
from nutgraf.data import sentences, tables
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
    elif path.suffix.lower() == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    else:
        pd.DataFrame(rows).to_parquet(path)
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write(tmp_path / "outputs.jsonl", [*ROWS, *ROWS])  # enough for an interval


def scored(capsys: pytest.CaptureFixture[str], path: Path, *words: str) -> dict:
    assert main.main(["score", str(path), *words, "--json"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1
    return json.loads(printed)


def complaint(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line that a mistake leaves on standard error; nothing is printed as a result."""
    assert main.main(["score", *words]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    line = output.err.splitlines()[-1]
    assert line.startswith("nutgraf: ")
    assert "Traceback" not in output.err
    return line


# What is measured.


def test_json_holds_scores_intervals_indicators_and_the_signature(capsys, file):
    record = scored(capsys, file, *COLUMNS, "--article", "story")
    assert list(record) == [
        "n", *rouge.ROUGE_TYPES, "without_words", "letters_counted", "indicators",
        "reference_indicators", "signature",
    ]  # fmt: skip
    assert (record["n"], record["without_words"]) == (6, 2)
    for kind in rouge.ROUGE_TYPES:
        values = [rouge.score_rouge(row["gold"], row["ours"])[kind] for row in ROWS]
        assert record[kind]["mean"] == pytest.approx(np.mean(values), abs=1e-4)
        assert record[kind]["low"] < record[kind]["mean"] < record[kind]["high"]
        matches = [rouge.match(row["gold"], row["ours"])[kind] for row in ROWS]
        for end in ("precision", "recall"):
            mean = np.mean([getattr(match, end) for match in matches])
            assert record[kind][end] == pytest.approx(mean, abs=1e-4)
    assert (
        list(record["indicators"])
        == list(record["reference_indicators"])
        == list(indicators.MEANINGS)
    )
    # One summary of three has a number that its article lacks, two do not end; no reference does.
    assert record["indicators"]["unsupported_numbers"] == pytest.approx(1 / 3, abs=1e-4)
    assert record["indicators"]["unfinished"] == pytest.approx(2 / 3, abs=1e-4)
    assert record["reference_indicators"]["unsupported_numbers"] == 0
    assert record["reference_indicators"]["length_ratio"] == 1
    assert record["signature"] == rouge.rouge_signature(seed=42, resamples=10_000)


def test_without_articles_there_are_no_indicators(capsys, file):
    record = scored(capsys, file, *COLUMNS)
    assert "indicators" not in record


def test_every_kind_of_file_gives_the_same(capsys, tmp_path):
    words = (*COLUMNS, "--article", "story")
    records = [
        scored(capsys, write(tmp_path / f"outputs{suffix}", ROWS), *words)
        for suffix in (".jsonl", ".csv", ".parquet")
    ]
    assert records[0] == records[1] == records[2]


def test_the_table_says_the_same_as_json(capsys, file):
    record = scored(capsys, file, *COLUMNS, "--article", "story")
    assert main.main(["score", str(file), *COLUMNS, "--article", "story"]) == 0
    output = capsys.readouterr()
    lines = {line.split()[0]: line for line in output.out.splitlines()}
    assert lines["6"].startswith(f"6 summaries of {file}: ROUGE F1, 0 to 100")
    for kind in rouge.ROUGE_TYPES:
        mean, low, high = (record[kind][name] for name in ("mean", "low", "high"))
        assert lines[kind].split() == [kind, f"{mean:.2f}", f"{low:.2f}", "to", f"{high:.2f}"]
    for name, meaning in indicators.MEANINGS.items():
        assert lines[name].endswith(meaning)
    assert "rouge-score" in lines["package"]
    assert output.err == ""  # no bar: it is no terminal


def test_published_outputs_score_as_the_library_says(capsys, shared, tmp_path):
    half = pd.read_parquet(shared / "cnndm-test-a.parquet")
    path = tmp_path / "sample.csv"
    half.sample(100, random_state=42).to_csv(path, index=False)
    words = ("--reference", "highlights", "--summary", "pgn_cov", "--article", "article")
    record = scored(capsys, path, *words)
    scorer = RougeScorer(list(rouge.ROUGE_TYPES), use_stemmer=True)
    direct = [
        scorer.score(*("\n".join(sentences.split_sentences(text)) for text in pair))
        for pair in half.sample(100, random_state=42)[["highlights", "pgn_cov"]].to_numpy()
    ]
    published = {"rouge1": 39.27, "rouge2": 17.27, "rougeL": 26.75, "rougeLsum": 36.18}
    for kind, known in published.items():
        mean = 100 * np.mean([score[kind].fmeasure for score in direct])
        assert record[kind]["mean"] == pytest.approx(mean, abs=1e-4)
        # Of another sample of the same articles: within three standard errors.
        assert abs(record[kind]["mean"] - known) < 1.53 * (
            record[kind]["high"] - record[kind]["low"]
        )
    assert record["indicators"]["coverage"] == pytest.approx(0.999, rel=0.02)
    assert record["reference_indicators"]["coverage"] == pytest.approx(0.886, rel=0.05)


def test_processes_measure_the_same_and_name_the_row(tmp_path):
    """In a process of its own, as from a shell: the other processes start from its main module."""
    texts = [f"The council of ward {n} met on Monday." for n in range(240)]
    rows = [{"story": f"{text} It rained.", "gold": text, "ours": text[:-9]} for text in texts]
    path = write(tmp_path / "many.jsonl", rows)
    words = [sys.executable, "-m", "nutgraf", "score", str(path), *COLUMNS, "--json"]
    done = subprocess.run(
        [*words, "--article", "story"], capture_output=True, text=True, check=True
    )
    record = json.loads(done.stdout)
    assert record["n"] == 240
    scores = [rouge.score_rouge(row["gold"], row["ours"])["rouge2"] for row in rows]
    assert record["rouge2"]["mean"] == pytest.approx(np.mean(scores), abs=1e-4)
    write(path, [*rows, {"story": "Rain.", "gold": "—", "ours": "Rain."}])
    done = subprocess.run(
        [*words, "--article", "story"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.splitlines()[-1].startswith(f"nutgraf: {path} row 241: reference '—' has no")


def test_text_files_give_the_same_as_a_table(capsys, file, tmp_path):
    rows = [row for row in [*ROWS, *ROWS] if row["ours"]]
    expected = scored(capsys, write(tmp_path / "rows.CSV", rows), *COLUMNS, "--article", "story")
    names = {"ours": tmp_path / "ours.txt", "gold": tmp_path / "gold", "story": tmp_path / "s.gz"}
    for column, path in names.items():
        lines = [row[column].replace("\n", "\u2028") for row in rows]  # no end of a line of a file
        text = "\r\n".join(lines).encode() + b"\n"
        path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    words = (str(names["gold"]), "--article", str(names["story"]))
    names["ours"].write_bytes(names["ours"].read_bytes().decode().encode("utf-16"))
    assert scored(capsys, names["ours"], *words) == expected


def test_text_files_with_other_counts_or_an_empty_reference(capsys, tmp_path):
    ours, gold = tmp_path / "ours.txt", tmp_path / "gold.txt"
    ours.write_text("One.\n\nThree.\n")
    gold.write_text("One.\nTwo.\n")
    assert f"{ours} has 3 lines, {gold} 2: " in complaint(capsys, str(ours), str(gold))
    gold.write_text("One.\nTwo.\n\n")
    line = complaint(capsys, str(ours), str(gold))
    assert f"{ours} line 3: the reference is empty" in line
    line = complaint(capsys, str(ours), str(gold), "--reference", "gold")
    assert "--reference is a column of a table" in line
    line = complaint(capsys, str(ours), str(write(tmp_path / "gold.jsonl", ROWS)))
    assert "gold.jsonl is a table: give it alone" in line
    gold.write_text("One.\nTwo.\nThree.\n")
    record = scored(capsys, ours, str(gold))
    assert (record["n"], record["without_words"]) == (3, 1)
    assert scored(capsys, ours, "--tokenizer", "rouge-score", str(gold)) == record
    assert record["rouge1"]["low"] is record["rouge1"]["high"] is None  # too few for an interval
    assert main.main(["score", str(ours), str(gold)]) == 0
    printed = capsys.readouterr().out
    assert "with 95% bootstrap intervals, none below 6 rows" in printed
    assert "rouge1       66.67\n" in printed
    assert "without a word that ROUGE counts, which score 0: 1" in printed


def test_of_several_references_the_best_counts_and_the_mean_is_beside_it(capsys, tmp_path):
    golds = [["A cat sat.", "The cat sat there."], ["Rain fell on Oslo."], ["A dog.", "Dogs ran."]]
    ours = ["The cat sat.", "Rain in Oslo.", "The dog ran."]
    scorer = RougeScorer(list(rouge.ROUGE_TYPES), use_stemmer=True)
    pairs = list(zip(golds, ours, strict=True))
    listed = write(
        tmp_path / "a.jsonl", [{"gold": gold, "ours": summary} for gold, summary in pairs]
    )
    record = scored(capsys, listed, *COLUMNS)
    for kind in rouge.ROUGE_TYPES:
        best = [scorer.score_multi(gold, summary)[kind] for gold, summary in pairs]
        for end, name in (("mean", "fmeasure"), ("precision",) * 2, ("recall",) * 2):
            mean = 100 * np.mean([getattr(score, name) for score in best])
            assert record[kind][end] == pytest.approx(mean, abs=1e-4)
        of_rows = [
            np.mean([scorer.score(text, summary)[kind].fmeasure for text in gold])
            for gold, summary in pairs
        ]
        mean = record["mean_of_references"][kind]["mean"]
        assert mean == pytest.approx(100 * np.mean(of_rows), abs=1e-4)
    assert record["signature"]["references"] == "the best by F1"
    flat = [
        {"gold_1": gold[0], "gold_2": gold[-1] if gold[1:] else "", "ours": summary}
        for gold, summary in pairs
    ]
    numbered = write(tmp_path / "b.csv", flat)
    written = (
        str,
        json.dumps,
        lambda g: str(np.array(g, object)),
        lambda g: json.dumps([None, *g]),
    )
    in_cells = [
        write(tmp_path / f"c{n}.csv", [{"Gold ": form(g), "OURS": text} for g, text in pairs])
        for n, form in enumerate(written)
    ]
    texts = [tmp_path / name for name in ("ours.txt", "gold1.txt", "gold2.txt")]
    for path, column in zip(texts, ("ours", "gold_1", "gold_2"), strict=True):
        path.write_text("".join(row[column] + "\n" for row in flat))
    assert record == scored(capsys, numbered, *COLUMNS)
    for path in in_cells:
        assert record == scored(capsys, path, *COLUMNS)
    assert record == scored(
        capsys, numbered, "--reference", "gold_1", "--reference", "gold_2", "--summary", "ours"
    )
    assert record == scored(capsys, texts[0], *map(str, texts[1:]))
    assert nutgraf.score(ours, golds).record() == record
    assert main.main(["score", str(listed), *COLUMNS]) == 0
    assert "of several references the best counts above; the mean" in capsys.readouterr().out
    write(listed, [{"gold": [], "ours": "One."}])
    assert "the reference in column 'gold' is empty" in complaint(capsys, str(listed), *COLUMNS)
    write(listed, [{"gold": ["", " "], "ours": "One."}])
    assert "all its references are empty" in complaint(capsys, str(listed), *COLUMNS)


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_rows_with_flagged_spans_go_to_a_file(capsys, file, tmp_path, suffix):
    out = tmp_path / f"rows{suffix}"
    words = (*COLUMNS, "--article", "story", "--check-facts", "--base", "pocket")
    record = scored(capsys, file, *words, "--out", str(out))
    rows = list(tables.read_rows(out))
    for row, n in zip(rows, [1, 1, 0] * 2, strict=True):
        assert int(float(row["sentences"])) == n >= int(float(row["doubted"]))
        lowest = row["lowest_probability"]
        assert 0 < float(lowest) < 1 if n else lowest in (None, "") or np.isnan(lowest)
    doubted = sum(int(float(row["doubted"])) for row in rows)
    lowest = [float(row["lowest_probability"]) for row in rows[:2]]
    assert record["facts"] == pytest.approx(
        {"doubted": doubted / 6, "sentences": 4 / 6, "lowest_probability": np.mean(lowest)},
        abs=1e-3,
    )
    assert main.main(["score", str(file), *words]) == 0
    *_, mean, _, last = capsys.readouterr().out.splitlines()
    assert mean.split() == ["lowest_probability", f"{record['facts']['lowest_probability']:.3f}"]
    assert last.startswith(f"{doubted} of 4 sentences are doubted. How often its doubts are right")
    assert [row["id"] for row in rows] == ["a", "b", "c"] * 2
    for kind in rouge.ROUGE_TYPES:
        for name, mean in ((kind, "mean"), (f"{kind}_precision", "precision")):
            values = [float(row[name]) for row in rows]
            assert np.mean(values) == pytest.approx(record[kind][mean], abs=1e-3)
    row = rows[1]
    flags = json.loads(row["flags"]) if suffix == ".csv" else row["flags"]
    assert [(flag["kind"], flag["text"]) for flag in flags] == [
        ("unsupported_numbers", "4"), ("unfinished", "weeks"),
    ]  # fmt: skip
    assert all(row["summary"][flag["start"] : flag["end"]] == flag["text"] for flag in flags)
    assert (row["reference"], int(float(row["row"]))) == (ROWS[1]["gold"], 2)
    write(file, [ROWS[0], {**ROWS[1], "id": None}, {**ROWS[2], "id": "ç"}])
    scored(capsys, file, *COLUMNS, "--out", str(out))
    assert [row.get("id") or None for row in tables.read_rows(out)] == ["a", None, "ç"]
    for bad in (tmp_path / "rows.txt", file):
        line = complaint(capsys, str(file), *COLUMNS, "--out", str(bad))
        assert "give a file that ends in .csv" in line or "is what is scored" in line
    assert main.main(["score", str(file), *COLUMNS, "--out", str(file / "x.csv")]) == 2
    assert "x.csv cannot be written (File exists): give another" in capsys.readouterr().err


def test_as_json_what_the_doubts_are_worth_goes_to_the_log(
    capsys: pytest.CaptureFixture[str], file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    words = (*COLUMNS, "--article", "story", "--check-facts", "--base", "pocket")
    with caplog.at_level("INFO", "nutgraf"):
        assert "facts" in scored(capsys, file, *words)
    assert main.main(["score", str(file), *words]) == 0
    (line,) = (line for line in caplog.messages if "sentences are doubted" in line)
    assert line == capsys.readouterr().out.splitlines()[-1]


def test_paths_may_begin_at_home(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in (("ours", "A cat sat.\n"), ("gold", "A cat sat.\n"), ("news", "A cat.\n")):
        (tmp_path / f"{name}.txt").write_text(text)
    monkeypatch.setenv("HOME", str(tmp_path))
    words = ("~/gold.txt", "--article", "~/news.txt", "--out", "~/rows.jsonl")
    record = scored(capsys, tmp_path / "ours.txt", *words)
    assert record["rouge1"]["mean"] == 100
    assert "indicators" in record
    assert (tmp_path / "rows.jsonl").is_file()


def test_another_script_is_refused_and_the_unicode_tokenizer_offered(capsys, tmp_path):
    rows = [{"gold": "Сухопутные войска РФ в 2015 году.", "ours": "Цены на нефть в 2015 году."}]
    path = write(tmp_path / "outputs.jsonl", rows)
    line = complaint(capsys, str(path), *COLUMNS)
    assert "0.0% of the references' letters (80% at least): set --tokenizer unicode" in line
    record = scored(capsys, path, *COLUMNS, "--tokenizer", "unicode")
    assert record["rouge1"]["mean"] == pytest.approx(100 * 6 / 12)
    assert record["signature"]["tokenizer"].startswith("unicode ")
    assert record["signature"]["stemmer"] is False
    with pytest.raises(nutgraf.UserError, match="set tokenizer='unicode'"):
        nutgraf.score([rows[0]["ours"]], [rows[0]["gold"]])
    again = nutgraf.score([rows[0]["ours"]], [rows[0]["gold"]], tokenizer="unicode")
    assert again.record() == record
    # Some letters of French do not count: said, with the share.
    write(path, [{"gold": "L'été à Genève.", "ours": "Un été."}] + [ROWS[0]] * 5)
    letters = scored(capsys, path, *COLUMNS)["letters_counted"]
    assert letters["references"] == pytest.approx((5 + 7 / 11) / 6, abs=1e-4)
    assert letters["rows_below_limit"] == 1
    assert main.main(["score", str(path), *COLUMNS]) == 0
    assert "letters that ROUGE counts (a-z): 93.94% of the references'" in capsys.readouterr().out


def test_marks_of_generators_are_cleaned_and_counted(capsys, tmp_path):
    ours, gold = tmp_path / "ours.txt", tmp_path / "gold.txt"
    ours.write_text(
        "<t> a cat sat . </t> <t> it &#39;s late . </t>\nRain fell.<n>It stopped.\n<n>\n"
    )
    gold.write_text("A cat sat.<q>It's late.\nIt stopped.<q>Rain fell.\nA dog.\n")
    record = scored(capsys, ours, str(gold))
    assert record["rougeLsum"]["mean"] == pytest.approx(200 / 3, abs=1e-4)
    assert (record["marks_cleaned"]["<q>"], record["without_words"]) == (2, 1)
    assert main.main(["score", str(ours), str(gold)]) == 0
    assert "marks of generators, cleaned: " in capsys.readouterr().out
    text = "Smith &amp; Sons -LRB- AP -RRB- sent 2 @,@ 500 people home .<n>It &#39;s over ."
    scores = nutgraf.score([text], [text], [text])
    assert scores.marks_cleaned["&amp;"] == 2
    values = [scores.indicators[name] for name in ("unsupported_numbers", "novel_2grams")]
    assert values == [0, 0]


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
    ("change", "message"),
    [
        ({"gold": ""}, "row 2: the reference in column 'gold' is empty: correct it or leave"),
        ({"gold": " \n"}, "row 2: the reference in column 'gold' is empty"),
        ({"gold": "—"}, "row 2: reference '—' has no word that ROUGE counts"),
        ({"gold": "nan"}, "row 2: the reference in column 'gold' is empty: 'nan' stands for no"),
        ({"gold": float("nan")}, "row 2: the reference in column 'gold' is missing"),
        ({"gold": None}, "row 2: the reference in column 'gold' is missing"),
        ({"ours": None}, "row 2: the summary in column 'ours' is missing"),
        ({"ours": 7}, "row 2: the summary in column 'ours' is not text: it is of type int"),
        ({"story": " "}, "row 2: the article in column 'story' is empty"),
    ],
)
def test_a_row_that_cannot_be_measured_is_named(capsys, tmp_path, change, message):
    path = write(tmp_path / "outputs.jsonl", [ROWS[0], {**ROWS[1], **change}, ROWS[2]])
    line = complaint(capsys, str(path), *COLUMNS, "--article", "story")
    assert line.startswith(f"nutgraf: {path} {message}")


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
    path.write_text("{}")
    assert "row 1 has no column 'gold' (it has none)" in complaint(capsys, str(path), *COLUMNS)
    other = tmp_path / "outputs.txt"
    other.write_text("A cat.")
    assert f"{other} is of an unknown kind" in complaint(capsys, str(other), *COLUMNS)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["FILE"], "FILE: name its columns with --reference COL and --summary COL"),
        (["FILE", "--reference", "gold"], "name its columns with --reference COL"),
        (["--json"], "--json goes with a FILE of summaries (.jsonl, .json, .csv, .tsv, .parquet)"),
        (["FILE", *COLUMNS, "--run", "runs/x"], "--run is of a study"),
        (["FILE", *COLUMNS, "--force"], "--force is of a study"),
        (["--check-facts"], "--check-facts goes with a FILE of summaries"),
        (["FILE", *COLUMNS, "--check-facts"], "--check-facts reads articles too: name theirs"),
        (["FILE", *COLUMNS, "--base", "pocket"], "--base is the model that reads: give --check-"),
        (["FILE", *COLUMNS, "--score.seed", "3"], "--score.seed is of a study"),
        (["mine.yaml", *COLUMNS], "mine.yaml does not exist"),
        (["ours.txt"], "or give the file with its references behind it"),
        (["nowhere.yaml"], "nowhere.yaml does not exist: give the path of a YAML file"),
    ],
)
def test_the_file_and_the_study_do_not_mix(capsys, file, words, message):
    assert message.replace("FILE:", f"{file}:") in complaint(
        capsys, *(str(file) if word == "FILE" else word for word in words)
    )


@pytest.mark.parametrize(
    ("summaries", "message"),
    [
        ("A cat.", "summaries is one text, 'A cat.'"),
        ({"a": "A cat."}, "summaries is a dict"),
        (pd.DataFrame({"a": ["A cat."]}), "summaries is a DataFrame"),
        (None, "summaries is a NoneType"),
        ([float("nan")], "row 1: the summary is missing"),
    ],
)
def test_what_is_no_list_of_texts_is_named(summaries, message):
    with pytest.raises(nutgraf.UserError, match=message):
        nutgraf.score(summaries, ["A cat."])


def test_columns_of_tables_and_generators_are_lists_of_texts():
    for form in (pd.Series, np.array, pa.array, iter, tuple):
        scores = nutgraf.score(form(["A cat."]), form(["A cat."]))
        assert (scores.n, scores.rouge1.mean) == (1, 100)


def test_without_a_file_it_is_the_stage(monkeypatch, tmp_path):
    stages = []
    monkeypatch.setattr(runner, "run_study", lambda config, names, force: stages.append(names))
    path = tmp_path / "mine.yaml"
    path.write_text("score: {seed: 3}\n")
    for words in ([], [str(path)], ["--run", str(tmp_path)], ["--score.seed", "4"]):
        assert main.main(["score", *words]) == 0
    assert stages == [("score",)] * 4
