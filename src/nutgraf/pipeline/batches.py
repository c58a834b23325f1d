"""Collect what a model writes batch by batch, so that a stop loses no finished batch."""

from __future__ import annotations

import logging
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nutgraf.config import GenerateConfig
from nutgraf.core.files import Journal
from nutgraf.core.progress import Progress
from nutgraf.generation.draft import decode_summary

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Row = dict[str, Any]

logger = logging.getLogger(__name__)


def collect(
    path: Path,
    title: str,
    total: int,
    batches: Callable[[Container[int]], Iterable[Mapping[int, Any]]],
) -> dict[int, Row]:
    """Return rows by the index of their article, written to `path` batch by batch.

    So a stop loses no finished batch. `batches` takes the indices that are done.
    """
    journal = Journal(path)
    rows = {row["index"]: row["row"] for row in journal.rows}
    if rows:
        logger.info(f"{title}: carries on after {len(rows)} of {total} articles")
    with Progress(title, total) as progress:
        progress.update(len(rows))
        for batch in batches(frozenset(rows)):
            new = {i: row if isinstance(row, dict) else asdict(row) for i, row in batch.items()}
            journal.add({"index": i, "row": row} for i, row in new.items())
            rows |= new
            progress.update(len(rows))
    return rows


def summary_of(new: Row, tokenizer: PreTrainedTokenizerBase, settings: GenerateConfig) -> Row:
    """Return what the study leaves of a summary's new tokens: `text` and `finish_reason`."""
    text, reason = decode_summary(tokenizer, new["ids"], new["finish_reason"], settings)
    return {"text": text, "finish_reason": reason}
