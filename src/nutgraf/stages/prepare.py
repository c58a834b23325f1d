"""Prepare: the articles of the three splits, cleaned, drawn and counted."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nutgraf import artefacts, articles, datacard, rivals
from nutgraf.articles import SPLITS, Article, Split
from nutgraf.model import load_tokenizer
from nutgraf.prompts import PromptError, Renderer
from nutgraf.runfolder import RunFolder, write_json, write_records
from nutgraf.settings import Config, DataConfig

logger = logging.getLogger(__name__)


def run(config: Config, folder: RunFolder, force: bool = False) -> bool:
    """Make data/: train, validation and test .parquet, card.json, rejects.jsonl.

    The last has each row that was left out, with split, row, id, reason and detail. Every row is
    put into tokens once, so that one that cannot fit is known before any training.
    """
    (made,) = artefacts.prepare(config, folder)
    if made.is_current and not force:
        return False
    with made.writing() as scratch:
        renderer = Renderer(load_tokenizer(config.model), config.prompt)
        measured = {name: _Tokens(renderer, name) for name in SPLITS}
        splits = _load(config.data, measured, scratch)
        for name, rival in config.rivals.items():
            if rival.file:  # what it lacks is better known now than after the trainings
                rivals.from_file(name, rival, splits["test"].articles)
        card = datacard.card(splits)
        for name, split in splits.items():
            card["splits"][name]["tokens"] = measured[name].record()
            articles.write(split.articles, scratch / "data" / f"{name}.parquet")
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


def _load(data: DataConfig, measured: Mapping[str, _Tokens], place: Path) -> dict[str, Split]:
    """The three splits. The test comes first, so that what stands in it is used nowhere else."""
    found: dict[str, Split] = {}
    for name in reversed(SPLITS):
        found[name] = articles.load(data, name, measured[name].too_long, found, place)
    return {name: found[name] for name in SPLITS}


class _Tokens:
    """Puts each article of a split into tokens, once: does it fit, how long is it, what is cut.

    Of the test articles in prompts, of others in training rows.
    """

    def __init__(self, renderer: Renderer, split: str) -> None:
        self._renderer, self._split = renderer, split
        self._rows = self._article = self._summary = 0
        self._summary_longest = self._row_longest = 0
        self._rows_trimmed = self._tokens_trimmed = 0

    def too_long(self, article: Article) -> str | None:
        """Why the article cannot be used, None where it can: then it is counted."""
        try:
            example = self._renderer.example(article.article, article.highlights)
        except PromptError as error:
            return str(error)
        whole = self._renderer.article_tokens(example)
        in_prompt = self._split == "test"
        trimmed = self._renderer.cut(whole) if in_prompt else example.trimmed_tokens
        summary, row = len(example.ids) - example.prompt_tokens, len(example.ids)
        self._rows += 1
        self._article += whole
        self._summary += summary
        self._summary_longest = max(self._summary_longest, summary)
        self._row_longest = max(self._row_longest, row)
        self._rows_trimmed += trimmed > 0
        self._tokens_trimmed += trimmed
        return None

    def record(self) -> dict[str, Any]:
        """Of the articles counted, for the data card."""
        return {
            "article_mean": round(self._article / self._rows, 1),
            "summary_mean": round(self._summary / self._rows, 1),
            "summary_longest": self._summary_longest,
            "row_longest": self._row_longest,
            "rows_trimmed": self._rows_trimmed,
            "tokens_trimmed": self._tokens_trimmed,
            "tokens_trimmed_share": round(self._tokens_trimmed / self._article, 4),
        }
