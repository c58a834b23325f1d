"""Summarize new articles with the model that a study left."""

from __future__ import annotations

import json
import logging
import sys
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Literal

from tqdm import tqdm

from nutgraf.config.systems import EngineName
from nutgraf.core.errors import Failure, NutgrafError, UserError, visible
from nutgraf.data import new_articles
from nutgraf.data.new_articles import COLUMNS, Columns, NewArticle
from nutgraf.evaluation.evidence import evidence
from nutgraf.evaluation.support import Checked
from nutgraf.generation.reading import check_base_apart, load_reader
from nutgraf.generation.summarizer import SummaryResult, load_summarizer
from nutgraf.modeling import saved_model
from nutgraf.modeling.saved_model import SavedModel

logger = logging.getLogger(__name__)

_SHOWN = 20  # errors, each on a line of its own


def run(
    model: str | Path,
    sources: Sequence[str],
    as_json: bool,
    columns: Columns = COLUMNS,
    sentences: int | None = None,
    long: Literal["lead", "map-reduce"] = "lead",
    fetch: bool = False,
    engine: EngineName = "auto",
    check_facts: bool = False,
) -> None:
    """Print a summary of each article; on a terminal, while it is written.

    What a reader should check is logged as a warning. Everything is read before the model is
    loaded. What cannot be read is left out and named, and an error ends the command.

    Args:
        model: A run folder, its `final_best_model`, an exported model, or a Hub id.
        sources: Files, folders, addresses, or "-" for standard input.
        as_json: Print one JSON object a line instead of text.
        columns: The columns of articles and ids in a table.
        sentences: Sentences of a summary at most; None for no limit.
        long: How to summarize an article beyond the limit of the prompt: its beginning, or its
            parts and then their summaries.
        fetch: Allow addresses.
        engine: What writes.
        check_facts: Let the base read the summaries too, when all are written.

    Raises:
        UserError: There is no model, its base is not the one it was trained on, or not apart if
            it is to check facts, or nothing can be read.
        Failure: Some articles could not be read; the others are summarized.
    """
    saved = saved_model.read_saved_model(str(model))
    if check_facts:
        check_base_apart(saved)
    failed: list[NutgrafError] = []
    articles = list(new_articles.read_sources(sources, columns, fetch, failed))
    if failed and len(articles) + len(failed) == 1:
        raise failed[0]
    for error in failed[:_SHOWN]:
        logger.warning(f"left out: {error}")
    if not articles:
        raise UserError(f"none of {len(failed):,} articles can be read: the first: {failed[0]}")
    _summarize(saved, articles, as_json, sentences, long, engine, check_facts)
    if failed:
        total = len(articles) + len(failed)
        raise Failure(
            f"{len(failed):,} of {total:,} articles were left out: the first: {failed[0]}"
        )


def _summarize(
    saved: SavedModel,
    articles: Sequence[NewArticle],
    as_json: bool,
    sentences: int | None,
    long: Literal["lead", "map-reduce"],
    engine: EngineName,
    check_facts: bool,
) -> None:
    unprinted = deque[tuple[NewArticle, SummaryResult]]()
    texts = [article.text for article in articles]
    one, terminal = len(articles) == 1, sys.stdout.isatty()
    at_once = 1 if long == "lead" and one else saved.generate.batch_size
    try:
        with load_summarizer(saved, engine, at_once) as summarizer:
            streams = summarizer.can_stream and not as_json and not check_facts
            if long == "lead" and streams and (one or terminal):
                for article in articles:
                    _print_name(article, one)
                    for piece in summarizer.stream(article.text, sentences):
                        if isinstance(piece, str):
                            print(piece, end="", flush=True)
                        else:
                            print()
                            _warn(article, piece)
                return
            if long == "lead":
                summaries = summarizer.summarize(texts, sentences)
            else:
                summaries = (summarizer.summarize_in_parts(text, sentences) for text in texts)
            hidden = True if terminal else None  # None: hidden unless standard error is a terminal
            bar = tqdm(summaries, total=len(texts), desc="summaries", disable=hidden, leave=False)
            for article, summary in zip(articles, bar, strict=True):
                if check_facts:
                    unprinted.append((article, summary))
                else:
                    _print(article, summary, as_json, one)
        if check_facts:
            _print_checked(saved, unprinted, as_json, one)
    finally:
        for article, summary in unprinted:  # if anything failed, without what the base says
            _print(article, summary, as_json, one)


def _print_checked(
    saved: SavedModel, unprinted: deque[tuple[NewArticle, SummaryResult]], as_json: bool, one: bool
) -> None:
    """Let the base, without the adapter, read the summaries; print them, and take them away."""
    reader = load_reader(saved.model)
    while unprinted:
        article, summary = unprinted[0]
        (checked,) = reader.check(article.text, [summary.summary])
        unprinted.popleft()
        _print(article, summary, as_json, one, checked)


def _print(
    article: NewArticle,
    summary: SummaryResult,
    as_json: bool,
    one: bool,
    checked: Sequence[Checked] | None = None,
) -> None:
    if as_json:
        _print_json(article, summary, checked)
        return
    _print_name(article, one)
    print(summary, flush=True)
    _warn(article, summary)
    for doubted in (sentence for sentence in checked or () if sentence["doubted"]):
        text = visible(summary.summary[doubted["start"] : doubted["end"]])
        logger.warning(f"{article.name}: {100 * doubted['probability']:.0f}% sure: {text}")


def _print_name(article: NewArticle, one: bool) -> None:
    if not one:
        print(f"== {visible(article.name)}")


def _print_json(
    article: NewArticle, summary: SummaryResult, checked: Sequence[Checked] | None
) -> None:
    row = {
        "file": article.source,
        "id": article.id,
        "summary": summary.summary,
        "prompt_tokens": summary.prompt_tokens,
        "trimmed_tokens": summary.trimmed_tokens,
        "finish_reason": summary.finish_reason,
        "seconds": round(summary.seconds, 3),
        "parts": summary.parts,
        "candidates": [asdict(candidate) for candidate in summary.candidates],
        "indicators": evidence(article.text, summary.summary),
        **({} if checked is None else {"facts": checked}),
        "article": article.text,
    }
    print(json.dumps(row, ensure_ascii=False), flush=True)


def _warn(article: NewArticle, summary: SummaryResult) -> None:
    unsupported = [span["text"] for span in evidence(article.text, summary.summary)["unsupported"]]
    if unsupported:
        names = ", ".join(dict.fromkeys(unsupported))
        logger.warning(f"{article.name}: not in the article: {names}")
    if summary.trimmed_tokens:
        logger.warning(
            f"{article.name}: its last {summary.trimmed_tokens:,} tokens were not read: "
            "--long map-reduce reads all"
        )
    if summary.finish_reason == "length":
        logger.warning(f"{article.name}: the summary was cut at the limit of tokens")
