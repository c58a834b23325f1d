"""Fit the weights of `generate.choose: fitted` on candidates of training articles."""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nutgraf.config import Config
from nutgraf.config.systems import final_system, start_of_round
from nutgraf.core.errors import Failure
from nutgraf.core.files import read_records
from nutgraf.data.rows import Article
from nutgraf.evaluation.bootstrap import bootstrap
from nutgraf.evaluation.rouge import score_rouge
from nutgraf.generation.backends import open_backend
from nutgraf.generation.candidate_features import features
from nutgraf.generation.fitted_choice import MIN_ARTICLES, Measured, fit, held_out_gains
from nutgraf.modeling.load import load_tokenizer
from nutgraf.parallel.process_pool import map_rows
from nutgraf.pipeline.artifacts import training_configs
from nutgraf.pipeline.candidates import FILE, Row, articles_of, write_candidates
from nutgraf.storage.run_folder import RunFolder
from nutgraf.training.budget import candidates_config

if TYPE_CHECKING:
    from nutgraf.parallel.ray_cluster import Cluster

logger = logging.getLogger(__name__)

_ARTICLES_PER_PROCESS = 100  # take about as long as starting a process
_SCORED = ("rouge1", "rouge2", "rougeLsum")  # their mean is what is expected of a candidate
_RESAMPLES = 10_000  # not score.resamples: with another number no candidate is written anew


def fit_choice(
    config: Config, folder: RunFolder, scratch: Path, cluster: Cluster | None
) -> dict[str, Any]:
    """Return the weights of the choice, and what it gains on articles that they do not know.

    They are fitted on the candidates of the last round, else on those that `best` writes in the
    same way, which are left in `scratch`, to go on after a stop. Raises Failure if too few
    articles have candidates that differ.
    """
    articles, rows = _candidates(config, folder, scratch, cluster)
    work = [(article, row["candidates"]) for article, row in zip(articles, rows, strict=True)]
    measure = functools.partial(_measured, config=config)
    measured = map_rows(
        measure, work, rows_per_process=_ARTICLES_PER_PROCESS, progress="fitted choice"
    )
    fitted = [row for row in measured if row is not None]
    if len(fitted) < MIN_ARTICLES:
        raise Failure(
            f"of {len(work)} training articles {len(fitted)} have candidates of which one is "
            f"better, {MIN_ARTICLES} at least are needed to fit a choice: raise "
            "preference.articles or preference.temperature, or choose by consensus"
        )
    gains = {
        against: asdict(bootstrap(values, _RESAMPLES, config.generate.seed))
        for against, values in held_out_gains(fitted).items()
    }
    gain = gains["greedy"]
    logger.info(
        f"choice fitted on candidates of {len(fitted):,} training articles: "
        f"{gain['mean']:+.2f} ({gain['low']:+.2f} to {gain['high']:+.2f}) mean ROUGE against the "
        "greedy candidate, on those held out"
    )
    return {"weights": fit(fitted), "articles": len(fitted), "gains": gains}


def _candidates(
    config: Config, folder: RunFolder, scratch: Path, cluster: Cluster | None
) -> tuple[list[Article], list[Row]]:
    """Return training articles and rows of their candidates, written before if by a round."""
    final = final_system(config)
    if (written := folder.model(final) / FILE).exists():
        rows = read_records(written)
        return articles_of(rows, folder), rows
    start = start_of_round(final) or final  # a round of an earlier version left no candidates
    own = training_configs(config, folder)[start]
    tokenizer = load_tokenizer(config.model)
    with open_backend(candidates_config(own), folder.model(start), cluster) as model:
        return write_candidates(own, folder, start, model, tokenizer, scratch)


def _measured(work: tuple[Article, Sequence[str]], config: Config) -> Measured | None:
    """Return the candidates of an article; None if they are equally good.

    Empty ones are left out, since none is chosen; without a greedy one nothing can be gained on it.
    """
    article, texts = work
    if not texts[0]:
        return None
    texts = [text for text in texts if text]
    scores = [score_rouge(article.reference, text, config.score.tokenizer) for text in texts]
    means = np.array([np.mean([row[kind] for kind in _SCORED]) for row in scores])
    if len(set(means.tolist())) < 2:
        return None
    return Measured(features(article.article, texts), means)
