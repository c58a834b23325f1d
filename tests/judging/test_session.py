"""Judging a study: what is shown, what is saved, and what is made of it."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.judged import write_study

from nutgraf.config.load import build_config
from nutgraf.core.errors import Failure, UserError
from nutgraf.core.files import Journal, write_records
from nutgraf.data.rows import Article
from nutgraf.judging.record import read_record
from nutgraf.judging.session import Session
from nutgraf.pipeline import artifacts
from nutgraf.pipeline.judgements import describe_judgements, load_pair
from nutgraf.storage.run_folder import RunFolder

N = 60
SYSTEMS = ("best", "lead3")


def texts(system: str) -> list[str]:
    """Longer by `best` on every third article, by `lead3` on the others; the same on the last."""
    extra = [(i % 3 == 0) == (system == "best") for i in range(N - 1)]
    return [*(f"{'1' if system == 'best' else '2'}{i}." + " More." * e
              for i, e in enumerate(extra)), "Same."]  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    articles = [Article(f"id-{i}", f"Story {i} happened.", f"Reference {i}.") for i in range(N)]
    return write_study(tmp_path, articles, {name: texts(name) for name in SYSTEMS})


@pytest.fixture
def session(folder: RunFolder) -> Session:
    return Session(load_pair(folder, SYSTEMS), folder.path)


def judge(
    session: Session, name: str, count: int, verdict: Callable[[str, str], str] | str
) -> list[str]:
    """Judge the next articles and return their ids; `verdict` may see both texts."""
    ids = []
    for _ in range(count):
        view = session.view(name)
        word = verdict
        if callable(verdict):
            word = verdict(view["left"]["text"], view["right"]["text"])
        session.click(name, view["id"], str(word), 1.5)
        ids.append(view["id"])
    return ids


def prefers_best(left: str, right: str) -> str:
    return "left" if left.startswith("1") else "right"


def saved(folder: RunFolder, name: str) -> list[dict]:
    return [json.loads(line) for line in (folder / "judgements" / f"{name}.jsonl").open()]


def test_judges_get_the_same_articles_with_sides_of_their_own(session: Session) -> None:
    ann, bob = (judge(session, name, N - 1, "left") for name in ("Ann", "Bob"))
    assert ann == bob  # so that those who stop early have judged the same articles
    assert sorted(ann) == sorted(f"id-{i}" for i in range(N - 1))
    assert ann != sorted(ann, key=lambda name: int(name[3:]))
    rows = [session._records[name].rows for name in ("Ann", "Bob")]
    sides = [[row["left"] for row in of_judge] for of_judge in rows]
    assert sides[0] != sides[1]
    for of_judge in sides:
        assert 15 < of_judge.count("best") < 44
    end = session.view("Ann")
    assert (end["id"], end["judged"], end["articles"], end["same"]) == (None, N - 1, N - 1, 1)


def test_nothing_that_is_shown_says_who_wrote_or_who_leads(session: Session) -> None:
    judge(session, "Ann", 20, prefers_best)
    view = session.view("Ann")
    shown = json.dumps(view)
    assert not [name for name in SYSTEMS if name in shown]
    assert set(view) == {
        "judge", "id", "judged", "articles", "same", "settled", "article", "left", "right",
    }  # fmt: skip
    assert view["settled"]
    assert session.result("Ann").words == (
        "best is preferred to lead3 in 100% of 20 articles (ties count half; 95% sequence "
        f"{100 * session.result('Ann').sequence.low:.0f}% to 100%): settled after 10, best is "
        "better."
    )


def test_a_restart_continues_and_undo_is_a_line_of_its_own(
    folder: RunFolder, session: Session
) -> None:
    ids = judge(session, "Ann", 3, "left")
    assert session.undo(" Ann ")["id"] == ids[2]
    again = Session(load_pair(folder, ("lead3", "best")), folder.path)  # in the other order
    assert again.view("Ann")["id"] == ids[2]
    wrong = [("right", 0, 2)]
    again.click("Ann", ids[2], "bad", 12.34, wrong, seen=True)
    kinds = [(row["kind"], row["id"]) for row in saved(folder, "Ann")]
    assert kinds == [*(("click", i) for i in ids), ("undo", ids[2]), ("click", ids[2])]
    last = saved(folder, "Ann")[-1]
    assert (last["verdict"], last["seconds"], last["seen"]) == ("bad", 12.3, True)
    right = "lead3" if last["left"] == "best" else "best"
    assert last["wrong"] == [{"system": right, "start": 0, "end": 2}]
    assert again.result("Ann").sequence.n == 3
    assert again.result("Ann").wins[1] == 1
    for _ in ids:
        again.undo("Ann")
    with pytest.raises(UserError, match="Ann has nothing to take back"):
        again.undo("Ann")


def test_a_line_that_a_kill_tore_is_dropped_with_a_word(
    folder: RunFolder, session: Session, caplog: pytest.LogCaptureFixture
) -> None:
    ids = judge(session, "Ann", 3, "left")
    path = folder / "judgements" / "Ann.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    with caplog.at_level(logging.WARNING):
        again = Session(load_pair(folder, SYSTEMS), folder.path)
        assert again.view("Ann")["id"] == ids[2]
    assert [record.message for record in caplog.records] == [
        f"{path}: its last line is torn, and is dropped: judge that article again"
    ]
    judge(again, "Ann", 1, "good")
    assert [row["id"] for row in saved(folder, "Ann")] == ids
    path.write_bytes(path.read_bytes().replace(b'"verdict"', b'"verdikt"', 1))
    with pytest.raises(Failure, match=r"Ann\.jsonl line 1 lacks verdict: correct the line"):
        read_record(path)


def test_a_full_disk_loses_that_click_alone(
    folder: RunFolder, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge(session, "Ann", 2, "left")

    def half(journal: Journal, rows: object) -> None:
        with journal.path.open("a") as file:
            file.write('{"kind": "cli')
        raise OSError(28, "No space left on device", str(journal.path))

    monkeypatch.setattr(Journal, "add", half)
    with pytest.raises(Failure, match=r"Ann\.jsonl was not written \(No space left"):
        judge(session, "Ann", 1, "left")
    monkeypatch.undo()
    ids = judge(session, "Ann", 1, "left")
    assert (session.view("Ann")["judged"], saved(folder, "Ann")[-1]["id"]) == (3, ids[0])


def test_mistakes_are_told_in_one_line(folder: RunFolder, session: Session) -> None:
    view = session.view("Ann")
    mistakes = {
        "is not the next article of Ann": ("other", "left", 1.0, []),
        "give one of left, right, good, bad": (view["id"], "both", 1.0, []),
        "give 0 to 86,400": (view["id"], "left", math.inf, []),
        "left 0 to 999 is no part of a summary": (view["id"], "left", 1.0, [("left", 0, 999)]),
        "top 0 to 1 is no part of a summary": (view["id"], "left", 1.0, [("top", 0, 1)]),
    }
    for message, click in mistakes.items():
        with pytest.raises(UserError, match=message):
            session.click("Ann", *click)
    for name in ("", "../Ann", ".lock", "a/b", "x" * 41, "a\0b"):
        with pytest.raises(UserError, match="a judge's name is"):
            session.view(name)
    assert session.view("José 2")["judge"] == "José 2"
    with pytest.raises(UserError, match="did you mean 'best'"):
        load_pair(folder, ("bset", "lead3"))
    with pytest.raises(UserError, match="give two different ones"):
        load_pair(folder, ("best", "best"))
    with pytest.raises(Failure, match="has not been made: run `nutgraf run"):
        load_pair(RunFolder(folder / "nowhere"), SYSTEMS)


def test_the_report_says_what_people_prefer_and_that_it_has_to_be_made_again(
    folder: RunFolder, session: Session
) -> None:
    config = build_config({"run": str(folder.path)})
    assert "judgements" not in artifacts.report(config, folder)[0].settings
    assert describe_judgements(folder) == []
    judge(session, "Ann", 40, prefers_best)
    judge(session, "Bob", 30, prefers_best)
    assert describe_judgements(folder)[0]["agreement"]["same"]
    judge(session, "Bob", 10, "bad")
    for name in ("Ann", "Bob"):
        assert name in artifacts.report(config, folder)[0].settings["judgements"]
    (pair,) = describe_judgements(folder)
    assert pair["systems"] == SYSTEMS
    assert [(row["judge"], *row["wins"]) for row in pair["lines"]] == [
        ("Ann", 40, 0, 0), ("Bob", 30, 10, 0), ("all, first clicks", 40, 0, 0),
    ]  # fmt: skip
    assert pair["words"].endswith("settled after 10, best is better.")
    assert pair["agreement"]["articles"] == 40
    longer = sum(int(row["id"][3:]) % 3 > 0 for row in saved(folder, "Ann"))
    assert (pair["decided"], pair["against"]) == (40, longer)
    assert (pair["bad"], pair["rejected"]) == (10, 10)
    assert len(pair["against_examples"]) == len(pair["rejected_examples"]) == 5
    assert "people prefer best, ROUGE-Lsum lead3 by 6.0" in pair["against_examples"][0]["why"]
    assert pair["powered"]["worth"] >= 1
    assert pair["same"] == 1


def test_clicks_on_summaries_that_have_changed_count_no_more(
    folder: RunFolder, session: Session
) -> None:
    judge(session, "Ann", 10, prefers_best)
    path = folder.summaries("best")
    path.write_text(path.read_text().replace("More.", "Much more."))
    later = Session(load_pair(folder, SYSTEMS), folder.path)
    changed = sum(int(row["id"][3:]) % 3 == 0 for row in saved(folder, "Ann"))
    assert 0 < changed < 10
    assert later.view("Ann")["judged"] == 10 - changed
    (pair,) = describe_judgements(folder)
    assert pair["changed"] == changed


def test_summaries_of_other_test_articles_are_refused_and_the_report_leaves_their_pair_out(
    folder: RunFolder, session: Session
) -> None:
    judge(session, "Ann", 10, prefers_best)
    news = [Article(f"new-{i}", f"News {i}.", f"Reference {i}.") for i in range(N)]
    write_study(folder.path, news, {"lead3": texts("lead3"), "theirs": texts("best")})
    said = (
        r"^\S+/summaries/best was made from other test articles: run `nutgraf run --run \S+`, which"
    )
    with pytest.raises(Failure, match=said):
        load_pair(folder, SYSTEMS)
    assert describe_judgements(folder) == []
    judge(Session(load_pair(folder, ("lead3", "theirs")), folder.path), "Bob", 10, "left")
    assert [pair["systems"] for pair in describe_judgements(folder)] == [("lead3", "theirs")]


def test_scores_of_other_summaries_are_refused_beside_new_ones(
    folder: RunFolder, session: Session
) -> None:
    judge(session, "Ann", 10, prefers_best)
    write_study(folder.path, [Article(f"{i}", f"News {i}.", "It is.") for i in range(N)], {})
    for system in SYSTEMS:
        file = f"summaries/{system}.jsonl"
        artefact = folder.artefact(f"summaries/{system}", outputs=[file], inputs=["data:test"])
        with artefact.writing() as scratch:
            write_records(scratch / file, [{"text": text} for text in texts(system)])
    with pytest.raises(Failure, match=r"/scores/best was made from other summaries/best"):
        load_pair(folder, SYSTEMS)
    assert describe_judgements(folder) == []
