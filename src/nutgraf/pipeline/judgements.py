"""Read what judges compare, and their clicks, from a run folder."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from nutgraf.core.errors import UserError, did_you_mean
from nutgraf.core.files import read_records
from nutgraf.data.article_store import read_split
from nutgraf.judging.pair import Item, Pair
from nutgraf.judging.prediction import FEATURES
from nutgraf.judging.record import FOLDER, read_record
from nutgraf.judging.session import Session
from nutgraf.judging.standing import describe
from nutgraf.storage.run_folder import RunFolder
from nutgraf.storage.run_lock import run_lock


@contextlib.contextmanager
def open_session(run: Path, systems: Sequence[str]) -> Iterator[Session]:
    """Yield a session of judges, the only one in this run folder. Raises as `load_pair`.

    Raises UserError if another process has one.
    """
    folder = RunFolder(run)
    pair = load_pair(folder, systems)
    with run_lock(folder / FOLDER):
        yield Session(pair, folder.path)


def load_pair(folder: RunFolder, systems: Sequence[str]) -> Pair:
    """Return two systems of a study with the test articles.

    Raises UserError for a system that the study lacks, Failure if it has not scored them, or other
    test articles.
    """
    scored = [name.partition("/")[2] for name in folder.manifests() if name.startswith("scores/")]
    if not scored:
        folder.manifest("scores")  # says what to run
    for system in systems:
        if system not in scored:
            raise UserError(
                f"--systems has {system!r}, and {folder.path} has {', '.join(sorted(scored))}"
                f"{did_you_mean(system, scored)}"
            )
    if len(set(systems)) != 2:
        raise UserError(f"--systems is {' '.join(systems)}: give two different ones")
    for system in systems:
        for name, source in _sources(system):
            folder.check_made_from(name, source)
    articles = read_split(folder.data("test"))
    texts = [[row["text"] for row in read_records(folder.summaries(name))] for name in systems]
    scores = [read_records(folder.scores(name)) for name in systems]
    items = (
        Item(
            article.id,
            article.article,
            article.reference,
            (one, other),
            tuple(float(first[name]) - float(second[name]) for name in FEATURES),
        )
        for article, one, other, first, second in zip(articles, *texts, *scores, strict=True)
    )
    return Pair(systems, folder.digest("data:test"), items)


def describe_judgements(folder: RunFolder) -> list[dict[str, Any]]:
    """Return what the report says of each pair of systems that was judged, in their first order.

    Pairs of which the study has lost a system, or has it from other test articles only, and clicks
    on summaries that have changed, count no more; of the latter the number is in `changed`.
    """
    rows = {path.stem: read_record(path) for path in sorted((folder / FOLDER).glob("*.jsonl"))}
    lines = reversed(list(itertools.chain(*rows.values())))
    judged = {frozenset(line["systems"]): tuple(line["systems"]) for line in lines}
    there = [pair for pair in judged.values() if all(_is_scored(folder, name) for name in pair)]
    described = [describe(load_pair(folder, pair), rows) for pair in sorted(there)]
    return [pair for pair in described if pair]


def _is_scored(folder: RunFolder, system: str) -> bool:
    """Return whether the study has summaries of the present test articles by it, with scores."""
    sources = _sources(system)
    return all(folder.has(name) and folder.is_made_from(name, source) for name, source in sources)


def _sources(system: str) -> list[tuple[str, str]]:
    """Return the artefacts that a pair is read from, each with what it has to be made from."""
    summaries = f"summaries/{system}"
    return [(summaries, "data:test"), (f"scores/{system}", summaries)]
