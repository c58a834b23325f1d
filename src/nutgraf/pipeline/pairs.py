"""Make the pairs of a round: of candidates of a training article the better and the worse."""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nutgraf.config import Config
from nutgraf.core.errors import Failure
from nutgraf.data.examples import Example
from nutgraf.data.prompts import Frame, Renderer
from nutgraf.data.rows import Article
from nutgraf.generation.backends import open_backend
from nutgraf.modeling.load import load_tokenizer
from nutgraf.parallel.process_pool import map_rows
from nutgraf.pipeline.batches import collect
from nutgraf.pipeline.candidates import write_candidates
from nutgraf.storage.run_folder import RunFolder
from nutgraf.training.budget import candidates_config
from nutgraf.training.preference import best_and_worst

if TYPE_CHECKING:
    from nutgraf.parallel.ray_cluster import Cluster

logger = logging.getLogger(__name__)

_ARTICLES_PER_PROCESS = 100  # whose rewards take about as long as starting a process


@dataclass(frozen=True)
class Pairs:
    """The rows of a round, each better one before the worse, and their nats at its start.

    `records` says the same in words, a row a pair; `candidates` has all that were written, a row an
    article.
    """

    rows: list[Example]
    start_nll: list[float]
    records: list[dict[str, Any]]
    candidates: list[dict[str, Any]]


def make_pairs(
    config: Config,
    folder: RunFolder,
    start: str,
    scratch: Path,
    cluster: Cluster | None,
) -> Pairs:
    """Return the pairs of a round; leave what is done in `scratch`, to go on after a stop.

    Args:
        config: The configuration of the best model.
        folder: The study's folder.
        start: The model that writes, and that the round starts from.
        scratch: The folder of the journals.
        cluster: Where to compute; None for this process.

    Raises:
        Failure: No article has two candidates of which one is better.
    """
    tokenizer = load_tokenizer(config.model)
    with open_backend(candidates_config(config), folder.model(start), cluster) as model:
        articles, candidates = write_candidates(config, folder, start, model, tokenizer, scratch)
        records = _choose(config, articles, [row["candidates"] for row in candidates])
        renderer = Renderer(tokenizer, config.prompt, Frame(*folder.frame))
        by_id = {article.id: article.article for article in articles}
        rows = [
            renderer.example(by_id[record["id"]], record[side])
            for record in records
            for side in ("better", "worse")
        ]
        losses = collect(
            scratch / "losses.part",
            f"{start}, losses of the pairs",
            len(rows),
            lambda done: model.losses(rows, done),
        )
    return Pairs(rows, [losses[i]["nll"] for i in range(len(rows))], records, candidates)


def _choose(
    config: Config, articles: Sequence[Article], texts: Sequence[Sequence[str]]
) -> list[dict[str, Any]]:
    work = list(zip(articles, texts, strict=True))
    of_one = functools.partial(_best_and_worst, config=config)
    chosen = map_rows(of_one, work, rows_per_process=_ARTICLES_PER_PROCESS, progress="rewards")
    records = [
        {"id": article.id, "better": candidates[pair[0]], "worse": candidates[pair[1]]}
        for (article, candidates), pair in zip(work, chosen, strict=True)
        if pair
    ]
    if not records:
        raise Failure(
            f"of {len(work)} training articles none has two candidates of which one is better: "
            "raise preference.temperature or preference.candidates, or set train.rounds to 0"
        )
    logger.info(
        f"pairs by {config.preference.reward}: {len(records):,} of {len(work):,} training articles "
        "have candidates of which one is better"
    )
    return records


def _best_and_worst(work: tuple[Article, list[str]], config: Config) -> tuple[int, int] | None:
    article, texts = work
    return best_and_worst(article.article, article.reference, texts, config)
