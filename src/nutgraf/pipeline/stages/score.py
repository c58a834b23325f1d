"""Score: ROUGE and indicators of every summary, one row an article."""

from __future__ import annotations

import contextlib
import math
from typing import Any

from nutgraf.config import Config
from nutgraf.config.systems import measured_systems
from nutgraf.core.files import read_records, write_records
from nutgraf.data import article_store
from nutgraf.data.rows import Article
from nutgraf.evaluation import rouge
from nutgraf.evaluation.indicators import SummaryJudge
from nutgraf.parallel.executor import open_executor
from nutgraf.parallel.process_pool import map_rows
from nutgraf.pipeline import artifacts
from nutgraf.storage.run_folder import RunFolder

# Summaries that take about as long as starting a process.
_PER_PROCESS = 600

Record = dict[str, Any]


def run(config: Config, folder: RunFolder, force: bool = False) -> bool:
    """Make scores/<system>.jsonl for every system.

    An article is scored with its summaries by all systems at once, so it is looked through once.
    """
    systems = measured_systems(config.rivals, config.train.seeds)
    made = dict(zip(systems, artifacts.score(config, folder), strict=True))
    missing = {name: one for name, one in made.items() if force or not one.is_current}
    if not missing:
        return False
    test = article_store.read_split(folder.data("test"))
    summaries = [read_records(folder.summaries(system)) for system in missing]
    with contextlib.ExitStack() as stack:
        homes = [stack.enter_context(artefact.writing()) for artefact in missing.values()]
        cluster = stack.enter_context(open_executor(config, folder.path))
        rows = (cluster.spread if cluster else map_rows)(
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
    judge = SummaryJudge(article.article, article.reference)
    return [
        {
            "id": article.id,
            **rouge.score_rouge(article.reference, summary["text"]),
            **judge.indicators(summary["text"], summary["finish_reason"]),
        }
        for summary in summaries
    ]
