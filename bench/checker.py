"""A checker of facts that is trained without labels: does it agree with people?

Examples are true sentences of training articles and the same with planted errors (planting.py,
truths.py). SmolLM2-135M reads each behind passages of its article, untrained, and a network over
the tokens learns to tell which is which (reading.py). Then: planted errors in articles that were
held out; QAGS (Wang et al. 2020), sentence by sentence and by summary; SummEval (Fabbri et al.
2021), pooled and within systems; summaries with errors planted by a language model (HaluEval, Li et
al. 2023) against references. Beside the network stand measures without training: density, the
longest copied fragment, and how the sentence was read. What is read is kept in --cache, so that the
script may be stopped and run again.

    python bench/checker.py --cache FILE.parquet [--base FOLDER] [--examples N] [--articles N]
                            [--seconds N] [--resamples N] [--seed N]
"""

from __future__ import annotations

import argparse
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import ranks
from checker_examples import Chooser, Example, draw_examples
from reading import Head, Pair, Reader, token_values, whole_sentence

from nutgraf.data.sentences import split_sentences, split_tokens
from nutgraf.data.text import clean_text
from nutgraf.evaluation.indicators import extractive_fragments

DATA = Path(__file__).parents[2] / "shared" / "data"
# Id and number of 50 sentences of QAGS's CNN/DM part that people call wrong, and in which, read one
# by one, names and numbers are the article's and what is said of them is not.
PREDICATES = Path(__file__).with_name("predicate_errors.txt")
HELD_OUT = 5  # of so many articles one is held out
COMBINED = {
    "rank + longest": ("rank", "longest"),
    "network + rank + longest": ("network", "rank", "longest"),
    "network + rank + explained + density": ("network", "rank", "explained", "density"),
}


# --- judged summaries ----------------------------------------------------------------------------


@dataclass
class Judged:
    """A summary, its sentences with their passages, and what people or its making say of it."""

    set: str
    system: str
    article: str
    human: float
    pairs: list[Pair]
    votes: Sequence[bool] = ()


def judged(articles: int, seed: int) -> list[Judged]:
    """Return the sets to measure on; so many articles of SummEval and HaluEval."""
    found = []

    def add(name: str, article: str, rows: Sequence[tuple[str, str, float, Any]], key: str) -> None:
        text = clean_text(article)
        chooser = Chooser(text)
        for system, summary, human, votes in rows:
            sentences = split_sentences(clean_text(summary))
            pairs = [(" ".join(chooser.choose(sentence)), sentence) for sentence in sentences]
            found.append(Judged(name, system, key, human, pairs, votes))

    for row in pd.read_parquet(DATA / "judged" / "qags.parquet").itertuples():
        votes = [bool(vote) for vote in row.sentence_votes]
        add(
            f"qags {row.part}", row.article, [("", row.summary, row.consistent, votes)], str(row.id)
        )
    rows = pd.read_parquet(DATA / "summeval.parquet").sort_values(["id", "system"])
    for key, group in list(rows.groupby("id", sort=True))[:articles]:
        of = [(r.system, r.summary, r.human_consistency, ()) for r in group.itertuples()]
        add("summeval", group["article"].iloc[0], of, str(key))
    rows = pd.read_parquet(DATA / "cnndm-test-cased-a.parquet")
    rows = rows[rows["hallucinated"].notna()].sample(250, random_state=seed)
    for row in rows.head(articles).itertuples():
        of = [("reference", row.highlights, 1.0, ()), ("hallucinated", row.hallucinated, 0.0, ())]
        add("halueval", row.article, of, str(row.id))
    return found


def copied(passages: str, sentence: str) -> dict[str, float]:
    """Return density, as its logarithm, and the longest fragment's share of the sentence."""
    tokens = split_tokens(sentence)
    lengths = [n for _, _, n in extractive_fragments(split_tokens(passages), tokens)]
    square = sum(n * n for n in lengths) / max(len(tokens), 1)
    return {
        "density": float(np.log1p(square)),
        "longest": max(lengths, default=0) / max(len(tokens), 1),
    }


def measures(pairs: Sequence[Pair], reader: Reader, head: Head) -> pd.DataFrame:
    """Return a row a sentence: every measure, the higher the better supported."""
    read = [reader.known[pair] for pair in pairs]
    rows = [{**copied(*p), **whole_sentence(r)} for p, r in zip(pairs, read, strict=True)]
    frame = pd.DataFrame(rows)
    frame["network"] = head.logits([token_values(*p, r) for p, r in zip(pairs, read, strict=True)])
    return frame


def combined(frame: pd.DataFrame, mean: pd.Series, deviation: pd.Series) -> pd.DataFrame:
    """Add sums of standardized measures; the scale is that of the examples."""
    standard = (frame - mean) / deviation
    return frame.assign(
        **{name: standard[list(parts)].mean(axis=1) for name, parts in COMBINED.items()}
    )


# --- figures -------------------------------------------------------------------------------------


def auc(true: np.ndarray, wrong: np.ndarray) -> float:
    """Return the share of pairs in which the true one has the higher value, ties counted half."""
    places = pd.Series(np.r_[true, wrong]).rank().to_numpy()[: len(true)]
    return float((places.sum() - len(true) * (len(true) + 1) / 2) / (len(true) * len(wrong)))


def interval(
    statistic: Callable[[np.ndarray], np.ndarray], units: int, resamples: int, seed: int
) -> np.ndarray:
    """Return statistics of indices with their 95% bootstrap intervals over units: [3, ...]."""
    rng = np.random.default_rng(seed)
    drawn = [statistic(rng.integers(0, units, units)) for _ in range(resamples)]
    low, high = np.nanpercentile(drawn, [2.5, 97.5], axis=0)
    return np.stack([statistic(np.arange(units)), low, high])


def of_planted(tests: Sequence[Example], frame: pd.DataFrame) -> dict[str, Any]:
    """Return the AUC on held-out planted errors, by where the sentence is from and by kind."""
    true = np.array([one.supported for one in tests])
    of_reference = np.array([one.of_reference for one in tests])
    kinds = np.array([one.kind for one in tests])
    out: dict[str, Any] = {"sentences": len(tests)}
    for name in frame:
        x = frame[name].to_numpy()
        limit = np.quantile(x[true & of_reference], 0.1)
        out[name] = {
            "all": auc(x[true], x[~true]),
            "of references": auc(x[true & of_reference], x[~true & of_reference]),
            "of the article's own": auc(x[true & ~of_reference], x[~true & ~of_reference]),
            "flagged of the wrong at 10% of the references": float((x[~true] < limit).mean()),
            "flagged of the wrong references at 10%": float(
                (x[~true & of_reference] < limit).mean()
            ),
        }
    x = frame["network"].to_numpy()
    out["network by kind"] = {k: auc(x[true], x[kinds == k]) for k in sorted(set(kinds[~true]))}
    return out


def of_people(rows: Sequence[Judged], frame: pd.DataFrame, resamples: int, seed: int) -> Any:
    """Return Spearman's rho with people, of mean and worst sentence, with its interval."""
    owner = np.repeat(np.arange(len(rows)), [len(row.pairs) for row in rows])
    sets = np.array([row.set for row in rows])
    human = np.array([row.human for row in rows])
    grouped = frame.groupby(owner)
    out: dict[str, Any] = {name: {} for name in frame}
    for how, of_summaries in (("mean", grouped.mean()), ("worst", grouped.min())):
        x = of_summaries.reindex(range(len(rows))).to_numpy()
        for part in ("qags cnndm", "qags xsum"):
            a, y = x[sets == part], human[sets == part, None]
            rho = interval(functools.partial(_rho, a, y), len(a), resamples, seed)
            for name, cell in zip(frame, np.transpose(rho), strict=True):
                out[name][f"{part}, {how}"] = cell.tolist()
        at = np.flatnonzero(sets == "summeval")  # by article, then by system
        a, y = (np.swapaxes(v[at].reshape(-1, 16, v.shape[1]), 0, 1) for v in (x, human[:, None]))
        rho = interval(functools.partial(_levels, a, y), a.shape[1], resamples, seed)
        for at_level, level in enumerate(("pooled", "within systems")):
            for name, cell in zip(frame, np.transpose(rho[:, at_level]), strict=True):
                out[name][f"summeval {level}, {how}"] = cell.tolist()
        own = x[sets == "halueval"]
        for name, column in zip(frame, own.T, strict=True):
            out[name][f"halueval AUC, {how}"] = auc(column[::2], column[1::2])
    return out


def _rho(x: np.ndarray, y: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    return ranks.spearman(x[drawn], y[drawn])[:, 0]


def _levels(x: np.ndarray, y: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    return ranks.levels(x[:, drawn], y[:, drawn])[:2, :, 0]


def of_sentences(rows: Sequence[Judged], frame: pd.DataFrame) -> dict[str, Any]:
    """Return what a vote on each sentence of QAGS's CNN/DM part says of the measures."""
    owner = np.repeat(np.arange(len(rows)), [len(row.pairs) for row in rows])
    chosen = np.array([row.set == "qags cnndm" for row in rows])[owner]
    votes = np.array([v for row in rows if row.set == "qags cnndm" for v in _votes(row)])
    own = frame[chosen]
    listed = {tuple(line.split()) for line in PREDICATES.read_text().splitlines()}
    names = [
        (r.article, str(n)) for r in rows if r.set == "qags cnndm" for n in range(len(r.pairs))
    ]
    predicate = np.array([name in listed for name in names])
    references = np.array([row.system == "reference" for row in rows])[owner]
    more_copied = (own["longest"] > own["longest"].median()).to_numpy()
    out: dict[str, Any] = {"n": len(votes), "wrong": float((~votes).mean())}
    for name in own:
        x = own[name].to_numpy()
        lowest = np.argsort(x, kind="stable")[: len(x) // 10]
        out[name] = {
            "AUC": auc(x[votes], x[~votes]),
            "AUC of the more copied half": auc(x[votes & more_copied], x[~votes & more_copied]),
            "wrong of the lowest tenth": float((~votes[lowest]).mean()),
            "AUC of predicate errors": auc(x[votes], x[predicate]),
        }
        for of, true in (("right ones", x[votes]), ("references", frame[name][references])):
            flagged = float((x[predicate] < np.quantile(true, 0.1)).mean())
            out[name][f"predicate errors flagged at 10% of the {of}"] = flagged
    return out


def _votes(row: Judged) -> list[bool]:
    if len(row.votes) != len(row.pairs):
        raise ValueError(f"{len(row.votes)} votes on {len(row.pairs)} sentences: {row.article}")
    return list(row.votes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cache", type=Path, required=True, help="what has been read: .parquet")
    parser.add_argument("--base", default="smollm2")
    parser.add_argument("--examples", type=int, default=2000)
    parser.add_argument("--articles", type=int, default=22, help="of SummEval and HaluEval")
    parser.add_argument("--seconds", type=float, default=300, help="of reading")
    parser.add_argument("--resamples", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    articles = pd.read_parquet(DATA / "cnndm-train-cased.parquet")
    drawn = draw_examples(articles, given.examples, given.seed)
    rows = judged(given.articles, given.seed)
    reader = Reader(given.base, given.cache)
    wanted = [pair for row in rows for pair in row.pairs]
    of_examples = [(one.passages, one.sentence) for one in drawn]
    new = len({*wanted, *of_examples} - reader.known.keys())
    took = reader.read([*wanted, *of_examples], given.seconds)
    left = len({*wanted, *of_examples} - reader.known.keys())
    print(f"read {new - left:,} sentences in {took:.0f} s; {left:,} are left")
    rows = [row for row in rows if all(pair in reader.known for pair in row.pairs)]
    whole = pd.Series([row.article for row in rows if row.set == "summeval"]).value_counts()
    rows = [row for row in rows if row.set != "summeval" or whole[row.article] == 16]
    both = pd.Series([row.article for row in rows if row.set == "halueval"]).value_counts()
    rows = [row for row in rows if row.set != "halueval" or both[row.article] == 2]
    drawn = [one for one in drawn if (one.passages, one.sentence) in reader.known]
    tests = [one for one in drawn if one.article % HELD_OUT == 0]
    training = [one for one in drawn if one.article % HELD_OUT]
    values = [
        token_values(one.passages, one.sentence, reader.known[one.passages, one.sentence])
        for one in training
    ]
    head = Head(values, [one.supported for one in training], given.seed)
    learnt = measures([(one.passages, one.sentence) for one in training], reader, head)
    scale = learnt.mean(), learnt.std()
    held_out = combined(
        measures([(one.passages, one.sentence) for one in tests], reader, head), *scale
    )
    people = combined(measures([p for row in rows for p in row.pairs], reader, head), *scale)
    result = {
        "training examples": len(training),
        "summaries": pd.Series([row.set for row in rows]).value_counts().to_dict(),
        "planted": of_planted(tests, held_out),
        "people": of_people(rows, people, given.resamples, given.seed),
        "sentences": of_sentences(rows, people),
    }
    print(json.dumps(_rounded(result), indent=1))


def _rounded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return round(float(value), 3) if isinstance(value, float | np.floating) else value


if __name__ == "__main__":
    main()
