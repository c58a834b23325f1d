"""Count how often each kind of error occurs, by system, article length and trimming.

Every rate has the references' own rate on the same articles beside it, for they are flagged too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import pandas as pd

from nutgraf.evaluation.bootstrap import Z95
from nutgraf.evaluation.indicators import FAULTS, MEANINGS

ALL = "all articles"


def system_rates(errors: pd.DataFrame) -> pd.DataFrame:
    """Return percent of summaries with at least one error, a row a kind, a column a system.

    `errors`: analysis/errors.csv, a row an article and system, `reference` among the systems.
    """
    rates = 100 * errors[list(FAULTS)].gt(0).groupby(errors["system"], sort=False).mean().T
    return _reference_first(rates)


def mean_indicators(errors: pd.DataFrame) -> pd.DataFrame:
    """Return means of the other indicators over articles, a row an indicator, a column a system."""
    others = [name for name in errors if name in MEANINGS and name not in FAULTS]
    return _reference_first(errors.groupby("system", sort=False)[others].mean().T)


def group_rates(errors: pd.DataFrame) -> pd.DataFrame:
    """Return the rates of each group of articles, a row a group, kind and system.

    Columns: group, kind, system, n (articles), rate, low, high (percent of summaries with at least
    one error, with its 95% interval) and reference, the references' own rate.
    """
    rows = []
    for group, ids in article_groups(errors):
        members = errors[errors["id"].isin(ids)]
        n = members["id"].nunique()
        for kind, rates in system_rates(members).iterrows():
            for system, rate in rates.items():
                interval = wilson_interval(rate, n)
                rows.append((group, kind, system, n, rate, *interval, rates["reference"]))
    columns = ["group", "kind", "system", "n", "rate", "low", "high", "reference"]
    return pd.DataFrame(rows, columns=columns).round(2)


def article_groups(errors: pd.DataFrame) -> Iterator[tuple[str, pd.Index]]:
    """Yield name and ids of each group that has articles: all, and thirds by words.

    If any system was given only the beginning of an article, trimmed and whole ones follow.
    """
    by_article = errors.groupby("id", sort=False)
    words = by_article["article_words"].first()
    yield ALL, words.index
    first, second = (int(words.quantile(part)) for part in (1 / 3, 2 / 3))
    groups = {
        f"articles of up to {first:,} words": words <= first,
        f"{first + 1:,} to {second:,} words": (words > first) & (words <= second),
        f"over {second:,} words": words > second,
    }
    trimmed = by_article["trimmed_tokens"].max() > 0
    if trimmed.any():
        groups |= {"trimmed articles": trimmed, "whole articles": ~trimmed}
    for name, members in groups.items():
        if members.any():
            yield name, words.index[members]


def wilson_interval(percent: float, n: int) -> tuple[float, float]:
    """Return the 95% interval, in percent, of a rate among n (Wilson 1927), good at 0 and 100."""
    p, z2 = percent / 100, Z95 * Z95
    middle = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return 100 * max(0.0, middle - half), 100 * min(1.0, middle + half)


def _reference_first(table: pd.DataFrame) -> pd.DataFrame:
    return table[["reference", *(name for name in table if name != "reference")]]
