"""Which of two systems is better, and how surely: differences over the same articles.

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
from nutgraf.evaluation.bootstrap import resampled_means

METRICS = ("rouge1", "rouge2", "rougeLsum")
ALPHA = 0.05
POWER = 0.8
# More articles than any test set has: how many more is of no interest.
_MANY = 1_000_000


@dataclass(frozen=True)
class Difference:
    """A mean difference over the same n articles, with its 95% interval and two-sided p."""

    n: int
    mean: float
    low: float
    high: float
    sd: float
    """Of the differences, one an article; NaN for a single article."""
    p: float


def paired_difference(
    a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray, resamples: int, seed: int
) -> Difference:
    """Mean of a - b over the same articles in the same order, by paired bootstrap.

    p is twice the share of resamples on the far side of zero, the observed sample counted among
    them so that it is never 0 (Davison & Hinkley 1997, "Bootstrap Methods and their Application",
    section 4.2), and at least 2^(1-n): resamples of a few articles that happen to agree always
    agree, but n signs prove no more than that. Raises ValueError for unequal lengths, no values or
    values not finite.
    """
    if len(a) != len(b):
        raise ValueError(f"{len(a)} and {len(b)} values are not pairs over the same articles")
    sample = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    means = resampled_means(sample, resamples, seed)
    low, high = np.percentile(means, [2.5, 97.5])
    n, tail = len(sample), min(int((means <= 0).sum()), int((means >= 0).sum()))
    p = min(1.0, max(2 * (tail + 1) / (resamples + 1), 2.0 ** (1 - n)))
    sd = float(sample.std(ddof=1)) if n > 1 else math.nan
    return Difference(n, float(sample.mean()), float(low), float(high), sd, p)


def holm_correction(p: Sequence[float]) -> list[float]:
    """p of m tests, in their order, corrected so that 0.05 bounds the risk of any false alarm.

    Holm (1979), "A Simple Sequentially Rejective Multiple Test Procedure": the k-th smallest is
    multiplied by m - k + 1, is at least the corrected one before it, and at most 1.
    """
    corrected = [0.0] * len(p)
    least = 0.0
    for rank, place in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        least = max(least, min(1.0, p[place] * (len(p) - rank)))
        corrected[place] = least
    return corrected


def articles_needed(difference: Difference, comparisons: int = 1) -> int | None:
    """How many articles would show a difference of this size and spread; None if it is zero.

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
    """The difference in words: `better`, `worse`, or how many articles would be needed."""
    if p_holm < ALPHA:
        return "better" if difference.mean > 0 else "worse"
    said = f"no significant difference at n = {difference.n:,}"
    needed = articles_needed(difference, comparisons)
    if needed is None:
        return said
    count = f"about {_rounded_up(needed):,}" if needed < _MANY else f"over {_MANY:,}"
    return f"{said}; {count} articles would show a difference of this size"


def difference_table(
    scores: Mapping[str, Sequence[Mapping[str, Any]]], system: str, resamples: int, seed: int
) -> list[dict[str, Any]]:
    """`system` against each other one, by ROUGE-1, -2 and -Lsum, corrected over all these rows.

    `scores`: rows of each system with id, rouge1, rouge2 and rougeLsum, the same articles in the
    same order. Gives rows of system, other, metric, n, difference (points, positive where `system`
    is ahead), low, high, p, p_holm and verdict. Raises ValueError where articles differ, UserError
    where no p could be small enough, for there are too few resamples.
    """
    pairs = [(other, metric) for other in scores if other != system for metric in METRICS]
    fewest = math.ceil(2 * len(pairs) / ALPHA)
    if resamples < fewest:
        raise UserError(
            f"score.resamples is {resamples:,}: {len(pairs)} comparisons need at least "
            f"{fewest:,} for any difference to be significant"
        )
    ids = [row["id"] for row in scores[system]]
    for other, rows in scores.items():
        if [row["id"] for row in rows] != ids:
            raise ValueError(f"{other} and {system} were not scored on the same articles")
    found = []
    for other, metric in pairs:
        a, b = ([row[metric] for row in scores[name]] for name in (system, other))
        found.append(paired_difference(a, b, resamples, seed))
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
            "verdict": verdict(difference, p_holm, len(pairs)),
        }
        for (other, metric), difference, p_holm in zip(
            pairs, found, holm_correction([difference.p for difference in found]), strict=True
        )
    ]


def _rounded_up(n: int) -> int:
    """To two significant digits, for it is a rough estimate."""
    step = 10 ** max(0, len(str(n)) - 2)
    return math.ceil(n / step) * step
