"""Generate: every system's summaries of the same test articles; no stage before opens them."""

from __future__ import annotations

import functools
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nutgraf.config import Config
from nutgraf.config.systems import (
    CHOSEN_SYSTEMS,
    EXTRACTIVE_SYSTEMS,
    MODEL_SYSTEMS,
    base_system,
    final_system,
    fits_choice,
)
from nutgraf.core.files import Journal, read_json, read_records, write_json, write_records
from nutgraf.data import article_store
from nutgraf.data.examples import Encoded
from nutgraf.data.rows import Article
from nutgraf.data.token_store import TokenFile
from nutgraf.evaluation.rouge import score_rouge
from nutgraf.generation import choose, external, extractive
from nutgraf.generation.backends import Backend, open_backend
from nutgraf.modeling.load import choose_device, load_tokenizer
from nutgraf.parallel.executor import open_executor
from nutgraf.parallel.process_pool import map_rows
from nutgraf.pipeline.artifacts import system_config
from nutgraf.pipeline.batches import collect, summary_of
from nutgraf.pipeline.choice import fit_choice
from nutgraf.storage.artefact import Artefact
from nutgraf.storage.run_folder import RunFolder

if TYPE_CHECKING:
    from nutgraf.parallel.ray_cluster import Cluster

Row = dict[str, Any]
_WRITTEN = "candidates.part"  # the journal of what a model writes
_CHOICES_PER_PROCESS = 100  # they take about as long as starting a process


def run(config: Config, folder: RunFolder, outdated: Sequence[Artefact]) -> None:
    """Make summaries/<system>.jsonl, one row an article, and before them a fitted choice.

    Models also leave the loss of the reference there: `reference_nll` (nats, summed over the
    summary's tokens) and `reference_tokens`. What their writing took is in the manifest.
    """
    test = article_store.read_split(folder.data("test"))
    with open_executor(config, folder.path) as cluster:
        for artefact in outdated:
            system = artefact.name.removeprefix("summaries/")
            with artefact.writing(resume=True) as scratch:
                if artefact.name == "choice":
                    write_json(
                        scratch / "choice.json", fit_choice(config, folder, scratch, cluster)
                    )
                    continue
                rows = _summaries(system, config, folder, test, scratch, cluster)
                write_records(scratch / "summaries" / f"{system}.jsonl", rows)
                if (journal := scratch / _WRITTEN).exists():
                    artefact.measured.update(_measured(config, Journal(journal), cluster))


def _summaries(
    system: str,
    config: Config,
    folder: RunFolder,
    test: Sequence[Article],
    journal: Path,
    cluster: Cluster | None,
) -> list[Row]:
    """Return a row an article; models leave what they have done in the folder `journal`."""
    if base_system(system) in MODEL_SYSTEMS:
        adapter = None if system == "zero_shot" else folder.model(system)
        with open_backend(system_config(system, config), adapter, cluster) as model:
            encoded = TokenFile(folder.tokens("test")).first()
            return _by_model(system, config, test, encoded, journal, model)
    if system in CHOSEN_SYSTEMS:
        return _by_choice(system, config, folder, test)
    if system in EXTRACTIVE_SYSTEMS:
        return _by_extract(system, config, test)
    rival = config.rivals[system]
    if rival.file:
        return external.read_summaries(system, rival, test)

    def batches(done: Container[int]) -> Iterable[Mapping[int, Row]]:
        if cluster is None:
            return _rival(config, system).summaries(test, done)
        return _on_cluster(cluster, config, system, test, done)

    rows = collect(journal / "summaries.part", system, len(test), batches)
    return [rows[i] for i in range(len(test))]


def _on_cluster(
    cluster: Cluster, config: Config, system: str, test: Sequence[Article], done: Container[int]
) -> Iterator[dict[int, Row]]:
    """Yield summaries by a rival's checkpoint, made anywhere in the cluster, batch by batch."""
    batches = list(_rival(config, system).batches(test, done))
    results = cluster.run_tasks(
        _summarize_batch,
        [[test[i] for i in batch] for batch in batches],
        (config, system),
        cluster.settings.gpus_per_worker,
    )
    for number, rows in results:
        yield dict(zip(batches[number], rows, strict=True))


def _summarize_batch(batch: list[Article], task: tuple[Config, str]) -> list[Row]:
    return _rival(*task).summarize(batch)


def _rival(config: Config, system: str) -> external.Seq2SeqRival:
    device = choose_device(config.model).name
    return external.load_rival(system, config.rivals[system], device)


def _by_extract(system: str, config: Config, test: Sequence[Article]) -> list[Row]:
    pairs = [(a.article, a.reference) for a in test]
    texts = extractive.extract_many(system, pairs, config.score.tokenizer)
    unread = {"prompt_tokens": None, "trimmed_tokens": 0, "finish_reason": "extract"}
    return [
        {"id": article.id, "text": text, **unread}
        for article, text in zip(test, texts, strict=True)
    ]


def _by_model(
    system: str,
    config: Config,
    test: Sequence[Article],
    encoded: Sequence[Encoded],
    journal: Path,
    model: Backend,
) -> list[Row]:
    tokenizer = load_tokenizer(config.model)
    prompts = [row.prompt for row in encoded]
    summaries = collect(
        journal / _WRITTEN, system, len(test),
        lambda done: model.summaries_and_losses(encoded, done),
    )  # fmt: skip
    losses = {i: loss for i, row in summaries.items() if (loss := row["reference_loss"])}
    if rest := [i for i in range(len(test)) if i not in losses]:
        apart = collect(
            journal / "losses.part", f"{system}, loss of the references", len(rest),
            lambda done: model.losses([encoded[i].example for i in rest], done),
        )  # fmt: skip
        losses |= {rest[n]: row for n, row in apart.items()}
    rows = []
    for i, article in enumerate(test):
        first, *others = [
            summary_of(new, tokenizer, config.generate) for new in summaries[i]["written"]
        ]
        row = {
            "id": article.id,
            "text": first["text"],
            "prompt_tokens": len(prompts[i].ids),
            "trimmed_tokens": prompts[i].trimmed_tokens,
            "finish_reason": first["finish_reason"],
            "reference_nll": losses[i]["nll"],
            "reference_tokens": losses[i]["tokens"],
        }
        rows.append(row | ({"candidates": [first, *others]} if others else {}))
    return rows


def _measured(config: Config, journal: Journal, cluster: Cluster | None) -> dict[str, Any]:
    """Return the seconds of all batches of a model, and where it wrote; empty if they have none.

    So they are those of every session, without the pauses. What a stop tore counts once. On a
    cluster they are the sum over its workers.
    """
    seconds = {row["index"]: row["row"].get("seconds") for row in journal.rows}
    if None in seconds.values():
        return {}  # an earlier version began to write
    return {
        "writing_seconds": round(sum(seconds.values()), 3),
        "articles": len(seconds),
        "batch_size": config.generate.batch_size,
        "device": "workers of a cluster" if cluster else choose_device(config.model).name,
    }


def _by_choice(
    system: str, config: Config, folder: RunFolder, test: Sequence[Article]
) -> list[Row]:
    """Return a row an article with one of the candidates that the final model wrote of it."""
    written = read_records(folder.summaries(final_system(config)))
    weights = read_json(folder / "choice.json")["weights"] if fits_choice(config) else None
    work = [
        (article, [candidate["text"] for candidate in row["candidates"]])
        for article, row in zip(test, written, strict=True)
    ]
    of_one = functools.partial(_choose, system=system, config=config, weights=weights)
    chosen = map_rows(of_one, work, rows_per_process=_CHOICES_PER_PROCESS, progress=system)
    rows = []
    for row, (index, ratings) in zip(written, chosen, strict=True):
        read = {name: row[name] for name in ("id", "prompt_tokens", "trimmed_tokens")}
        rows.append(read | row["candidates"][index] | {"candidate": index} | ratings)
    return rows


def _choose(
    work: tuple[Article, list[str]], system: str, config: Config, weights: dict[str, float] | None
) -> tuple[int, dict[str, Any]]:
    """Return the index of a candidate, and the ratings of all if it was chosen by them."""
    article, texts = work
    if system == "best_oracle":
        tokenizer = config.score.tokenizer
        scores = [score_rouge(article.reference, text, tokenizer)["rougeLsum"] for text in texts]
        return max(range(len(texts)), key=lambda i: (scores[i], -i)), {}
    rated = choose.rate(article.article, texts, weights)
    ratings = [
        {"agreement": round(r.agreement, 2), "unsupported": r.unsupported}
        | ({} if r.expected is None else {"expected": round(r.expected, 2)})
        for r in rated
    ]
    return choose.choose(rated, config.generate.choose), {"ratings": ratings}
