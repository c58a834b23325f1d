"""Replay published human judgements as clicks: does the sequence hold, and how soon is it settled?

SummEval (Fabbri et al. 2021): 100 articles, 16 systems, the sum of four human scores. RoSE (Liu et
al. 2023), reference-free protocol: 48 articles, 12 systems, and 5 with large language models. A
click of two systems on an article is left or right by which has the higher score, both if equal.

Each replay takes a pair of systems at random and draws its articles with replacement. So the true
share is that of the pair over all its articles. A = A: the two are swapped by the toss of a coin,
so that neither is preferred, with the ties of the pair; and the same by a judge who takes the left
one in 70% of the ties. The sign test has a fixed number of clicks, planned for 80% power at 5%
(two-sided, exact) if 60% of the clicks that decide are for one system, with the pair's share of
ties; beside it, one planned for the pair's own share, which nobody knows beforehand.

Prediction-powered intervals: 40 of SummEval's 100 articles are judged, the features of all are
known. As the articles are drawn without replacement, coverage of the share over the 100 is too high
for both intervals; `worth` is not touched by that.

    python bench/judge.py [--replays N] [--seed N]
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import binom

from nutgraf.evaluation import rouge
from nutgraf.evaluation.indicators import SummaryJudge
from nutgraf.judging.prediction import FEATURES, prediction_powered
from nutgraf.judging.sequence import confidence_sequence, refuted
from nutgraf.parallel.process_pool import map_rows

DATA = Path(__file__).parents[2] / "shared" / "data"
CLICKS = 1_000  # of one replay
POWER, ALPHA, PLANNED_SHARE = 0.8, 0.05, 0.6
LEFT_IN_TIES = 0.7
JUDGED = 40


def pairs(rows: pd.DataFrame, score: str) -> list[tuple[str, str, np.ndarray, list[str]]]:
    """Return (system, other, scores 0, 1/2 or 1 by article, ids) of every pair of systems."""
    table = rows.pivot_table(index="id", columns="system", values=score)
    compared = []
    for a, b in itertools.combinations(table.columns, 2):
        both = table[[a, b]].dropna()
        signs = np.sign((both[a] - both[b]).round(6))
        compared.append((a, b, ((signs + 1) / 2).to_numpy(), list(both.index)))
    return compared


def planned_clicks(share: float, limit: int = 100_000) -> int:
    """Return the deciding clicks at which the exact sign test has the power."""
    share = max(share, 1 - share)
    low, high = 5, limit
    while low < high:  # power rises with n but for small steps
        middle = (low + high) // 2
        low, high = (low, middle) if power(middle, share) >= POWER else (middle + 1, high)
    return low


def power(n: int, share: float) -> float:
    few = critical(n)
    return float(binom.cdf(few, n, 1 - share) + binom.sf(n - few - 1, n, 1 - share))


def critical(n: int | np.ndarray) -> Any:
    """Return up to how many wins of the loser a two-sided sign test of n clicks decides, or -1."""
    few = binom.ppf(ALPHA / 2, n, 0.5)
    return np.where(binom.cdf(few, n, 0.5) <= ALPHA / 2, few, few - 1)


def sign_test(scores: np.ndarray, clicks: np.ndarray) -> np.ndarray:
    """Return who is better by the first clicks of each replay: 1, -1, or 0 if undecided."""
    counted = np.arange(scores.shape[1]) < clicks[:, None]
    wins, losses = ((counted & (scores == side)).sum(axis=1) for side in (1, 0))
    decides = np.minimum(wins, losses) <= critical(wins + losses)
    return np.where(decides, np.sign(wins - losses), 0)


def first(refused: np.ndarray) -> np.ndarray:
    """Return the clicks until the first refusal; infinite if there is none."""
    return np.where(refused.any(axis=1), refused.argmax(axis=1) + 1.0, np.inf)


def knowing(scores: np.ndarray, shares: np.ndarray, wealth: float) -> np.ndarray:
    """Return the clicks until somebody who knows the share of deciding clicks has the wealth.

    They bet so that it grows fastest, which reaches a large wealth in the fewest clicks on average
    (Kelly 1956, Breiman 1961). At 40 they may err in either direction, as the sequence may; at 20
    they know the direction too.
    """
    bets = (2 * shares - 1)[:, None] * (2 * scores - 1)
    return first(np.log1p(bets).cumsum(axis=1) >= np.log(wealth))


def replay(
    compared: list[tuple[Any, ...]], replays: int, rng: np.random.Generator
) -> dict[str, Any]:
    pools = [pool for _, _, pool, _ in compared if 0 < pool.mean() < 1]
    chosen = rng.integers(len(pools), size=replays)
    scores = np.stack([rng.choice(pools[i], CLICKS) for i in chosen])
    true = np.array([pools[i].mean() for i in chosen])
    missed = np.empty(replays, dtype=bool)
    for i in np.unique(chosen):
        missed[chosen == i] = refuted(scores[chosen == i], float(pools[i].mean())).any(axis=1)

    swapped = np.where(rng.random(scores.shape) < 0.5, scores, 1 - scores)
    # Who takes the left one in ties takes either system: the sides are tossed too.
    left = (rng.random(scores.shape) < LEFT_IN_TIES) == (rng.random(scores.shape) < 0.5)
    biased = np.where(swapped == 0.5, left, swapped)

    stops = first(refuted(scores, 0.5))
    upwards = np.array([
        confidence_sequence(row[: int(stop)]).low >= 0.5 if np.isfinite(stop) else False
        for row, stop in zip(scores, stops, strict=True)
    ])  # fmt: skip
    direction = np.where(upwards, 1, -1)
    truth = np.sign(true - 0.5)
    ties = np.array([(pools[i] == 0.5).mean() for i in chosen])
    planned = np.ceil(planned_clicks(PLANNED_SHARE) / (1 - ties))
    fixed = sign_test(scores, planned)
    decided = [float((pool == 1).sum() / (pool != 0.5).sum()) for pool in pools]
    shares = np.array([decided[i] for i in chosen])
    known = {i: planned_clicks(decided[i]) for i in np.unique(chosen)}
    own = np.ceil(np.array([known[i] for i in chosen]) / (1 - ties))
    settled = stops <= planned
    return {
        "pairs": len(compared),
        "median share of ties": round(float(np.median(ties)), 3),
        "coverage of the 95% sequence": round(float(1 - missed.mean()), 4),
        "false verdicts, A = A": round(float(refuted(swapped, 0.5).any(axis=1).mean()), 4),
        "the same, left in ties": round(float(refuted(biased, 0.5).any(axis=1).mean()), 4),
        "sign test: clicks planned for 60:40 (median)": float(np.median(planned)),
        "sign test: verdicts": round(float((fixed != 0).mean()), 3),
        "sign test: wrong": round(float(((fixed != 0) & (fixed == -truth)).mean()), 4),
        "sequence: clicks, at most as planned (median)": float(
            np.median(np.minimum(stops, planned))
        ),
        "sequence: clicks if settled (median)": float(np.median(stops[settled])),
        "sequence: verdicts within the planned clicks": round(float(settled.mean()), 3),
        "sequence: verdicts within 1,000": round(float(np.isfinite(stops).mean()), 3),
        "sequence: wrong": round(float((settled & (direction == -truth)).mean()), 4),
        "sign test for the pair's own share: clicks (median)": float(np.median(own)),
        "sequence: clicks, without a limit (median)": float(np.median(stops)),
        "sequence: clicks to a verdict within 1,000 (median)": float(
            np.median(stops[np.isfinite(stops)])
        ),
        **{
            f"who knows the pair's share, wealth {wealth}: at most as planned (median)": float(
                np.median(np.minimum(knowing(scores, shares, wealth), planned))
            )
            for wealth in (40, 20)
        },
    }


def features(row: tuple[str, str, str]) -> list[float]:
    article, reference, summary = row
    scores = SummaryJudge(article, reference).indicators(summary)
    scores["rougeLsum"] = rouge.match(reference, summary, "rouge-score")["rougeLsum"].fmeasure
    return [float(scores[name]) for name in FEATURES]


def powered(
    rows: pd.DataFrame, compared: list[tuple[Any, ...]], replays: int, rng: np.random.Generator
) -> dict[str, Any]:
    texts = list(zip(rows.article, rows.highlights, rows.summary, strict=True))
    known = dict(
        zip(
            zip(rows.id, rows.system, strict=True),
            map_rows(features, texts, rows_per_process=100),
            strict=True,
        )
    )
    inside, plain, worth = [], [], []
    tables = {
        i: np.array([np.subtract(known[article, a], known[article, b]) for article in ids])
        for i, (a, b, _, ids) in enumerate(compared)
    }
    for _ in range(replays):
        i = int(rng.integers(len(compared)))
        scores, table = compared[i][2], tables[i]
        order = rng.permutation(len(scores))
        judged, others = order[:JUDGED], order[JUDGED:]
        result = prediction_powered(scores[judged], table[judged], table[others])
        assert result is not None
        inside.append(result.low <= scores.mean() <= result.high)
        plain.append(result.plain_low <= scores.mean() <= result.plain_high)
        worth.append(result.worth)
    return {
        "coverage": float(np.mean(inside)),
        "coverage without predictions": float(np.mean(plain)),
        "worth, quantiles 5, 50, 95": [
            round(float(q), 2) for q in np.quantile(worth, [0.05, 0.5, 0.95])
        ],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--replays", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    summeval = pd.read_parquet(DATA / "summeval.parquet")
    summeval["score"] = summeval.filter(like="human_").sum(axis=1)
    rose = pd.read_parquet(DATA / "judged" / "rose.parquet")
    collections = {"SummEval": (summeval, "score")} | {
        f"RoSE, {part.removeprefix('cnndm ')}": (rows, "ref_free")
        for part, rows in rose.groupby("part")
    }
    started = time.perf_counter()
    for name, (rows, score) in collections.items():
        figures = replay(pairs(rows, score), options.replays, rng)
        print(json.dumps({"collection": name, **figures}, indent=2), flush=True)
    print(f"{time.perf_counter() - started:.1f} s")
    figures = powered(summeval, pairs(summeval, "score"), min(options.replays, 1000), rng)
    print(json.dumps({"prediction-powered": f"{JUDGED} of 100 judged", **figures}, indent=2))


if __name__ == "__main__":
    main()
