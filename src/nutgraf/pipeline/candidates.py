"""Write candidates of training articles, for a round and for a choice that is fitted on them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nutgraf.config import Config
from nutgraf.config.systems import ROUND_SYSTEMS, base_system
from nutgraf.data import article_store
from nutgraf.data.rows import Article
from nutgraf.data.token_store import TokenFile
from nutgraf.generation.backends import Backend
from nutgraf.pipeline.batches import collect, summary_of
from nutgraf.storage.run_folder import RunFolder
from nutgraf.training.budget import draw_examples

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FILE = "candidates.jsonl"  # beside the adapter of a round
Row = dict[str, Any]


def write_candidates(
    config: Config,
    folder: RunFolder,
    start: str,
    model: Backend,
    tokenizer: PreTrainedTokenizerBase,
    scratch: Path,
) -> tuple[list[Article], list[Row]]:
    """Return training articles with the candidates that a model writes of each, a row an article.

    They are drawn from the training articles, those of each round other ones while there are any.
    A row has the article's `id` and its `candidates`. What is done is left in `scratch`, to go on
    after a stop.

    Args:
        config: The configuration of the best model.
        folder: The study's folder.
        start: The name of the model.
        model: That model, which writes as `candidates_config` says.
        tokenizer: Its tokenizer.
        scratch: The folder of the journal.
    """
    articles = _articles(config, folder, start)
    stored = TokenFile(folder.tokens("train")).select(articles)
    encoded = [stored[i] for i in articles]
    written = collect(
        scratch / "candidates.part",
        f"{start}, candidates",
        len(encoded),
        lambda done: model.summaries_and_losses(encoded, done),
    )
    texts = [
        [summary_of(new, tokenizer, config.generate)["text"] for new in written[i]["written"]]
        for i in range(len(encoded))
    ]
    rows = zip(articles.values(), texts, strict=True)
    return list(articles.values()), [{"id": a.id, "candidates": own} for a, own in rows]


def articles_of(rows: Sequence[Row], folder: RunFolder) -> list[Article]:
    """Return the training articles of rows that `write_candidates` returned, in their order."""
    train = {article.id: article for article in article_store.read_split(folder.data("train"))}
    return [train[row["id"]] for row in rows]


def _articles(config: Config, folder: RunFolder, start: str) -> dict[int, Article]:
    """Return the training articles of a round by index, in the order in which they are drawn."""
    earlier = ["best", *ROUND_SYSTEMS].index(base_system(start))  # rounds before this one
    train = article_store.read_split(folder.data("train"))
    wanted = min(config.preference.articles, len(train))
    drawn = draw_examples(len(train), wanted * (earlier + 1), config.train.seed)
    return {i: train[i] for i in drawn[wanted * earlier :]}
