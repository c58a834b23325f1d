"""Describe a study's articles: counts, rejects, duplicates, and what splits share."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from nutgraf.data.language import is_english
from nutgraf.data.load import Split
from nutgraf.data.rows import Article, count_reasons, join_counts

_WARNED = 99.5  # percent of letters; English news have 99.9
_ENGLISH = 90  # percent of the articles of an English data set, at least


def build_card(splits: Mapping[str, Split]) -> dict[str, Any]:
    """Return `{"warnings": [sentence, …], "splits": {split: counts}}`.

    Two articles are the same if their texts are, apart from case and white space. `rejected` and
    `removed` count rows left out, by reason, and `not_drawn` those that are not asked for:
    `rows_read` is the sum of these and `sampled`. Of those, `duplicates` counts repetitions of
    an earlier one of their split, `shared` the different texts that are in another split too,
    `summary_longer` those whose summary has more characters. `percent_english` of the articles are
    in English. `letters_counted` is the percent of a mean summary's letters that ROUGE counts.
    """
    texts, sums = {}, {}
    for name, split in splits.items():
        texts[name], sums[name] = _read(split.articles)
    counts = {
        name: {
            "source": split.source,
            "revision": split.revision,
            "rows_read": split.rows_read,
            "rejected": count_reasons(split.rejected),
            "removed": count_reasons(split.removed),
            "asked": split.requested,
            "sampled": len(split.articles),
            "not_drawn": split.usable - len(split.articles),
            "seed": split.seed,
            "duplicates": len(split.articles) - len(texts[name]),
            "shared": {o: len(texts[name] & texts[o]) for o in splits if o != name},
            **sums[name],
            "letters_counted": round(100 * split.letters, 2),
        }
        for name, split in splits.items()
    }
    notes = [f"{name}: {note}" for name, split in splits.items() for note in split.notes]
    return {"warnings": list(dict.fromkeys([*notes, *_warnings(counts)])), "splits": counts}


def all_english(splits: Mapping[str, Mapping[str, Any]]) -> bool:
    """Return whether the data are in English, by the splits of a card; earlier ones do not say."""
    return min(split.get("percent_english", 100) for split in splits.values()) >= _ENGLISH


def lines(splits: Mapping[str, Split]) -> Iterator[str]:
    """Yield what became of the rows of each split, and the card's warnings."""
    card = build_card(splits)
    for name, read in card["splits"].items():
        left_out = read["rejected"] | read["removed"]
        parts = {"taken": read["sampled"], "not drawn": read["not_drawn"], **left_out}
        named = join_counts({what: n for what, n in parts.items() if n})
        yield f"read       {name} {read['rows_read']:,} rows: {named}"
    yield from (f"warning    {warning}" for warning in card["warnings"])


def _read(articles: Sequence[Article]) -> tuple[set[bytes], dict[str, float]]:
    """Read the articles once; return the fingerprints of their texts, and counts."""
    fingerprints: set[bytes] = set()
    longer = english = article_words = summary_words = 0
    for article in articles:
        fingerprints.add(article.fingerprint)
        longer += len(article.reference) > len(article.article)
        english += is_english(article.article)
        article_words += len(article.article.split())
        summary_words += len(article.reference.split())
    return fingerprints, {
        "summary_longer": longer,
        "percent_english": round(100 * english / len(articles), 1),
        "article_words_mean": round(article_words / len(articles), 1),
        "summary_words_mean": round(summary_words / len(articles), 1),
    }


def _warnings(counts: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    for name, split in counts.items():
        if split["asked"] is not None and split["sampled"] < split["asked"]:
            yield (
                f"{name} has {split['sampled']:,} usable articles, "
                f"data.{name}_examples asks for {split['asked']:,}: all are taken"
            )
        for what in ("rejected", "removed"):
            if split[what]:
                yield f"{name}: of {split['rows_read']:,} rows {what}: {join_counts(split[what])}"
        if split["duplicates"]:
            yield f"{name}: {split['duplicates']:,} articles repeat another of the same split"
        if split["summary_longer"]:
            yield f"{name}: {split['summary_longer']:,} summaries are longer than their articles"
        if split["letters_counted"] < _WARNED:
            yield (
                f"{name}: ROUGE counts {split['letters_counted']}% of the letters of the summaries "
                "(a-z), and others split words: score.tokenizer unicode counts all"
            )
    if not all_english(counts):
        shares = ", ".join(f"{split['percent_english']:g}% of {n}" for n, split in counts.items())
        yield (
            f"articles in English: {shares}; the indicators and the default prompt.request are for "
            "English (docs/own-data.md)"
        )
    for one, other in itertools.combinations(counts, 2):
        if shared := counts[one]["shared"][other]:
            yield (
                f"OVERLAP: {shared:,} of the {counts[other]['sampled']:,} {other} articles "
                f"are in {one} too: scores on {other} say nothing about unseen articles"
            )
