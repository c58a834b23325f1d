"""Summaries of new articles, with the model that a study left."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from tqdm import tqdm

from nutgraf.core.errors import visible
from nutgraf.data import new_articles
from nutgraf.data.new_articles import COLUMNS, Columns, Named
from nutgraf.evaluation.evidence import evidence
from nutgraf.generation.summarizer import Summarizer, Written, opened
from nutgraf.modeling import saved_model

logger = logging.getLogger(__name__)


def run(
    model: str | Path,
    sources: Sequence[str],
    as_json: bool,
    columns: Columns = COLUMNS,
    sentences: int | None = None,
    long: Literal["lead", "map-reduce"] = "lead",
    fetch: bool = False,
) -> None:
    """Print a summary of each article (`inputs.read`), as text or a JSON object a line.

    To a terminal a summary is printed as it is written. Of an article beyond the limit of the
    prompt the lead is summarized, or, with `long="map-reduce"`, its parts and then their
    summaries. A summary has at most `sentences`. What is wrong with one is told on standard error.

    Raises UserError for a folder without a model, a base that is not the one trained on, and
    sources that cannot be read or hold no text: all of it before the model is loaded.
    """
    found = saved_model.read_saved_model(str(model))
    articles = list(new_articles.read_sources(sources, columns, fetch))
    many = len(articles) > 1
    with opened(found) as summarizer:
        if long == "map-reduce":
            for article in articles:
                written = summarizer.write_in_parts(article.text, sentences)
                _print(article, written, as_json, many)
        elif summarizer.streams and (not many or (sys.stdout.isatty() and not as_json)):
            for article in articles:
                _stream(summarizer, article, sentences, as_json, many)
        else:
            texts = [article.text for article in articles]
            bar = tqdm(
                summarizer.write(texts, sentences),
                total=len(texts),
                desc="summaries",
                disable=True if sys.stdout.isatty() else None,
                leave=False,
            )
            for article, written in zip(articles, bar, strict=True):
                _print(article, written, as_json, many)


def _stream(
    summarizer: Summarizer, article: Named, sentences: int | None, as_json: bool, many: bool
) -> None:
    """Print a summary piece by piece, or as JSON at its end."""
    if many and not as_json:
        print(f"== {visible(article.name)}")
    for piece in summarizer.stream(article.text, sentences):
        if isinstance(piece, Written):
            if as_json:
                _print(article, piece, as_json, many)
            else:
                print()
                _warn(article, piece)
        elif not as_json:
            print(piece, end="", flush=True)


def _print(article: Named, written: Written, as_json: bool, many: bool) -> None:
    if not as_json:
        head = f"== {visible(article.name)}\n" if many else ""
        print(head + written.summary, flush=True)
        _warn(article, written)
        return
    row = {
        "file": article.source,
        "id": article.id,
        "summary": written.summary,
        "prompt_tokens": written.prompt_tokens,
        "trimmed_tokens": written.trimmed_tokens,
        "finish_reason": written.finish_reason,
        "seconds": round(written.seconds, 3),
        "parts": written.parts,
        "indicators": evidence(article.text, written.summary),
        "article": article.text,
    }
    print(json.dumps(row, ensure_ascii=False), flush=True)


def _warn(article: Named, written: Written) -> None:
    """Tell a reader what to look at, on standard error."""
    lacking = [found["text"] for found in evidence(article.text, written.summary)["unsupported"]]
    if lacking:
        logger.warning(f"{article.name}: not in the article: {', '.join(dict.fromkeys(lacking))}")
    if written.trimmed_tokens:
        logger.warning(
            f"{article.name}: its last {written.trimmed_tokens:,} tokens were not read: "
            "--long map-reduce reads all"
        )
    if written.finish_reason == "length":
        logger.warning(f"{article.name}: the summary was cut at the limit of tokens")
