"""Say what the clicks on a pair of systems show."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from nutgraf.judging.agreement import agreement
from nutgraf.judging.pair import Item, Pair
from nutgraf.judging.prediction import FEATURES, prediction_powered
from nutgraf.judging.record import Click, score_of, score_of_left
from nutgraf.judging.sequence import ConfidenceSequence, confidence_sequence, refuted

_SHOWN = 5  # articles of each kind in the report


@dataclass(frozen=True)
class Standing:
    """What one sequence of clicks shows.

    `wins` are clicks for the first system, for neither, and for the second. `sequence` is on the
    share of the first system, `left` on that of the left summary, which tells the effect of the
    order; a tie is half of either.
    """

    systems: tuple[str, str]
    wins: tuple[int, int, int]
    sequence: ConfidenceSequence
    left: ConfidenceSequence

    @property
    def words(self) -> str:
        """Return the result in one sentence."""
        first, second = self.systems
        n, sequence = self.sequence.n, self.sequence
        if sequence.mean is None:
            return "Nothing is judged yet."
        share = f"{first} is preferred to {second} in {_percent(sequence.mean)} of {n:,} articles"
        ends = (
            f"ties count half; 95% sequence {_percent(sequence.low)} to {_percent(sequence.high)}"
        )
        if not sequence.is_settled:
            return f"{share} ({ends}): not settled."
        better = first if sequence.low >= 0.5 else second
        after = f"settled after {sequence.settled_after:,}"
        return f"{share} ({ends}): {after}, {better} is better."


def standing(clicks: Sequence[Click], systems: tuple[str, str]) -> Standing:
    """Return what clicks show, in their order."""
    scores = [score_of(click, systems[0]) for click in clicks]
    return Standing(
        systems=systems,
        wins=(scores.count(1.0), scores.count(0.5), scores.count(0.0)),
        sequence=confidence_sequence(np.array(scores)),
        left=confidence_sequence(np.array([score_of_left(click) for click in clicks])),
    )


def is_settled(clicks: Sequence[Click], systems: tuple[str, str]) -> bool:
    """Return whether one of the two systems is preferred."""
    return bool(refuted(np.array([score_of(click, systems[0]) for click in clicks]), 0.5).any())


def describe(pair: Pair, rows: Mapping[str, Sequence[Click]]) -> dict[str, Any] | None:
    """Return what the report says of a pair of systems; None if nobody has judged it.

    For `all` judges the first click on each article counts: further ones on it say how far judges
    agree, and would count an article twice.

    Args:
        pair: The systems and their summaries.
        rows: The lines of each judge's file.
    """
    valid = {judge: pair.clicks(lines) for judge, lines in rows.items()}
    judges = {judge: clicks for judge, (clicks, _) in valid.items() if clicks}
    if not judges:
        return None
    in_time = sorted(itertools.chain(*judges.values()), key=lambda click: click["time"])
    clicks_on: dict[str, list[Click]] = {}
    for click in in_time:
        clicks_on.setdefault(click["id"], []).append(click)
    firsts = [clicks[0] for clicks in clicks_on.values()]
    lines = [_line(judge, clicks, pair) for judge, clicks in judges.items()]
    if len(judges) > 1:
        lines.append(_line("all, first clicks", firsts, pair))
    by_score = {
        article: statistics.fmean(score_of(click, pair.systems[0]) for click in clicks)
        for article, clicks in clicks_on.items()
    }
    return {
        "systems": pair.systems,
        "words": standing(firsts, pair.systems).words,
        "lines": lines,
        "articles": len(pair.items),
        "same": pair.same,
        "changed": sum(changed for _, changed in valid.values()),
        "powered": _powered(pair, firsts),
        "agreement": _agreement(judges, pair),
        **_against_rouge(pair, by_score),
        **_rejected(pair, clicks_on),
    }


def _line(name: str, clicks: Sequence[Click], pair: Pair) -> dict[str, Any]:
    result = standing(clicks, pair.systems)
    return {
        "judge": name,
        "wins": result.wins,
        "sequence": result.sequence,
        "left": result.left,
        "seconds": statistics.median(click["seconds"] for click in clicks),
        "seen": sum(click["seen"] for click in clicks),
    }


def _powered(pair: Pair, clicks: Sequence[Click]) -> dict[str, Any] | None:
    judged = {click["id"] for click in clicks}
    others = [item.features for item in pair.items.values() if item.id not in judged]
    powered = prediction_powered(
        np.array([score_of(click, pair.systems[0]) for click in clicks]),
        np.array([pair.items[click["id"]].features for click in clicks]),
        np.array(others).reshape(-1, len(FEATURES)),
    )
    return asdict(powered) if powered else None


def _agreement(judges: Mapping[str, Sequence[Click]], pair: Pair) -> dict[str, Any] | None:
    """Return alpha over second, neither and first preferred, and on how many articles.

    `same` is whether all clicks on them are the same, so that alpha is not defined.
    """
    column = {article: at for at, article in enumerate(pair.items)}
    values = np.full((len(judges), len(column)), math.nan)
    for row, clicks in enumerate(judges.values()):
        for click in clicks:
            values[row, column[click["id"]]] = 2 * score_of(click, pair.systems[0])
    several = int(((~np.isnan(values)).sum(axis=0) > 1).sum())
    if not several:
        return None
    alpha = agreement(values, levels=3)
    return {"articles": several, "same": math.isnan(alpha.mean), **asdict(alpha)}


def _against_rouge(pair: Pair, by_score: Mapping[str, float]) -> dict[str, Any]:
    """Return how often people and ROUGE-Lsum prefer different systems, and the widest cases."""
    decided = [
        (pair.items[article], score)
        for article, score in by_score.items()
        if score != 0.5 and pair.items[article].rouge
    ]
    against = [item for item, score in decided if (score - 0.5) * item.rouge < 0]
    against.sort(key=lambda item: (-abs(item.rouge), item.id))
    first, second = pair.systems
    return {
        "decided": len(decided),
        "against": len(against),
        "against_examples": [
            _example(
                pair,
                item,
                f"people prefer {second if item.rouge > 0 else first}, ROUGE-Lsum "
                f"{first if item.rouge > 0 else second} by {abs(item.rouge):.1f} points",
            )
            for item in against[:_SHOWN]
        ],
    }


def _rejected(pair: Pair, clicks_on: Mapping[str, Sequence[Click]]) -> dict[str, Any]:
    """Return the articles of which both summaries were called bad or a part was marked as wrong."""
    rejected = []
    for article, clicks in clicks_on.items():
        bad = sum(click["verdict"] == "bad" for click in clicks)
        spans = [span for click in clicks for span in click["wrong"]]
        if bad or spans:
            rejected.append((bad, len(spans), article, spans))
    rejected.sort(key=lambda row: (-row[0], -row[1], row[2]))
    return {
        "bad": sum(bad > 0 for bad, *_ in rejected),
        "marked": sum(marked > 0 for _, marked, *_ in rejected),
        "rejected": len(rejected),
        "rejected_examples": [
            _example(
                pair,
                pair.items[article],
                f"both bad: {bad} of {len(clicks_on[article])} clicks; parts marked as wrong: {n}",
                spans,
            )
            for bad, n, article, spans in rejected[:_SHOWN]
        ],
    }


def _example(
    pair: Pair, item: Item, why: str, wrong: Sequence[Mapping[str, Any]] = ()
) -> dict[str, Any]:
    """Return a row as `evaluation.examples` has them."""
    flags: dict[str, list[tuple[int, int, str]]] = {
        name: [] for name in ("reference", *pair.systems)
    }
    for span in wrong:
        flags[span["system"]].append((span["start"], span["end"], "marked as wrong"))
    return {
        "id": item.id,
        "article": item.article,
        "reference": item.reference,
        "summaries": dict(zip(pair.systems, item.texts, strict=True)),
        "flags": flags,
        "why": why,
    }


def _percent(share: float) -> str:
    return f"{100 * share:.0f}%"
