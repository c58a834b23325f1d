"""How often a kind of error is found: by system, by length of the article, by trimming.

Every rate stands beside the references' own, on the same articles, for they are flagged too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import pandas as pd

from nutgraf.evaluation.indicators import FAULTS, MEANINGS

ALL = "all articles"
_Z = 1.959964


def rates_by_group(errors: pd.DataFrame) -> pd.DataFrame:
    """Percent of summaries with at least one error, a row a kind, a column a system.

    `errors`: analysis/errors.csv, a row an article and system, `reference` among the systems.
    """
    found = 100 * errors[list(FAULTS)].gt(0).groupby(errors["system"], sort=False).mean().T
    return _reference_first(found)


def averages(errors: pd.DataFrame) -> pd.DataFrame:
    """Means of the other indicators over articles, a row an indicator, a column a system."""
    others = [name for name in errors if name in MEANINGS and name not in FAULTS]
    return _reference_first(errors.groupby("system", sort=False)[others].mean().T)


def by_group(errors: pd.DataFrame) -> pd.DataFrame:
    """The rates of each group of articles: all, thirds by length, trimmed or whole.

    A row a group, kind and system: group, kind, system, n (articles), rate, low, high (percent of
    summaries with at least one, with its 95% interval) and reference, the references' own rate on
    the same articles. An article is trimmed if any system was given its beginning only.
    """
    rows = []
    for group, ids in groups(errors):
        inside = errors[errors["id"].isin(ids)]
        found = rates_by_group(inside)
        n = inside["id"].nunique()
        for kind, row in found.iterrows():
            for system, rate in row.items():
                low, high = wilson(rate, n)
                rows.append((group, kind, system, n, rate, low, high, row["reference"]))
    columns = ["group", "kind", "system", "n", "rate", "low", "high", "reference"]
    return pd.DataFrame(rows, columns=columns).round(2)


def groups(errors: pd.DataFrame) -> Iterator[tuple[str, pd.Index]]:
    """Name and ids of each group that has articles: all, thirds by words, and, where any article
    was trimmed for a system, trimmed and whole ones."""
    by_article = errors.groupby("id", sort=False)
    words = by_article["article_words"].first()
    yield ALL, words.index
    first, second = (int(words.quantile(part)) for part in (1 / 3, 2 / 3))
    thirds = {
        f"articles of up to {first:,} words": words <= first,
        f"{first + 1:,} to {second:,} words": (words > first) & (words <= second),
        f"over {second:,} words": words > second,
    }
    trimmed = by_article["trimmed_tokens"].max() > 0
    cut = {"trimmed articles": trimmed, "whole articles": ~trimmed} if trimmed.any() else {}
    for name, chosen in {**thirds, **cut}.items():
        if chosen.any():
            yield name, words.index[chosen]


def wilson(percent: float, n: int) -> tuple[float, float]:
    """95% interval, in percent, of a rate found among n (Wilson 1927), good at 0 and 100 too."""
    p, z2 = percent / 100, _Z * _Z
    middle = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return 100 * max(0.0, middle - half), 100 * min(1.0, middle + half)


def _reference_first(table: pd.DataFrame) -> pd.DataFrame:
    return table[["reference", *(name for name in table if name != "reference")]]
