"""Prepare: the articles of the three splits, cleaned, drawn and counted."""

from __future__ import annotations

import itertools
import logging
from array import array
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from nutgraf.config import Config
from nutgraf.core.errors import UserError
from nutgraf.core.files import write_json, write_records
from nutgraf.data import article_store, data_card, load, token_store
from nutgraf.data.load import SPLITS, Split
from nutgraf.data.prompts import Encoded, PromptError, Renderer
from nutgraf.data.rows import Article, Reject, check_rejected
from nutgraf.generation import external
from nutgraf.modeling.load import load_tokenizer
from nutgraf.pipeline import artifacts
from nutgraf.storage.run_folder import RunFolder

logger = logging.getLogger(__name__)


def run(config: Config, folder: RunFolder, force: bool = False) -> bool:
    """Make data/: a split's .parquet and -tokens.parquet, card.json and rejects.jsonl.

    The last has each row that was left out, with split, row, id, reason and detail. An article is
    tokenized here and never again: later stages read its token ids.
    """
    (artefact,) = artifacts.prepare(config, folder)
    if artefact.is_current and not force:
        return False
    with artefact.writing() as scratch:
        splits, tokens = _write(config, RunFolder(scratch))
        for name, rival in config.rivals.items():
            if rival.file:  # what it lacks is better known now than after the trainings
                external.from_file(name, rival, splits["test"].articles)
        card = data_card.build_card(splits)
        for name, counts in card["splits"].items():
            counts["tokens"] = tokens[name]
        write_json(scratch / "data" / "card.json", card)
        rejects = [r for split in splits.values() for r in (*split.rejected, *split.removed)]
        write_records(scratch / "data" / "rejects.jsonl", map(asdict, rejects))
    for name, counts in card["splits"].items():
        logger.info(
            f"{name}: {counts['sampled']:,} articles of {counts['rows_read']:,}, the article cut "
            f"in {counts['tokens']['rows_trimmed']:,}"
        )
    for warning in card["warnings"]:
        logger.warning(f"warning: {warning}")
    return True


def _write(config: Config, out: RunFolder) -> tuple[dict[str, Split], dict[str, Any]]:
    """Draw, tokenize and write the three splits; return them with the counts of their tokens.

    The test comes first, so that what stands in it is used nowhere else.
    """
    renderer = Renderer(load_tokenizer(config.model), config.prompt)
    splits: dict[str, Split] = {}
    tokens = {}
    for name in reversed(SPLITS):
        drawn = load.load_articles(config.data, name, splits, out.path)
        rejected: list[Reject] = []
        sizes = array("q")
        with token_store.open_writer(out.tokens(name)) as add:
            encoded = _encode(drawn, name, renderer, rejected)
            article_store.write_split(
                _store(encoded, add, sizes, in_prompts=name == "test"), out.data(name)
            )
        articles = article_store.read_split(out.data(name))
        tried = len(articles) + len(rejected)
        check_rejected(rejected, tried, config.data.max_rejected, f"drawn {name} articles")
        if not articles:
            raise UserError(f"not one {name} article is left: {rejected[0]}")
        tokens[name] = _count_tokens(sizes)
        splits[name] = replace(
            drawn,
            articles=articles,
            rows_read=max(drawn.rows_read, tried),  # the newswire gives what is asked of it
            rejected=drawn.rejected + rejected,
        )
    return {name: splits[name] for name in SPLITS}, tokens


def _encode(
    drawn: Split, name: str, renderer: Renderer, rejected: list[Reject]
) -> Iterator[tuple[Article, Encoded]]:
    """Tokenize articles until as many as were drawn fit; those that do not go to `rejected`."""
    candidates = zip(drawn.rows, itertools.chain(drawn.articles, drawn.spare), strict=True)
    missing = len(drawn.articles)
    while missing and (candidate := next(candidates, None)):
        row, article = candidate
        try:
            yield article, renderer.encode(article.article, article.reference)
            missing -= 1
        except PromptError as error:
            rejected.append(Reject(name, row, article.id, "summary too long", str(error)))


def _store(
    encoded: Iterator[tuple[Article, Encoded]],
    add: Callable[[str, Encoded], None],
    sizes: array[int],
    in_prompts: bool,
) -> Iterator[Article]:
    """Pass articles on, store their token ids with `add`, and append their four `sizes`."""
    for article, ids in encoded:
        add(article.id, ids)
        row = ids.example
        trimmed = ids.prompt.trimmed_tokens if in_prompts else row.trimmed_tokens
        summary = len(row.ids) - row.prompt_tokens
        sizes.extend((ids.article_tokens, summary, len(row.ids), trimmed))
        yield article


def _count_tokens(sizes: array[int]) -> dict[str, Any]:
    """Return what the data card says of tokens: of the article, the summary, the row, cut off."""
    article, summary, row, trimmed = np.array(sizes).reshape(-1, 4).T
    return {
        "article_mean": round(float(article.mean()), 1),
        "summary_mean": round(float(summary.mean()), 1),
        "summary_longest": int(summary.max()),
        "row_longest": int(row.max()),
        "rows_trimmed": int((trimmed > 0).sum()),
        "tokens_trimmed": int(trimmed.sum()),
        "tokens_trimmed_share": round(float(trimmed.sum() / article.sum()), 4),
    }
