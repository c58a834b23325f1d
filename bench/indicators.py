"""What the indicators of errors are worth: against known figures, and against human judgement.

Calibration: outputs of published systems in ../shared/data/cnndm-test-a.parquet, for which that
folder's README gives figures. Those came from white-space tokens and 2,000 unknown rows, so the
same is computed here too, over all rows, which separates the two causes of a deviation.

Correlation: SummEval (Fabbri et al. 2021), 100 articles x 16 systems with human scores: Spearman's
rho over all summaries, within systems (mean of one rho a system) and of the systems' means, with
95% bootstrap intervals over articles. Combinations of indicators are chosen and fitted on nine
tenths of the articles and judged on the rest, ten times.

    python bench/indicators.py [--articles N] [--resamples N] [--seed N]
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import ranks

from nutgraf.data import sentences
from nutgraf.data import sentences as sentences_
from nutgraf.evaluation import indicators
from nutgraf.evaluation.facts import Facts
from nutgraf.evaluation.name_words import FUNCTION_WORDS
from nutgraf.generation import extractive
from nutgraf.parallel.process_pool import map_rows

DATA = Path(__file__).parents[2] / "shared" / "data"

# The README's table. Novel n-grams and repeated trigrams in percent there, shares here.
MEASURES = (
    "coverage", "density", "compression", "words",
    "novel_1grams", "novel_2grams", "novel_3grams", "novel_4grams",
    "repeated_trigrams", "unsupported_numbers",
)  # fmt: skip
KNOWN = {
    "reference": (0.886, 3.99, 14.4, 58.8, 0.11, 0.49, 0.70, 0.80, 0.002, 0.175),
    "pgn_cov": (0.999, 27.7, 13.6, 61.7, 0.00, 0.03, 0.07, 0.11, 0.015, 0.001),
    "seq2seq": (0.938, 8.94, 16.9, 48.1, 0.06, 0.21, 0.36, 0.46, 0.210, 0.115),
}
KNOWN_ROWS = 2000

QUALITIES = ("consistency", "coherence", "fluency", "relevance")
# What tells a system's form, or of the reference alone, rather than what the summary says.
NOT_COMBINED = ("cased", "names", "key_facts")
FOLDS = 10
MOST = 5
METHODS = {
    "best indicator": ranks.mean_of_ranks(1),
    "mean of ranks": ranks.mean_of_ranks(MOST),
    "ridge": ranks.ridge,
}


# --- calibration ---------------------------------------------------------------------------------


def calibrate(n: int | None, seed: int) -> dict[str, Any]:
    """Print our indicators of known systems beside the README's figures, on n documents or all."""
    ours, plain = measured(n, seed)
    table = beside_known(ours, plain)
    count = len(ours) // ours["system"].nunique()
    print(f"\nCalibration on {count:,} documents\n\n{table.round(3).to_string(index=False)}")
    by_system = ours.groupby("system", sort=False)
    means = by_system.mean().T
    print(f"\nMean of every indicator\n\n{means.round(3).to_string()}")
    totals = by_system[["numbers", "unsupported_numbers"]].sum()
    share = totals["unsupported_numbers"] / totals["numbers"]
    print(f"\nShare of all numbers that are unsupported\n\n{share.round(4).to_string()}")
    numbers = number_tokens(n, seed)
    print("\nNumbers of the references, by the README's rule and by ours")
    print("".join(f"\n{kind}: {n:,}" for kind, n in numbers.items()))
    return {
        "documents": count,
        "numbers of the references": numbers,
        "known": json.loads(table.round(4).to_json(orient="records")),
        "means": means.round(4).to_dict(),
        "unsupported of all numbers": share.round(4).to_dict(),
    }


def rows_of(n: int | None, seed: int) -> pd.DataFrame:
    rows = pd.read_parquet(DATA / "cnndm-test-a.parquet")
    return rows if n is None else rows.sample(n, random_state=seed)


def measured(n: int | None, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A row a document and system: our indicators, and the README's measures."""
    pairs = [
        (system, row.article, row.highlights, text)
        for row in rows_of(n, seed).itertuples()
        for system, text in [
            ("reference", row.highlights),
            *((name, getattr(row, name)) for name in ("pgn_cov", "seq2seq")),
            ("lead3", extractive.lead3(row.article)),
        ]
    ]
    measured = map_rows(_measure, pairs, rows_per_process=200, progress="calibration")
    systems = [pair[0] for pair in pairs]
    ours, plain = (pd.DataFrame([both[i] for both in measured]) for i in (0, 1))
    return ours.assign(system=systems), plain.assign(system=systems)


def _measure(pair: tuple[str, str, str, str]) -> tuple[dict[str, float], dict[str, float]]:
    _, article, reference, summary = pair
    return indicators.indicators(article, reference, summary), _by_white_space(article, summary)


def _by_white_space(article: str, summary: str) -> dict[str, float]:
    """The README's measures: tokens are what stands between spaces, punctuation counts as words,
    and a number is any token with a digit, supported by the very same token."""
    source, written = article.split(), summary.split()
    lengths = [length for _, _, length in indicators.extractive_fragments(source, written)]
    trigrams = _grams(written, 3)
    numbers = [token for token in written if any(c.isdigit() for c in token)]
    had = set(source)
    return {
        "coverage": sum(lengths) / len(written),
        "density": sum(n * n for n in lengths) / len(written),
        "compression": len(source) / len(written),
        "words": len(written),
        **{f"novel_{n}grams": _novel(source, written, n) for n in (1, 2, 3, 4)},
        "repeated_trigrams": 1 - len(set(trigrams)) / len(trigrams) if trigrams else 0.0,
        "unsupported_numbers": np.mean([x not in had for x in numbers]) if numbers else np.nan,
    }


def number_tokens(n: int | None, seed: int) -> dict[str, int]:
    """How the README's rule (a token with a digit that the article has too) and ours (a value that
    the article has) judge the numbers of the references."""
    rows = rows_of(n, seed)
    texts = list(zip(rows["article"], rows["highlights"], strict=True))
    counts = map_rows(_number_tokens, texts, rows_per_process=500, progress="numbers")
    return dict(sorted(sum(counts, Counter[str]()).items()))


def _number_tokens(texts: tuple[str, str]) -> Counter[str]:
    article, reference = texts
    known = Facts(article)
    numbers = Facts(reference, known).numbers
    had, counts = set(article.split()), Counter[str]()
    for token in re.finditer(r"\S+", reference):
        inside = [x for x in numbers if x.start < token.end() and x.end > token.start()]
        if inside:
            ours = "supported" if all(map(known.supports, inside)) else "unsupported"
        else:
            ours = "no number"
        if any(c.isdigit() for c in token.group()):
            theirs = "supported" if token.group() in had else "unsupported"
            counts[f"figures: {theirs} for the README, {ours} for us"] += 1
        elif inside and all(reference[x.start : x.end][0].isalpha() for x in inside):
            counts[f"words: not read by the README, {ours} for us"] += 1
    return counts


def _grams(tokens: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(tokens[at : at + n]) for at in range(len(tokens) - n + 1)]


def _novel(source: Sequence[str], written: Sequence[str], n: int) -> float:
    had, grams = set(_grams(source, n)), _grams(written, n)
    return sum(gram not in had for gram in grams) / len(grams) if grams else 0.0


def beside_known(ours: pd.DataFrame, plain: pd.DataFrame) -> pd.DataFrame:
    """README's figure, the same measure over our rows, ours; deviations in percent, with the
    standard error that the README's 2,000 rows give its figure."""
    own = ours.assign(
        unsupported_numbers=(
            ours["unsupported_numbers"] / ours["numbers"].where(ours["numbers"] > 0)
        )
    )
    count = len(ours) // ours["system"].nunique()
    table = []
    for system, figures in KNOWN.items():
        same, new = plain[plain["system"] == system], own[own["system"] == system]
        for name, known in zip(MEASURES, figures, strict=True):
            noise = same[name].std() * np.sqrt(1 / KNOWN_ROWS - 1 / max(count, KNOWN_ROWS + 1))
            table.append(
                {
                    "system": system,
                    "measure": name,
                    "README": known,
                    "same measure": same[name].mean(),
                    "ours": new[name].mean(),
                    "same - README %": 100 * (same[name].mean() / known - 1) if known else np.nan,
                    "ours - README %": 100 * (new[name].mean() / known - 1) if known else np.nan,
                    "README's error %": 100 * noise / known if known else np.nan,
                }
            )
    return pd.DataFrame(table)


# --- correlation with human judgement -------------------------------------------------------------


def judged() -> tuple[pd.DataFrame, list[str]]:
    """SummEval with our indicators and the measures that were only tried, and the latter's names.

    Rows are ordered by system, then by article, every system with the same articles.
    """
    rows = pd.read_parquet(DATA / "summeval.parquet").sort_values(["system", "id"])
    rows = rows.rename(columns={f"human_{quality}": quality for quality in QUALITIES})
    texts = list(rows[["article", "highlights", "summary"]].itertuples(index=False, name=None))
    judged = map_rows(_judge, texts, rows_per_process=200, progress="SummEval")
    own, tried = (pd.DataFrame([both[i] for both in judged], index=rows.index) for i in (0, 1))
    keys = rows[["system", "id", *QUALITIES]]
    return pd.concat([keys, own, tried], axis=1).reset_index(drop=True), [*map(str, tried)]


def _judge(texts: tuple[str, str, str]) -> tuple[dict[str, float], dict[str, float]]:
    article, reference, summary = texts
    return indicators.indicators(article, reference, summary), _tried(article, summary)


def _tried(article: str, summary: str) -> dict[str, float]:
    """Measures sentence by sentence that did not become indicators."""
    source = sentences.split_tokens(article)
    stretches = [set(source[start : start + 80]) for start in range(0, len(source), 40)]
    rows = []
    for sentence in sentences_.split_sentences(summary):
        written = sentences.split_tokens(sentence)
        content = [t for t in written if t[0].isalnum() and t not in FUNCTION_WORDS]
        if not content:
            continue
        copied = indicators.extractive_fragments(source, written)
        pairs = itertools.pairwise(content)
        apart = [not any(a in s and b in s for s in stretches) for a, b in pairs]
        rows.append(
            {
                "sentence_density": sum(n * n for _, _, n in copied) / len(written),
                "fragments": len(copied),
                "novel_2grams": _novel(source, written, 2),
                "novel_content": _novel(source, content, 1),
                "pairs_apart": np.mean(apart) if apart else 0.0,
                "order": sum(b[1] < a[1] for a, b in itertools.pairwise(copied)),
            }
        )
    rated = pd.DataFrame(rows)
    return {
        "density of the least copied sentence": rated["sentence_density"].min(),
        "fragments a sentence": rated["fragments"].mean(),
        "novel 2-grams of the worst sentence": rated["novel_2grams"].max(),
        "novel content words of the worst sentence": rated["novel_content"].max(),
        "neighbouring content words never close in the article": rated["pairs_apart"].mean(),
        "fragments out of the article's order": rated["order"].sum(),
    }


def correlate(resamples: int, seed: int) -> dict[str, Any]:
    """Print how the indicators, the measures tried and combinations go with human judgement."""
    frame, tried = judged()
    human = frame[list(QUALITIES)].to_numpy()
    names = [name for name in (*indicators.MEANINGS, *tried) if name != "key_facts"]
    scores = {name: frame[name].to_numpy(dtype=float) for name in names}
    folds, systems = folds_of(frame, seed), pd.factorize(frame["system"])[0]
    usable = [name for name in indicators.MEANINGS if name not in NOT_COMBINED]
    x, y = frame[usable].to_numpy(dtype=float), human[:, 0]
    for name, fit in METHODS.items():
        scores[f"{name}, other articles"] = ranks.held_out(x, y, folds, fit)
        scores[f"{name}, other systems"] = ranks.held_out(x, y, systems, fit)

    values = np.stack(list(scores.values()), axis=1)
    shape = (frame["system"].nunique(), frame["id"].nunique(), -1)
    grid, people = values.reshape(*shape), human.reshape(*shape)
    rho = ranks.levels(grid, people)
    drawn = ranks.resampled(grid, people, resamples, seed)
    low, high = np.nanpercentile(drawn, [2.5, 97.5], axis=0)  # a draw may lack a rare fault
    result: dict[str, Any] = {}
    for at, level in enumerate(("pooled", "within systems", "of system means")):
        cells = np.stack([rho[at], low[at], high[at]], axis=-1)
        result[level] = pd.DataFrame(cells.round(3).tolist(), index=list(scores), columns=QUALITIES)
        text = result[level].map(lambda cell: "{:+.3f} [{:+.2f}, {:+.2f}]".format(*cell))
        print(f"\nSpearman, {level}\n\n{text.to_string()}")

    weak = frame.groupby("system")["consistency"].mean().nsmallest(2).index
    others = ~frame["system"].isin(weak).to_numpy()
    without = ranks.spearman(values[others], human[others])
    result["pooled without two systems"] = pd.DataFrame(without, list(scores), QUALITIES).round(3)
    print(f"\nPooled without {', '.join(weak)}, the two of lowest consistency\n")
    print(result["pooled without two systems"].to_string())
    place = {name: at for at, name in enumerate(scores)}
    for name in METHODS:
        one, density = place[f"{name}, other articles"], place["density"]
        gains = drawn[:, 0, one, 0] - drawn[:, 0, density, 0]
        gain = [rho[0, one, 0] - rho[0, density, 0], *np.percentile(gains, [2.5, 97.5])]
        result[f"gain of {name} over density"] = np.round(gain, 3).tolist()
    result["ceiling"] = {
        quality: round(ranks.ceiling(column), 3)
        for quality, column in zip(QUALITIES, human.T, strict=True)
    }
    selections = [ranks.chosen(x[folds != f], y[folds != f], MOST) for f in range(FOLDS)]
    result["chosen without each fold"] = [[usable[at] for at, _ in one] for one in selections]
    result["chosen on all"] = [(usable[at], sign) for at, sign in ranks.chosen(x, y, MOST)]
    flagged = frame[["unsupported_numbers", "unsupported_names"]].gt(0).any(axis=1)
    result["with an unsupported fact"] = {
        "summaries": int(flagged.sum()),
        "mean consistency": round(float(frame.loc[flagged, "consistency"].mean()), 2),
        "mean consistency of the others": round(
            float(frame.loc[~flagged, "consistency"].mean()), 2
        ),
        "systems": frame.loc[flagged, "system"].value_counts().to_dict(),
    }
    for name, value in result.items():
        if not isinstance(value, pd.DataFrame):
            print(f"\n{name}: {value}")
    return {k: v.T.to_dict() if isinstance(v, pd.DataFrame) else v for k, v in result.items()}


def folds_of(frame: pd.DataFrame, seed: int) -> np.ndarray:
    """A number from 0 to FOLDS - 1 for each row, the same for all rows of an article."""
    articles = pd.factorize(frame["id"])[0]
    return (np.random.default_rng(seed).permutation(articles.max() + 1) % FOLDS)[articles]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--articles", type=int, help="documents for the calibration (all)")
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    pd.set_option("display.width", 200, "display.max_rows", 200)
    result = {
        "calibration": calibrate(options.articles, options.seed),
        "correlation": correlate(options.resamples, options.seed),
    }
    print(json.dumps(result, allow_nan=False))


if __name__ == "__main__":
    main()
