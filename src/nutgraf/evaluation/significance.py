"""Test which of two systems is better, by their differences over the same articles.

Each difference is tested by a paired bootstrap (Koehn 2004, "Statistical Significance Tests for
Machine Translation Evaluation"), as Dror et al. (2018), "The Hitchhiker's Guide to Testing
Statistical Significance in Natural Language Processing", advise for measures such as ROUGE, whose
distribution over articles is not known. A table of several has its p corrected (Holm 1979).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from nutgraf.core.errors import UserError
from nutgraf.evaluation.bootstrap import interval_ends, resampled_means

METRICS = ("rouge1", "rouge2", "rougeLsum")
ALPHA = 0.05
POWER = 0.8
_MAX_ARTICLES = 1_000_000  # more than any test set has: how many more is of no interest


@dataclass(frozen=True)
class Difference:
    """A mean difference over the same n articles, with its 95% interval and two-sided p.

    `sd` is that of the differences, one an article; NaN for a single article. The ends of the
    interval are NaN below `bootstrap.MIN_VALUES` articles.
    """

    n: int
    mean: float
    low: float
    high: float
    sd: float
    p: float


def paired_difference(
    a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray, resamples: int, seed: int
) -> Difference:
    """Compute the mean of a - b by paired bootstrap.

    p is twice the share of resamples on the far side of zero, the observed sample counted among
    them so that it is never 0 (Davison & Hinkley 1997, "Bootstrap Methods and their Application",
    section 4.2), and at least 2^(1-n): resamples of a few articles that happen to agree always
    agree, but n signs prove no more than that.

    Args:
        a: Scores of one system, one an article.
        b: Scores of the other on the same articles in the same order.
        resamples: Draws of all articles with replacement.
        seed: Seed of the draws.

    Raises:
        ValueError: Lengths are unequal, there are no values, or some are not finite.
    """
    if len(a) != len(b):
        raise ValueError(f"{len(a)} and {len(b)} values are not pairs over the same articles")
    sample = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    means = resampled_means(sample, resamples, seed)
    n, tail = len(sample), min(int((means <= 0).sum()), int((means >= 0).sum()))
    p = min(1.0, max(2 * (tail + 1) / (resamples + 1), 2.0 ** (1 - n)))
    sd = float(sample.std(ddof=1)) if n > 1 else math.nan
    return Difference(n, float(sample.mean()), *interval_ends(means, n), sd, p)


def holm_correction(p: Sequence[float]) -> list[float]:
    """Correct p of m tests, in their order, so that 0.05 bounds the risk of any false alarm.

    Holm (1979), "A Simple Sequentially Rejective Multiple Test Procedure": the k-th smallest is
    multiplied by m - k + 1, is at least the corrected one before it, and at most 1.
    """
    order = np.argsort(p)
    factors = np.arange(len(p), 0, -1)
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(np.maximum.accumulate(np.take(p, order) * factors), 1)
    return list(map(float, corrected))


def articles_needed(difference: Difference, comparisons: int = 1) -> int | None:
    """Return how many articles would show such a difference and spread; None if it is zero.

    To show is to be significant at 0.05 / `comparisons` (the Bonferroni bound, which Holm's
    correction never exceeds) in four samples out of five:
    n = ((z(1 - alpha / 2) + z(power)) * sd / mean)^2, z being the normal quantile. On power in our
    field see Card et al. (2020), "With Little Power Comes Great Responsibility".
    """
    if difference.mean == 0 or math.isnan(difference.sd):
        return None
    alpha = ALPHA / comparisons
    quantiles = NormalDist().inv_cdf(1 - alpha / 2) + NormalDist().inv_cdf(POWER)
    needed = (quantiles * difference.sd / difference.mean) ** 2
    return math.ceil(max(needed, 1 - math.log2(alpha)))  # below it, p is over alpha by its floor


def verdict(difference: Difference, p_holm: float, comparisons: int = 1) -> str:
    """Return `better`, `worse`, or how many articles would be needed."""
    if p_holm < ALPHA:
        return "better" if difference.mean > 0 else "worse"
    text = f"no significant difference at n = {difference.n:,}"
    needed = articles_needed(difference, comparisons)
    if needed is None:
        return text
    step = 10 ** max(0, len(str(needed)) - 2)  # a rough estimate: two significant digits
    about = f"about {math.ceil(needed / step) * step:,}"
    count = about if needed < _MAX_ARTICLES else f"over {_MAX_ARTICLES:,}"
    return f"{text}; {count} articles would show a difference of this size"


def check_resamples(resamples: int, pairs: int) -> None:
    """Raise UserError if so few resamples leave no p of so many pairs of systems small enough."""
    comparisons = pairs * len(METRICS)
    minimum = math.ceil(2 * comparisons / ALPHA)
    if resamples < minimum:
        raise UserError(
            f"score.resamples is {resamples:,}: {comparisons} comparisons need at least "
            f"{minimum:,} for any difference to be significant"
        )


def difference_table(
    scores: Mapping[str, Sequence[Mapping[str, Any]]],
    pairs: Sequence[tuple[str, str]],
    resamples: int,
    seed: int,
) -> list[dict[str, Any]]:
    """Compare pairs of systems by ROUGE-1, -2 and -Lsum.

    Args:
        scores: Rows of each system with id, rouge1, rouge2 and rougeLsum, the same articles in the
            same order.
        pairs: The system that is compared, and the other one.
        resamples: Draws of the bootstrap.
        seed: Seed of the bootstrap.

    Returns:
        Rows of system, other, metric, n, difference (points, positive if `system` is ahead), low,
        high, p, p_holm (corrected over all rows) and verdict.

    Raises:
        ValueError: Articles differ.
        UserError: As `check_resamples` does.
    """
    check_resamples(resamples, len(pairs))
    for system, other in pairs:
        if [row["id"] for row in scores[system]] != [row["id"] for row in scores[other]]:
            raise ValueError(f"{other} and {system} were not scored on the same articles")
    tests = [(*pair, metric) for pair in pairs for metric in METRICS]
    differences = []
    for system, other, metric in tests:
        a, b = ([row[metric] for row in scores[name]] for name in (system, other))
        differences.append(paired_difference(a, b, resamples, seed))
    corrected = holm_correction([difference.p for difference in differences])
    return [
        {
            "system": system,
            "other": other,
            "metric": metric,
            "n": difference.n,
            "difference": round(difference.mean, 4),
            "low": round(difference.low, 4),
            "high": round(difference.high, 4),
            "p": round(difference.p, 6),
            "p_holm": round(p_holm, 6),
            "verdict": verdict(difference, p_holm, len(tests)),
        }
        for (system, other, metric), difference, p_holm in zip(
            tests, differences, corrected, strict=True
        )
    ]
