"""What is known of a study's articles: counts, rejects, duplicates, what splits share."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from nutgraf.articles import Split
from nutgraf.reading import counts, in_words


def card(splits: Mapping[str, Split]) -> dict[str, Any]:
    """What is known of the data: `{"warnings": [sentence, …], "splits": {split: counts}}`.

    Two articles are the same when their texts are, apart from case and white space. `rejected` and
    `removed` count rows left out, by reason; of the articles drawn, `duplicates` counts those that
    repeat an earlier one of their split, `shared` the different texts that stand in another split
    too, `summary_longer` those whose summary has more characters.
    """
    texts = {name: {a.fingerprint for a in split.articles} for name, split in splits.items()}
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
            "summary_longer": sum(len(a.highlights) > len(a.article) for a in split.articles),
            "article_words_mean": _mean_words(a.article for a in split.articles),
            "summary_words_mean": _mean_words(a.highlights for a in split.articles),
        }
    return {"warnings": list(_warnings(described)), "splits": described}


def _mean_words(texts: Iterable[str]) -> float:
    return round(float(np.mean([len(text.split()) for text in texts])), 1)


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
