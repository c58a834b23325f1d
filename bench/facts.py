"""Does the base that reads (`nutgraf check-facts`) agree with people?

Sentences of judged summaries are read behind passages of their articles, as the product does. The
weights of its two measures are fitted on QAGS's CNN/DM part (Wang et al. 2020), and judged there
on articles that a fit has not seen, ten times. Nothing is fitted or chosen on the others: QAGS's
XSum part; SummEval (Fabbri et al. 2021), pooled and within systems; summaries in which a language
model planted errors (HaluEval, Li et al. 2023) against references; errors planted by rules
(planting.py) in sentences of references. What is read is kept in --cache, so that the script may be
stopped and run again.

    python bench/facts.py --cache FILE.parquet [--base NAME] [--articles N] [--seconds N]
"""

from __future__ import annotations

import argparse
import collections
import functools
import json
import random
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import ranks
from planting import KINDS, Article, plant

from nutgraf.config import ModelConfig
from nutgraf.data.sentences import split_sentences, split_tokens
from nutgraf.data.text import clean_text
from nutgraf.evaluation import support
from nutgraf.evaluation.indicators import extractive_fragments
from nutgraf.evaluation.support import Reading, SupportJudge
from nutgraf.generation.reading import load_reader

DATA = Path(__file__).parents[2] / "shared" / "data"
# Id and number of 50 sentences of QAGS's CNN/DM part that people call wrong, and in which, read one
# by one, names and numbers are the article's and what is said of them is not.
PREDICATES = Path(__file__).with_name("predicate_errors.txt")
CASED = ("M20", "M22")  # the systems of SummEval whose names have capitals
FOLDS, RESAMPLES = 10, 300
KEYS = ["set", "article", "system"]
_WORD = re.compile(r"[A-Za-z][\w'-]*")


def sentences(articles: int, seed: int) -> Iterator[tuple[dict[str, Any], SupportJudge, str]]:
    """Yield a row, the judge of its article and the text of every sentence to be read."""
    qags = pd.read_parquet(DATA / "judged" / "qags.parquet")
    for r in qags.itertuples():
        judge = SupportJudge(clean_text(r.article))
        for n, text in enumerate(split_sentences(clean_text(r.summary))):
            vote = {"number": n, "right": bool(r.sentence_votes[n]), "human": r.consistent}
            row = {"set": f"qags {r.part}", "article": f"{r.id} {r.Index}", "system": "", **vote}
            yield row, judge, text
    rows = pd.read_parquet(DATA / "summeval.parquet").sort_values(["id", "system"])
    for key, group in list(rows.groupby("id", sort=True))[:articles]:
        article = clean_text(group["article"].iloc[0])
        judge, recase = SupportJudge(article), recaser(article)
        for r in group.itertuples():
            row = {"set": "summeval", "article": key, "system": r.system}
            for text in split_sentences(clean_text(r.summary)):
                shown = text if r.system in CASED else recase(text)
                yield {**row, "human": r.human_consistency}, judge, shown
    rows = pd.read_parquet(DATA / "cnndm-test-cased-a.parquet")
    for r in rows[rows["hallucinated"].notna()].sample(60, random_state=1)[:articles].itertuples():
        judge, planted = SupportJudge(clean_text(r.article)), Article(clean_text(r.article))
        for system, summary in (("reference", r.highlights), ("hallucinated", r.hallucinated)):
            for text in split_sentences(clean_text(summary)):
                yield {"set": "halueval", "article": r.id, "system": system}, judge, text
        for text in split_sentences(clean_text(r.highlights)):
            for kind in KINDS:
                if wrong := plant(planted, text, kind, random.Random(seed)):
                    yield {"set": "planted", "article": r.id, "system": kind}, judge, wrong


def recaser(article: str) -> Callable[[str], str]:
    """Return a function that writes a lower-cased sentence with the capitals of its article."""
    counts = collections.defaultdict[str, collections.Counter[str]](collections.Counter)
    for word in _WORD.findall(article):
        counts[word.lower()][word] += 1
    usual = {word: forms.most_common(1)[0][0] for word, forms in counts.items()}

    def recase(sentence: str) -> str:
        text = _WORD.sub(lambda m: usual.get(m[0].lower(), m[0]), sentence)
        return text[:1].upper() + text[1:]

    return recase


def read_all(
    pairs: list[tuple[str, str]], base: str, file: Path, seconds: float
) -> dict[tuple[str, str], Reading]:
    """Return the readings that are known or were read in the seconds, by passages and sentence."""
    known: dict[tuple[str, str], Reading] = {}
    if file.exists():
        for row in pd.read_parquet(file).itertuples():
            known[row.passages, row.sentence] = Reading(np.array(row.rank))
    new = [pair for pair in dict.fromkeys(pairs) if pair not in known]
    started, reader = time.perf_counter(), load_reader(ModelConfig(base=base)) if new else None
    for at in range(0, len(new), 32):
        if reader is None or time.perf_counter() - started > seconds:
            break
        known |= zip(new[at : at + 32], reader.read(new[at : at + 32]), strict=False)
    rows = [(*pair, r.rank.tolist()) for pair, r in known.items()]
    columns = ["passages", "sentence", "rank"]
    pd.DataFrame(rows, columns=columns).to_parquet(file, index=False)
    return known


def density(judge: SupportJudge, text: str) -> float:
    tokens = split_tokens(text)
    lengths = [length for _, _, length in extractive_fragments(judge._tokens, tokens)]
    return float(np.log1p(sum(n * n for n in lengths) / max(len(tokens), 1)))


def fitted(x: np.ndarray, right: np.ndarray, penalty: float = 0.01) -> np.ndarray:
    """Return constant and weights of a logistic regression, by Newton's method."""
    design, shrunk = np.c_[np.ones(len(x)), x], penalty * np.r_[0, np.ones(x.shape[1])]
    weights = np.zeros(design.shape[1])
    for _ in range(30):
        p = 1 / (1 + np.exp(-design @ weights))
        hessian = (design.T * (p * (1 - p))) @ design + np.diag(shrunk)
        weights += np.linalg.solve(hessian, design.T @ (right - p) - shrunk * weights)
    return weights


def auc(right: np.ndarray, wrong: np.ndarray) -> float:
    places = pd.Series(np.r_[right, wrong]).rank().to_numpy()[: len(right)]
    return float((places.sum() - len(right) * (len(right) + 1) / 2) / (len(right) * len(wrong)))


def interval(statistic: Callable[[np.ndarray], Any], units: int) -> list[Any]:
    """Return a statistic of indices with its 95% bootstrap interval over units."""
    rng = np.random.default_rng(1)
    drawn = [statistic(rng.integers(0, units, units)) for _ in range(RESAMPLES)]
    low, high = np.nanpercentile(drawn, [2.5, 97.5], axis=0)
    return [np.round(v, 3).tolist() for v in (statistic(np.arange(units)), low, high)]


def of_sentences(own: pd.DataFrame, name: str) -> dict[str, Any]:
    """Return what votes on the sentences of QAGS's CNN/DM part say, over articles."""
    listed = {tuple(line.split()) for line in PREDICATES.read_text().splitlines()}
    ids = own["article"].str.split().str[0]
    names = zip(ids, own["number"].astype(int).astype(str), strict=True)
    predicate = np.array([name_of in listed for name_of in names])
    x, right = own[name].to_numpy(), own["right"].to_numpy(bool)
    groups = list(own.reset_index().groupby("article", sort=False).indices.values())

    def statistic(drawn: np.ndarray) -> list[float]:
        at = np.concatenate([groups[i] for i in drawn])
        limit = np.quantile(x[at][right[at]], 0.1)
        flagged = (x[at] < limit)[predicate[at]].mean()
        return [auc(x[at][right[at]], x[at][~right[at]]), float(flagged)]

    return {"AUC, predicate errors at 10%": interval(statistic, len(groups))}


def of_summaries(frame: pd.DataFrame, name: str) -> dict[str, Any]:
    """Return rho with people of the mean and the worst sentence, and AUC of summaries."""
    out: dict[str, Any] = {}
    for how in ("mean", "min"):
        of = frame.groupby(KEYS, sort=True).agg({name: how, "human": "first"}).reset_index()
        for part in ("qags cnndm", "qags xsum"):
            x, y = (of.loc[of["set"] == part, [c]].to_numpy(float) for c in (name, "human"))
            rho = functools.partial(lambda d, x, y: ranks.spearman(x[d], y[d])[0, 0], x=x, y=y)
            out[f"{part}, {how}"] = interval(rho, len(x))
        wide = of[of["set"] == "summeval"].pivot(index="system", columns="article")
        x, y = (wide[c].to_numpy(float)[..., None] for c in (name, "human"))

        def levels(d: np.ndarray, x: np.ndarray = x, y: np.ndarray = y) -> Any:
            return ranks.levels(x[:, d], y[:, d])[:2, 0, 0]

        out[f"summeval pooled and within systems, {how}"] = interval(levels, x.shape[1])
        own = of[of["set"] == "halueval"].pivot(index="article", columns="system", values=name)
        both = (own[system].to_numpy() for system in ("reference", "hallucinated"))
        out[f"halueval AUC, {how}"] = auc(*both)
    true = frame.loc[(frame["set"] == "halueval") & (frame["system"] == "reference"), name]
    planted = frame[frame["set"] == "planted"].groupby("system")[name]
    out["planted in references, AUC"] = {k: auc(true, x.to_numpy()) for k, x in planted}
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cache", type=Path, required=True, help="what has been read: .parquet")
    parser.add_argument("--base", default=support.CALIBRATED)
    parser.add_argument("--articles", type=int, default=40, help="of SummEval and HaluEval")
    parser.add_argument("--seconds", type=float, default=1e9, help="of reading")
    options = parser.parse_args()
    every = list(sentences(options.articles, seed=1))
    pairs = [(judge.passages(text), text) for _, judge, text in every]
    known = read_all(pairs, options.base, options.cache, options.seconds)
    rows = [
        {**row, **judge.measures(text, known[pair]), "density": density(judge, text)}
        for (row, judge, text), pair in zip(every, pairs, strict=True)
        if pair in known
    ]
    frame = pd.DataFrame(rows)
    names = list(support.WEIGHTS)
    own = frame["set"] == "qags cnndm"
    x, right = frame[names].to_numpy(), frame["right"].eq(True).to_numpy()
    design = np.c_[np.ones(len(x)), x]
    fold = pd.factorize(frame["article"])[0]
    fold = np.random.default_rng(0).permutation(fold.max() + 1)[fold] % FOLDS
    weights = fitted(x[own], right[own])
    logit = design @ weights
    for n in range(FOLDS):
        test = own & (fold == n)
        logit[test] = design[test] @ fitted(x[own & ~test], right[own & ~test])
    frame["probability"] = logit  # its order and means, as the logit
    judged, doubted = right[own], logit[own] < np.log(support.LIMIT / (1 - support.LIMIT))
    result: dict[str, Any] = {
        "sentences": frame["set"].value_counts().to_dict(),
        "summaries": frame[KEYS].drop_duplicates()["set"].value_counts().to_dict(),
        "constant and weights": weights.round(3).tolist(),
        "wrong ones doubted, of": [int(doubted[~judged].sum()), int((~judged).sum())],
        "right ones not doubted, of": [int((~doubted)[judged].sum()), int(judged.sum())],
    }
    for name in ("probability", *names, "density"):
        result[name] = of_sentences(frame[own], name) | of_summaries(frame, name)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
