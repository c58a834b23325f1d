"""Score: ROUGE and indicators of every summary, one row an article."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Sequence
from typing import Any

from nutgraf.config import Config
from nutgraf.config.evaluation import RougeTokenizer
from nutgraf.core.files import read_records, write_records
from nutgraf.data import article_store
from nutgraf.data.rows import Article
from nutgraf.evaluation import rouge
from nutgraf.evaluation.indicators import SummaryJudge
from nutgraf.parallel.executor import open_executor
from nutgraf.parallel.process_pool import map_rows
from nutgraf.pipeline import facts
from nutgraf.planning.duration import SUMMARIES_PER_PROCESS
from nutgraf.storage.artefact import Artefact
from nutgraf.storage.run_folder import RunFolder

Record = dict[str, Any]


def run(config: Config, folder: RunFolder, outdated: Sequence[Artefact]) -> None:
    """Make scores/<system>.jsonl for every system.

    An article is scored with its summaries by all systems at once, so it is looked through once.
    `facts`, if it is among them, is what the base says of the sentences of models' summaries.
    """
    test = article_store.read_split(folder.data("test"))
    for artefact in outdated:
        if artefact.name == "facts":
            facts.read(config, folder, test, artefact)
    outdated = [artefact for artefact in outdated if artefact.name != "facts"]
    systems = [artefact.name.removeprefix("scores/") for artefact in outdated]
    if not systems:
        return
    summaries = [read_records(folder.summaries(system)) for system in systems]
    with contextlib.ExitStack() as stack:
        scratches = [stack.enter_context(artefact.writing()) for artefact in outdated]
        cluster = stack.enter_context(open_executor(config, folder.path))
        rows = (cluster.map_rows if cluster else map_rows)(
            functools.partial(_scores, tokenizer=config.score.tokenizer),
            list(zip(test, *summaries, strict=True)),
            rows_per_process=math.ceil(SUMMARIES_PER_PROCESS / len(systems)),
            progress="scores",
        )
        by_system = zip(*rows, strict=True)
        for system, scratch, scores in zip(systems, scratches, by_system, strict=True):
            write_records(scratch / "scores" / f"{system}.jsonl", scores)


def _scores(row: tuple[Article, *tuple[Record, ...]], tokenizer: RougeTokenizer) -> list[Record]:
    """Score the summaries of one article, in their order."""
    article, *summaries = row
    judge = SummaryJudge(article.article, article.reference)
    return [
        {
            "id": article.id,
            **rouge.score_rouge(article.reference, summary["text"], tokenizer),
            **judge.indicators(summary["text"], summary["finish_reason"]),
        }
        for summary in summaries
    ]
