"""What is known of a study's articles: counts, rejects, duplicates, what splits share."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from nutgraf.data.load import Split
from nutgraf.data.rows import Article, counts, in_words


def card(splits: Mapping[str, Split]) -> dict[str, Any]:
    """What is known of the data: `{"warnings": [sentence, …], "splits": {split: counts}}`.

    Two articles are the same when their texts are, apart from case and white space. `rejected` and
    `removed` count rows left out, by reason; of the articles drawn, `duplicates` counts those that
    repeat an earlier one of their split, `shared` the different texts that stand in another split
    too, `summary_longer` those whose summary has more characters.
    """
    read = {name: _read(split.articles) for name, split in splits.items()}
    texts = {name: found.texts for name, found in read.items()}
    described = {}
    for name, split in splits.items():
        described[name] = {
            "source": split.source,
            "revision": split.revision,
            "rows_read": split.rows_read,
            "rejected": counts(split.rejected),
            "removed": counts(split.removed),
            "asked": split.asked,
            "sampled": len(split.articles),
            "seed": split.seed,
            "duplicates": len(split.articles) - len(texts[name]),
            "shared": {o: len(texts[name] & texts[o]) for o in splits if o != name},
            "summary_longer": read[name].summary_longer,
            "article_words_mean": round(read[name].article_words / len(split.articles), 1),
            "summary_words_mean": round(read[name].summary_words / len(split.articles), 1),
        }
    return {"warnings": list(_warnings(described)), "splits": described}


@dataclass
class _Read:
    """Sums over articles that are read once, and the fingerprints of their texts."""

    texts: set[bytes] = field(default_factory=set)
    summary_longer: int = 0
    article_words: int = 0
    summary_words: int = 0


def _read(articles: Iterable[Article]) -> _Read:
    found = _Read()
    for article in articles:
        found.texts.add(article.fingerprint)
        found.summary_longer += len(article.reference) > len(article.article)
        found.article_words += len(article.article.split())
        found.summary_words += len(article.reference.split())
    return found


def _warnings(described: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    for name, split in described.items():
        if split["asked"] is not None and split["sampled"] < split["asked"]:
            yield (
                f"{name} has {split['sampled']:,} usable articles, "
                f"data.{name}_examples asks for {split['asked']:,}: all are taken"
            )
        if split["rejected"]:
            yield f"{name}: of {split['rows_read']:,} rows rejected: {in_words(split['rejected'])}"
        if split["removed"]:
            yield f"{name}: of {split['rows_read']:,} rows removed: {in_words(split['removed'])}"
        if split["duplicates"]:
            yield f"{name}: {split['duplicates']:,} articles repeat another of the same split"
        if split["summary_longer"]:
            yield f"{name}: {split['summary_longer']:,} summaries are longer than their articles"
    for one, other in itertools.combinations(described, 2):
        shared = described[one]["shared"][other]
        if shared:
            yield (
                f"OVERLAP: {shared:,} of the {described[other]['sampled']:,} {other} articles "
                f"are in {one} too: scores on {other} say nothing about unseen articles"
            )
