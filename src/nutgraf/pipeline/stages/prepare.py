"""Prepare: the articles of the three splits, cleaned, drawn and counted."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from typing import Any

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
    (made,) = artifacts.prepare(config, folder)
    if made.is_current and not force:
        return False
    with made.writing() as scratch:
        splits, tokens = _write(config, RunFolder(scratch))
        for name, rival in config.rivals.items():
            if rival.file:  # what it lacks is better known now than after the trainings
                external.from_file(name, rival, splits["test"].articles)
        card = data_card.build_card(splits)
        for name in SPLITS:
            card["splits"][name]["tokens"] = tokens[name].record()
        write_json(scratch / "data" / "card.json", card)
        left_out = [r for split in splits.values() for r in (*split.rejected, *split.removed)]
        write_records(scratch / "data" / "rejects.jsonl", map(asdict, left_out))
    for name, counts in card["splits"].items():
        logger.info(
            f"{name}: {counts['sampled']:,} articles of {counts['rows_read']:,}, the article cut "
            f"in {counts['tokens']['rows_trimmed']:,}"
        )
    for warning in card["warnings"]:
        logger.warning(f"warning: {warning}")
    return True


def _write(config: Config, out: RunFolder) -> tuple[dict[str, Split], dict[str, _Tokens]]:
    """Draw, tokenize and write the three splits, and count their tokens.

    The test comes first, so that what stands in it is used nowhere else.
    """
    renderer = Renderer(load_tokenizer(config.model), config.prompt)
    splits: dict[str, Split] = {}
    tokens = {name: _Tokens(in_prompts=name == "test") for name in SPLITS}
    for name in reversed(SPLITS):
        drawn = load.load_articles(config.data, name, splits, out.path)
        refused: list[Reject] = []
        with token_store.open_writer(out.tokens(name)) as add:
            fitting = _fitting(drawn, name, renderer, refused)
            article_store.write_split(_counted(fitting, add, tokens[name]), out.data(name))
        taken = article_store.read_split(out.data(name))
        tried = len(taken) + len(refused)
        check_rejected(refused, tried, config.data.max_rejected, f"drawn {name} articles")
        if not taken:
            raise UserError(f"not one {name} article is left: {refused[0]}")
        splits[name] = replace(
            drawn,
            articles=taken,
            rows_read=max(drawn.rows_read, tried),  # the newswire gives what is asked of it
            rejected=drawn.rejected + refused,
        )
    return {name: splits[name] for name in SPLITS}, tokens


def _fitting(
    drawn: Split, name: str, renderer: Renderer, refused: list[Reject]
) -> Iterator[tuple[Article, Encoded]]:
    """Tokenize articles until as many as asked for fit; those that do not go to `refused`."""
    candidates = zip(drawn.rows, itertools.chain(drawn.articles, drawn.spare), strict=True)
    missing = len(drawn.articles)
    while missing and (candidate := next(candidates, None)):
        row, article = candidate
        try:
            yield article, renderer.encode(article.article, article.reference)
            missing -= 1
        except PromptError as error:
            refused.append(Reject(name, row, article.id, "summary too long", str(error)))


def _counted(
    fitting: Iterator[tuple[Article, Encoded]],
    add: Callable[[str, Encoded], None],
    tokens: _Tokens,
) -> Iterator[Article]:
    for article, ids in fitting:
        add(article.id, ids)
        tokens.count(ids)
        yield article


class _Tokens:
    """Sums over the encoded articles of a split, `in_prompts` or else in training rows."""

    def __init__(self, in_prompts: bool) -> None:
        self._in_prompts = in_prompts
        self._rows = self._article = self._summary = 0
        self._summary_longest = self._row_longest = 0
        self._rows_trimmed = self._tokens_trimmed = 0

    def count(self, ids: Encoded) -> None:
        """Add one article."""
        example = ids.example
        trimmed = ids.prompt.trimmed_tokens if self._in_prompts else example.trimmed_tokens
        summary, row = len(example.ids) - example.prompt_tokens, len(example.ids)
        self._rows += 1
        self._article += ids.article_tokens
        self._summary += summary
        self._summary_longest = max(self._summary_longest, summary)
        self._row_longest = max(self._row_longest, row)
        self._rows_trimmed += trimmed > 0
        self._tokens_trimmed += trimmed

    def record(self) -> dict[str, Any]:
        """Return what the data card says of them."""
        return {
            "article_mean": round(self._article / self._rows, 1),
            "summary_mean": round(self._summary / self._rows, 1),
            "summary_longest": self._summary_longest,
            "row_longest": self._row_longest,
            "rows_trimmed": self._rows_trimmed,
            "tokens_trimmed": self._tokens_trimmed,
            "tokens_trimmed_share": round(self._tokens_trimmed / self._article, 4),
        }
