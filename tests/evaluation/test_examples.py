"""Which summaries are shown, and what is marked in them."""

from __future__ import annotations

from nutgraf.data.rows import Article
from nutgraf.evaluation import examples, indicators

STORY = "Ann Lee of Oslo met 12 voters on Monday, the paper said. The mayor did not come."
GOLD = "Ann Lee met 12 voters in Oslo."


def written(*texts: str) -> tuple[list[Article], list[dict], list[dict]]:
    """Articles, summaries and scores; ROUGE is 50 for the first and one less for each next."""
    test = [Article(f"test-{i}", STORY, GOLD) for i in range(len(texts))]
    rows = [{"text": text, "finish_reason": "stop"} for text in texts]
    scores = [
        {"rougeLsum": 50.0 - i, **indicators.indicators(STORY, GOLD, text)}
        for i, text in enumerate(texts)
    ]
    return test, rows, scores


def test_examples_run_from_worst_to_best_and_have_their_marks() -> None:
    test, rows, scores = written(*["Bo Dahl met 12 voters on Monday."] * 21)
    summaries = {"lead3": rows, "best": rows}
    chosen = examples.examples_by_score(test, summaries, scores, "best", count=3)
    assert [row["id"] for row in chosen] == ["test-20", "test-10", "test-0"]
    assert chosen[0]["why"] == "rank 1 of 21 by ROUGE-Lsum of best (30.0), from the worst"
    text, flags = chosen[0]["summaries"]["best"], chosen[0]["flags"]
    assert [(text[a:b], kind) for a, b, kind in flags["best"]] == [
        ("Bo Dahl", "unsupported_names"),
        ("met 12 voters on Monday", "copied"),
    ]
    assert [(GOLD[a:b], kind) for a, b, kind in flags["reference"]] == [
        ("Ann Lee", "missing_key_facts"),
        ("Oslo", "missing_key_facts"),
    ]
    assert list(flags) == ["reference", "lead3", "best"]


def test_few_articles_are_all_shown() -> None:
    test, rows, scores = written(GOLD, GOLD)
    assert len(examples.examples_by_score(test, {"best": rows}, scores, "best")) == 2
    assert len(examples.examples_by_score(test[:1], {"best": rows[:1]}, scores[:1], "best")) == 1


def test_worst_have_most_of_a_kind_and_typical_stand_at_the_median() -> None:
    counts = [0, 1, 1, 1, 1, 2, 2, 2, 3, 9, 0, 5]
    test, rows, scores = written(*[f"{'Bo Dahl met 7 voters. ' * n}Ann." for n in counts])
    chosen = examples.examples_by_fault(test, rows, scores, "best", count=2)
    names = [row for row in chosen if row["kind"] == "unsupported_numbers"]
    assert [row["place"] for row in names] == ["worst", "worst", "typical", "typical"]
    assert [row["value"] for row in names] == [9, 5, 2, 2]
    assert [row["id"] for row in names[2:]] == ["test-5", "test-6"]  # nearer to the median ROUGE
    assert {row["flagged"] for row in names} == {10}
    text = names[0]["summary"]
    assert {text[a:b] for a, b, _ in names[0]["flags"]["summary"]} == {"7"}
    assert names[0]["flags"]["reference"] == []


def test_of_equals_the_worst_has_the_lowest_score_and_no_summary_stands_twice() -> None:
    test, rows, scores = written(*["Ann Lee met 12 voters in Oslo"] * 7)
    chosen = examples.examples_by_fault(test, rows, scores, "best")
    assert {row["kind"] for row in chosen} == {"unfinished"}
    assert [row["id"] for row in chosen[:2]] == ["test-6", "test-5"]
    assert [row["place"] for row in chosen] == ["worst"] * 5 + ["typical"] * 2
    assert len({row["id"] for row in chosen}) == 7


def test_what_is_missing_is_marked_in_the_reference() -> None:
    test, rows, scores = written("Nobody came.")
    (row,) = examples.examples_by_fault(test, rows, scores, "best")
    assert row["kind"] == "missing_key_facts"
    assert row["flags"]["summary"] == []
    marked = [GOLD[a:b] for a, b, _ in row["flags"]["reference"]]
    assert marked == ["Ann Lee", "12", "Oslo"]


def test_without_errors_there_are_no_examples_of_them() -> None:
    assert examples.examples_by_fault(*written(GOLD, GOLD), "best") == []
