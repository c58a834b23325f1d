"""Let the base of a study read the references and the summaries by models behind their articles."""

from __future__ import annotations

import random
from collections.abc import Container, Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from nutgraf.config import Config, ModelConfig
from nutgraf.config.load import find_config, load_config
from nutgraf.config.systems import final_system, measured_systems, model_systems
from nutgraf.core.errors import UserError
from nutgraf.core.files import read_records, write_records
from nutgraf.data import article_store
from nutgraf.data.rows import Article
from nutgraf.evaluation.support import Rate, wrong_rate
from nutgraf.storage.artefact import Artefact
from nutgraf.storage.run_folder import RunFolder

FILE = "facts.jsonl"
Record = dict[str, Any]


def read(config: Config, folder: RunFolder, test: Sequence[Article], artefact: Artefact) -> None:
    """Make facts.jsonl: a row an article, with the sentences of each system's summary."""
    from nutgraf.core.fast_import import fast_imports

    with fast_imports():
        from nutgraf.generation.reading import load_reader
        from nutgraf.pipeline.batches import collect

    number = min(config.facts.articles, len(test))
    drawn = sorted(random.Random(config.data.seed).sample(range(len(test)), number))
    systems = model_systems(config)
    written = {system: read_records(folder.summaries(system)) for system in systems}
    reader = load_reader(config.model)

    def rows(done: Container[int]) -> Iterator[dict[int, Record]]:
        for at in drawn:
            if at in done:
                continue
            article = test[at]
            texts = {"reference": article.reference}
            texts |= {system: written[system][at]["text"] for system in systems}
            checked = reader.check(article.article, list(texts.values()))
            by_system = dict(zip(texts, checked, strict=True))
            yield {at: {"id": article.id, "sentences": by_system}}

    with artefact.writing(resume=True) as scratch:
        by_index = collect(scratch / "facts.part", "facts", number, rows)
        write_records(scratch / FILE, [by_index[at] for at in drawn])


def summaries_of(
    path: Path, system: str | None
) -> tuple[list[tuple[str, Article, str]], ModelConfig]:
    """Return the summaries of a finished study by a system, or its final model, and its base.

    A row has the system, the article and the summary. Raises UserError for a system that the study
    does not have, Failure if it has not written of the present test articles yet.
    """
    config, folder = load_config(find_config(None, path), {}, run=str(path)), RunFolder(path)
    name = system or final_system(config)
    if name not in measured_systems(config):
        names = ", ".join(measured_systems(config))
        raise UserError(f"--system is {name!r}: choose one of this study: {names}")
    folder.check_made_from(f"summaries/{name}", "data:test")
    test, written = article_store.read_split(folder.data("test")), folder.summaries(name)
    pairs = zip(test, read_records(written), strict=True)
    return [(name, article, row["text"]) for article, row in pairs], config.model


def table(config: Config, folder: RunFolder) -> pd.DataFrame:
    """Return a row a system: its doubted sentences, and how many are probably wrong, in percent.

    Columns: system, articles, sentences, doubted (percent), wrong, low and high (percent with its
    95% interval; NaN if the base is not the one that the correction is known of).
    """
    rows = read_records(folder / FILE)
    out = []
    for system in rows[0]["sentences"]:
        own = [row["sentences"][system] for row in rows]
        counts = [(sum(one["doubted"] for one in sentences), len(sentences)) for sentences in own]
        doubted, sentences = (sum(column) for column in zip(*counts, strict=True))
        wrong = wrong_rate(counts, config.model)
        percent = [100 * part for part in (doubted / max(sentences, 1), *wrong)]
        out.append((system, len(rows), sentences, *percent))
    columns = ["system", "articles", "sentences", "doubted", *Rate._fields]
    return pd.DataFrame(out, columns=columns).round(2)
