"""The base reads a study's summaries article by article: a stop loses no article."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from helpers.judged import write_study

from nutgraf.config.load import build_config
from nutgraf.config.systems import model_systems
from nutgraf.core.errors import Failure
from nutgraf.core.files import read_records, write_records
from nutgraf.data.rows import Article
from nutgraf.evaluation.support import Checked
from nutgraf.generation import reading
from nutgraf.pipeline import facts
from nutgraf.storage.run_folder import RunFolder


class Reading:
    """Doubts summaries that begin with a name; is stopped at the article after `left` others."""

    def __init__(self, left: int) -> None:
        self.left, self.articles = left, list[str]()

    def check(self, article: str, summaries: Sequence[str]) -> list[list[Checked]]:
        if len(self.articles) == self.left:
            raise KeyboardInterrupt
        self.articles.append(article)
        return [
            [{"start": 0, "end": len(text), "probability": 0.4, "doubted": True, "passages": []}]
            if text.startswith("best")
            else []
            for text in summaries
        ]


def test_a_stop_while_the_base_reads_loses_no_article(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, folder = build_config({"facts": {"articles": 4}}), RunFolder(tmp_path)
    test = [Article(f"id-{i}", f"Article {i}.", f"Reference {i}.") for i in range(9)]
    for system in model_systems(config):
        write_records(folder.summaries(system), [{"text": f"{system} {a.id}"} for a in test])
    artefact = folder.artefact("facts", outputs=[facts.FILE], inputs=[], settings={})
    first, second = Reading(2), Reading(9)
    monkeypatch.setattr(reading, "load_reader", lambda model: first)
    with pytest.raises(KeyboardInterrupt):
        facts.read(config, folder, test, artefact)
    (part,) = tmp_path.rglob("facts.part")
    with part.open("a") as file:
        file.write('{"index": 3, "ro')  # a kill while a row is written
    monkeypatch.setattr(reading, "load_reader", lambda model: second)
    facts.read(config, folder, test, artefact)
    rows = read_records(folder / facts.FILE)
    of_article = {article.id: article.article for article in test}
    assert [of_article[row["id"]] for row in rows] == first.articles + second.articles
    assert len({row["id"] for row in rows}) == 4
    assert set(rows[0]["sentences"]) == {"reference", *model_systems(config)}
    table = facts.table(config, folder).set_index("system")
    assert (table.loc["best", "doubted"], table.loc["best", "sentences"]) == (100, 4)
    assert (table.loc["reference", "doubted"], table.loc["reference", "sentences"]) == (0, 0)


def test_summaries_are_read_with_the_articles_that_they_are_of_and_no_others(
    tmp_path: Path,
) -> None:
    old, new = (
        [Article(f"{name}-{i}", f"{name} {i}.", f"Reference {i}.") for i in range(3)]
        for name in ("old", "new")
    )
    write_study(tmp_path, old, {"best": ["One.", "Two.", "Three."]})
    rows, _ = facts.summaries_of(tmp_path, None)
    assert rows == [("best", *row) for row in zip(old, ("One.", "Two.", "Three."), strict=True)]
    write_study(tmp_path, new, {})
    said = (
        r"^\S+/summaries/best was made from other test articles: run `nutgraf run --run \S+`, which"
    )
    with pytest.raises(Failure, match=said):
        facts.summaries_of(tmp_path, "best")
