"""The command that checks any summaries."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nutgraf.cli.check_facts import reading_model
from nutgraf.cli.main import main

ARTICLE = "The council of Norwick met on Monday. It spoke of roads. Nobody was hurt, police said."


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    summaries = ("It spoke of roads.", "Zebras bought the moon for 17 euros. It spoke of roads.")
    lines = [json.dumps({"id": n, "text": ARTICLE, "summary": s}) for n, s in enumerate(summaries)]
    path.write_text("\n".join(lines))
    return path


def test_it_prints_what_is_doubted_with_the_passage_it_was_judged_by(
    rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check-facts", str(rows), "--base", "pocket"]) == 0
    heading, doubted, passage, last = capsys.readouterr().out.splitlines()
    assert heading == f"== {rows} row 2: 1 of 2 sentences doubted"
    assert doubted.endswith("%  Zebras bought the moon for 17 euros.")
    assert passage.strip() == "article: The council of Norwick met on Monday."
    assert last == (
        "1 of 3 sentences are doubted. How often its doubts are right is known only of smollm2, "
        "not in 4 bits, which the limit was set for: another base may doubt nearly all."
    )


def test_as_json_every_sentence_has_its_probability(
    rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check-facts", str(rows), "--base", "pocket", "--json", "--rows", "2"]) == 0
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert (first["id"], second["id"]) == ("0", "1")
    assert [one["doubted"] for one in second["sentences"]] == [True, False]
    (own,) = first["sentences"]
    assert own["text"] == first["summary"]
    assert 0.5 < own["probability"] < 1
    assert own["passages"][-1] == "It spoke of roads."


def test_rows_behind_those_asked_for_are_not_read(
    rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = {"text": ARTICLE, "summary": None}
    with rows.open("a") as file:
        file.write(f"\n{json.dumps(bad)}\nno JSON")
    assert main(["check-facts", str(rows), "--base", "pocket", "--rows", "2"]) == 0
    assert "1 of 3 sentences are doubted." in capsys.readouterr().out
    assert main(["check-facts", str(rows), "--base", "pocket"]) == 2
    assert "row 3: the summary in column 'summary' is missing" in capsys.readouterr().err


@pytest.mark.parametrize("base", ["../bases/tiny", "~/bases/tiny"])
def test_a_base_is_a_path_from_here_or_from_home(
    base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "bases" / "tiny").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert reading_model(base).base == str(tmp_path / "bases" / "tiny")


def test_a_base_that_is_no_path_stays_as_it_is() -> None:
    for base in ("smollm2", "pocket", "owner/name"):
        assert reading_model(base).base == base


def test_a_column_that_is_not_there_is_one_line(
    rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check-facts", str(rows), "--summary", "sumary"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "row 1 has no column 'sumary' — did you mean 'summary'?" in line or "summary" in line
    assert line.endswith("set --summary")
    for words, fact in (
        (
            ["--system", "best"],
            f"--system is of a run folder, and {rows} a table: leave it out",
        ),
        (["--rows", "-1"], "'-1' is no whole number above 0"),
    ):
        assert main(["check-facts", str(rows), *words]) == 2
        assert fact in capsys.readouterr().err
