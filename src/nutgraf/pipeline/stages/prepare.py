"""Prepare: the articles of the three splits, cleaned, drawn and counted."""

from __future__ import annotations

import itertools
import logging
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from nutgraf.config import Config
from nutgraf.core.errors import UserError
from nutgraf.core.files import write_json, write_records
from nutgraf.data import article_store, data_card, load, token_store
from nutgraf.data.examples import Encoded
from nutgraf.data.load import Split
from nutgraf.data.prompts import Frame, PromptError, Renderer
from nutgraf.data.rows import Article, Reject, check_rejected
from nutgraf.data.sources import SPLITS
from nutgraf.generation import external
from nutgraf.modeling.load import load_tokenizer
from nutgraf.storage.artefact import Artefact
from nutgraf.storage.run_folder import RunFolder

logger = logging.getLogger(__name__)

_FRAME_DECIDED_BY = (
    "prompt.request prompt.template model.base model.revision tokenizer_files chat_template".split()
)


def run(config: Config, folder: RunFolder, outdated: Sequence[Artefact]) -> None:
    """Make data/: a split's .parquet and -tokens.parquet, card.json and rejects.jsonl.

    The last has each row that was left out, with split, row, id, reason and detail. An article is
    tokenized here and never again: later stages read its token ids. frame.json has the fixed text
    of the prompts, which stays if the data is made again with the same request and template.
    """
    frame = _earlier_frame(folder, outdated[0].settings)
    tokenizer = load_tokenizer(config.model)
    renderer = Renderer(tokenizer, config.prompt, frame)
    if config.prompt.template == "chat" and "strftime_now" in str(tokenizer.chat_template):
        logger.info("the chat template writes the time: once for this study and its saved model")
    with outdated[0].writing() as scratch:
        splits, tokens = _write(config, renderer, RunFolder(scratch))
        for name, rival in config.rivals.items():
            if rival.file:  # what it lacks is better known now than after the trainings
                external.read_summaries(name, rival, splits["test"].articles)
        card = data_card.build_card(splits)
        for name, counts in card["splits"].items():
            counts["tokens"] = tokens[name]
        write_json(scratch / "data" / "card.json", card)
        write_json(scratch / "data" / "frame.json", renderer.frame)
        rejects = [r for split in splits.values() for r in (*split.rejected, *split.removed)]
        write_records(scratch / "data" / "rejects.jsonl", map(asdict, rejects))
    for name, counts in card["splits"].items():
        logger.info(
            f"{name}: {counts['sampled']:,} articles of {counts['rows_read']:,}, the article cut "
            f"in {counts['tokens']['rows_trimmed']:,}"
        )
    for warning in card["warnings"]:
        logger.warning(f"warning: {warning}")


def _earlier_frame(folder: RunFolder, settings: Mapping[str, Any]) -> Frame | None:
    """Return the text of the prompts in `folder`, if it is of the same request and template."""
    if not (folder.has("data") and folder.frame):
        return None
    earlier = folder.manifest("data")["settings"]
    same = all(earlier.get(name) == settings.get(name) for name in _FRAME_DECIDED_BY)
    return Frame(*folder.frame) if same else None


def _write(
    config: Config, renderer: Renderer, out: RunFolder
) -> tuple[dict[str, Split], dict[str, Any]]:
    """Draw, tokenize and write the three splits; return them with the counts of their tokens.

    The test comes first, so that what stands in it is used nowhere else.
    """
    splits: dict[str, Split] = {}
    tokens = {}
    for name in reversed(SPLITS):
        drawn = load.load_articles(config.data, name, splits, out.path, config.score.tokenizer)
        rejected: list[Reject] = []
        sizes = array("q")
        with token_store.open_writer(out.tokens(name)) as store:
            articles = _encode(drawn, name, renderer, store, sizes, rejected)
            article_store.write_split(articles, out.data(name))
        written = article_store.read_split(out.data(name))
        tried = len(written) + len(rejected)
        check_rejected(rejected, tried, config.data.max_rejected, f"drawn {name} articles")
        if not written:
            raise UserError(f"not one {name} article is left: {rejected[0]}")
        tokens[name] = _count_tokens(sizes)
        splits[name] = replace(
            drawn,
            articles=written,
            spare=(),  # else the temporary copy of all drawn texts stays
            rows_read=max(drawn.rows_read, tried),  # the newswire gives what is asked of it
            rejected=drawn.rejected + rejected,
            usable=max(drawn.usable, tried) - len(rejected),
        )
    return {name: splits[name] for name in SPLITS}, tokens


def _encode(
    drawn: Split,
    name: str,
    renderer: Renderer,
    store: Callable[[str, Encoded], None],
    sizes: array[int],
    rejected: list[Reject],
) -> Iterator[Article]:
    """Yield articles that fit, as many as were drawn; those that do not go to `rejected`.

    Their token ids go to `store`, and four numbers an article to `sizes`: tokens of the article, of
    the summary, of the training row, and those cut off.
    """
    candidates = zip(drawn.rows, itertools.chain(drawn.articles, drawn.spare), strict=True)
    missing = len(drawn.articles)
    while missing and (candidate := next(candidates, None)):
        number, article = candidate
        try:
            encoded = renderer.encode(article.article, article.reference)
        except PromptError as error:
            rejected.append(Reject(name, number, article.id, "summary too long", str(error)))
            continue
        store(article.id, encoded)
        row = encoded.example
        cut = encoded.prompt.trimmed_tokens if name == "test" else row.trimmed_tokens
        summary = len(row.ids) - row.prompt_tokens
        sizes.extend((encoded.article_tokens, summary, len(row.ids), cut))
        yield article
        missing -= 1


def _count_tokens(sizes: array[int]) -> dict[str, Any]:
    """Return what the data card says of the `sizes` of `_encode`."""
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
