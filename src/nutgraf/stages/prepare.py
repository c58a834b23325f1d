"""Prepare: the articles of the three splits, cleaned, drawn and counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from nutgraf import artefacts, articles, datacard, rivals
from nutgraf.articles import SPLITS, Article, Split
from nutgraf.model import load_tokenizer
from nutgraf.progress import say
from nutgraf.prompts import Renderer
from nutgraf.runfolder import RunFolder, write_json, write_records
from nutgraf.settings import Config, DataConfig


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
        splits = _load(config.data, renderer)
        for name, rival in config.rivals.items():
            if rival.file:  # what it lacks is better known now than after the trainings
                rivals.from_file(name, rival, splits["test"].articles)
        card = datacard.card(splits)
        for name, split in splits.items():
            card["splits"][name]["tokens"] = _tokens(renderer, name, split.articles)
            articles.write(split.articles, scratch / "data" / f"{name}.parquet")
        write_json(scratch / "data" / "card.json", card)
        left_out = [r for split in splits.values() for r in (*split.rejected, *split.removed)]
        write_records(scratch / "data" / "rejects.jsonl", map(asdict, left_out))
    for name, counts in card["splits"].items():
        say(
            f"{name}: {counts['sampled']:,} articles of {counts['rows_read']:,}, the article cut "
            f"in {counts['tokens']['rows_trimmed']:,}"
        )
    for warning in card["warnings"]:
        say(f"warning: {warning}")
    return True


def _load(data: DataConfig, renderer: Renderer) -> dict[str, Split]:
    """The three splits. The test comes first, so that what stands in it is used nowhere else."""
    found: dict[str, Split] = {}
    for name in reversed(SPLITS):
        found[name] = articles.load(data, name, renderer.too_long, others=found)
    return {name: found[name] for name in SPLITS}


def _tokens(renderer: Renderer, split: str, rows: Sequence[Article]) -> dict[str, Any]:
    """Lengths in tokens, and what was cut: articles in training rows, for the test in prompts."""
    article, summary, row, trimmed = [], [], [], []
    for here in rows:
        example = renderer.example(here.article, here.highlights)
        prompt = renderer.prompt(here.article)
        article.append(prompt.article_tokens + prompt.trimmed_tokens)
        summary.append(len(example.input_ids) - example.prompt_tokens)
        row.append(len(example.input_ids))
        trimmed.append((prompt if split == "test" else example).trimmed_tokens)
    return {
        "article_mean": round(float(np.mean(article)), 1),
        "summary_mean": round(float(np.mean(summary)), 1),
        "summary_longest": max(summary),
        "row_longest": max(row),
        "rows_trimmed": sum(n > 0 for n in trimmed),
        "tokens_trimmed": sum(trimmed),
        "tokens_trimmed_share": round(sum(trimmed) / sum(article), 4),
    }
