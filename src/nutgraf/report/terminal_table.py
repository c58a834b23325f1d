"""Render model_comparison_results.csv as a table for the terminal."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd

from nutgraf.config import Config
from nutgraf.evaluation.bootstrap import MIN_VALUES
from nutgraf.evaluation.published import TEST_ARTICLES
from nutgraf.report.describe import SYNTHETIC


def render_table(path: Path, config: Config) -> str:
    """Return the measured rows, best against the others, and the published rows, with notes.

    `path` is that of the table; analysis/ stands beside it.
    """
    table = pd.read_csv(path)
    measured = table[table["source"] == "measured"]
    differences = pd.read_csv(path.parent / "analysis" / "differences.csv")
    width = 2 + max(map(len, table["system"]))
    n, stemmed = int(measured["n"].iloc[0]), config.score.tokenizer == "rouge-score"
    words = "stemmed" if stemmed else "words of every script"
    few = f", none below {MIN_VALUES} articles" if n < MIN_VALUES else ""
    lines = [
        f"ROUGE F1 (0 to 100, {words}) on {n} test articles; "
        f"R-Lsum with its 95% bootstrap interval{few}",
        f"{'system':<{width}}{'R-1':>7}{'R-2':>7}{'R-L':>7}{'R-Lsum':>8}{'interval':>16}"
        f"{'ppl':>9}{'train s':>9}",
    ]
    for row in measured.itertuples():
        interval = _interval(row.rougeLsum_low, row.rougeLsum_high, ".1f")
        of_models = f"{row.perplexity:9.2f}{row.train_seconds:9.0f}".replace("nan", "   ")
        lines.append(
            f"{row.system:<{width}}{row.rouge1:7.2f}{row.rouge2:7.2f}{row.rougeL:7.2f}"
            f"{row.rougeLsum:8.2f}{interval:>16}{of_models}"
        )
    lines += seed_spread(pd.read_csv(path.parent / "analysis" / "seeds.csv"))
    lines += [
        "oracle reads the reference: what copying three sentences can reach, found greedily",
    ]
    compared = differences[differences["metric"] == "rougeLsum"]
    for system, rows in compared.groupby("system", sort=False):
        lines.append(
            f"{system} against the others, R-Lsum points on the same articles, paired 95% "
            f"interval, p Holm-corrected over {len(differences)} comparisons"
        )
        for row in rows.itertuples():
            interval = _interval(row.low, row.high, "+.2f")
            lines.append(
                f"{row.other:<{width}}{row.difference:+7.2f}{interval:>18}  p {row.p_holm:.4f}  "
                f"{row.verdict}"
            )
    other = "" if stemmed else "; another tokenizer, not to be compared"
    lines.append(
        f"published, on CNN/DailyMail's {TEST_ARTICLES:,} test articles (R-L as printed is "
        f"R-Lsum{other}):"
    )
    for row in table[table["source"] == "published"].itertuples():
        lines.append(
            f"{row.system:<{width}}{row.rouge1:7.2f}{row.rouge2:7.2f}{'':7}{row.rougeLsum:8.2f}"
        )
    return "\n".join([*lines, SYNTHETIC] if config.data.is_newswire else lines)


def _interval(low: Any, high: Any, form: str) -> str:
    return "–" if math.isnan(low) else f"{low:{form}} to {high:{form}}"


def seed_spread(by_seed: pd.DataFrame) -> list[str]:
    """Return the mean and standard deviation of each trained model over seeds, if several.

    `by_seed`: analysis/seeds.csv, with system, seed, rougeLsum and loss.
    """
    seeds = list(dict.fromkeys(by_seed["seed"]))
    if len(seeds) == 1:
        return [f"one seed ({seeds[0]}): the spread between trainings is not known"]
    lines = [f"over the seeds {', '.join(map(str, seeds))}, mean and standard deviation:"]
    for system, rows in by_seed.groupby("system", sort=False):
        rouge, loss = rows["rougeLsum"], rows["loss"]
        lines.append(
            f"{system}: R-Lsum {rouge.mean():.2f} ± {rouge.std():.2f}, "
            f"loss {loss.mean():.3f} ± {loss.std():.3f}"
        )
    return lines
