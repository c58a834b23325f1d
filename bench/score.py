"""How fast ROUGE is: nutgraf over all cores against `rouge_score` called plainly, one by one.

As many pairs as CNN/DailyMail's test split has: the rows of ../shared/data/cnndm-test-a.parquet,
repeated. The library gets texts that are cut into sentences already; ours includes the cutting and
the start of the processes. Both have to agree on every figure.

    python bench/score.py [--pairs N]
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

import pandas as pd
from rouge_score.rouge_scorer import RougeScorer
from tqdm.auto import tqdm

from nutgraf.data import sentences
from nutgraf.evaluation import rouge
from nutgraf.evaluation.published import TEST_ARTICLES

DATA = Path(__file__).parents[2] / "shared" / "data" / "cnndm-test-a.parquet"


def plainly(references: list[str], summaries: list[str]) -> tuple[float, list[dict[str, float]]]:
    """Seconds and scores of the library."""
    pairs = [
        ["\n".join(sentences.split_sentences(text)) for text in pair]
        for pair in zip(references, summaries, strict=True)
    ]
    started = time.perf_counter()
    scorer = RougeScorer(list(rouge.ROUGE_TYPES), use_stemmer=True)
    scores = [scorer.score(*pair) for pair in tqdm(pairs, desc="rouge_score")]
    seconds = time.perf_counter() - started
    return seconds, [{k: 100 * s[k].fmeasure for k in rouge.ROUGE_TYPES} for s in scores]


def ours(
    references: list[str], summaries: list[str], processes: int
) -> tuple[float, list[dict[str, float]]]:
    """Seconds and scores of nutgraf."""
    started = time.perf_counter()
    scores = rouge.score_rouge_many(references, summaries, processes=processes)
    return time.perf_counter() - started, scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=TEST_ARTICLES)
    n = parser.parse_args().pairs
    cores = os.cpu_count() or 1
    rows = pd.read_parquet(DATA, columns=["highlights", "pgn_cov"])
    rows = pd.concat([rows] * -(-n // len(rows))).head(n)
    references, summaries = list(rows["highlights"]), list(rows["pgn_cov"])

    library, expected = plainly(references, summaries)
    timed = {"rouge_score, 1 process": library}
    for processes in sorted({1, cores}):
        timed[f"nutgraf, {processes} process(es)"], measured = ours(
            references, summaries, processes
        )
        assert measured == expected, "nutgraf and rouge_score differ"
    print(f"{n:,} pairs, {cores} cores\n{'':<26}{'seconds':>9}{'pairs/s':>9}{'times':>7}")
    for name, seconds in timed.items():
        print(f"{name:<26}{seconds:9.1f}{n / seconds:9.0f}{library / seconds:7.2f}")
    result = {name: round(seconds, 2) for name, seconds in timed.items()}
    print(json.dumps({"pairs": n, "cores": cores, "seconds": result}))


if __name__ == "__main__":
    main()
