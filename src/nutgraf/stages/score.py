"""Score: ROUGE and indicators of every summary, one row an article."""

from __future__ import annotations

import contextlib
import math
from typing import Any

from nutgraf import artefacts, articles, metrics
from nutgraf.articles import Article
from nutgraf.cores import spread
from nutgraf.errors import Judge
from nutgraf.runfolder import RunFolder, read_records, write_records
from nutgraf.settings import Config
from nutgraf.systems import measured
from nutgraf.workplace import workplace

# Summaries that take about as long as starting a process.
_PER_PROCESS = 600

Record = dict[str, Any]


def run(config: Config, folder: RunFolder, force: bool = False) -> bool:
    """Make scores/<system>.jsonl for every system.

    An article is scored with its summaries by all systems at once, so it is looked through once.
    """
    systems = measured(config.rivals, config.train.seeds)
    made = dict(zip(systems, artefacts.score(config, folder), strict=True))
    missing = {name: one for name, one in made.items() if force or not one.is_current}
    if not missing:
        return False
    test = articles.read(folder.data("test"))
    summaries = [read_records(folder.summaries(system)) for system in missing]
    with contextlib.ExitStack() as stack:
        homes = [stack.enter_context(artefact.writing()) for artefact in missing.values()]
        cluster = stack.enter_context(workplace(config, folder.path))
        rows = (cluster.spread if cluster else spread)(
            _scores,
            list(zip(test, *summaries, strict=True)),
            rows_per_process=math.ceil(_PER_PROCESS / len(missing)),
            progress="scores",
        )
        for system, scratch, scores in zip(missing, homes, zip(*rows, strict=True), strict=True):
            write_records(scratch / "scores" / f"{system}.jsonl", scores)
    return True


def _scores(row: tuple[Article, *tuple[Record, ...]]) -> list[Record]:
    """Score the summaries of one article, in their order."""
    article, *summaries = row
    judge = Judge(article.article, article.highlights)
    return [
        {
            "id": article.id,
            **metrics.rouge(article.highlights, summary["text"]),
            **judge.indicators(summary["text"], summary["finish_reason"]),
        }
        for summary in summaries
    ]
