"""Which summaries to show a reader, and what to mark in them."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nutgraf.data.rows import Article
from nutgraf.evaluation import indicators

Record = Mapping[str, Any]


def examples_by_score(
    test: Sequence[Article],
    summaries: Mapping[str, Sequence[Record]],
    scores: Sequence[Record],
    system: str,
    count: int = 10,
) -> list[dict[str, Any]]:
    """Articles along the range of the ROUGE-Lsum of `system`, evenly by rank, worst to best.

    `summaries` by system and `scores` of `system` are rows in the order of `test`. Gives id,
    article, reference, summaries by system, why, and flags by system and for the `reference`: what
    is copied, what an indicator objects to and, in the reference, what `system` misses.
    """
    by_score = sorted(range(len(test)), key=lambda i: scores[i]["rougeLsum"])
    count = min(count, len(test))
    ranks = sorted({round(k * (len(test) - 1) / max(1, count - 1)) for k in range(count)})
    chosen = []
    for rank in ranks:
        i = by_score[rank]
        article, reference = test[i].article, test[i].reference
        written = {name: rows[i] for name, rows in summaries.items()}
        missed = indicators.missed_key_facts(article, reference, written[system]["text"])
        chosen.append(
            {
                "id": test[i].id,
                "article": article,
                "reference": reference,
                "summaries": {name: row["text"] for name, row in written.items()},
                "flags": {
                    "reference": sorted(_flags(article, reference) + missed),
                    **{
                        name: _flags(article, row["text"], row["finish_reason"])
                        for name, row in written.items()
                    },
                },
                "why": f"rank {rank + 1} of {len(test)} by ROUGE-Lsum of {system} "
                f"({scores[i]['rougeLsum']:.1f}), from the worst",
            }
        )
    return chosen


def examples_by_fault(
    test: Sequence[Article],
    summaries: Sequence[Record],
    scores: Sequence[Record],
    system: str,
    count: int = 5,
) -> list[dict[str, Any]]:
    """The `count` worst and the `count` most typical summaries of `system` for each kind of error.

    Worst: the highest indicator, then the lowest ROUGE-Lsum. Typical: of the others, those nearest
    to the median of all flagged ones, first by the indicator, then by ROUGE-Lsum. Rows in the order
    of `test`. Gives system, kind, flagged (how many summaries of it are), place (`worst` or
    `typical`), value (of the indicator), rougeLsum, id, article, reference, summary, and flags for
    `reference` and `summary`: the spans of this kind.
    """
    chosen = []
    for kind in indicators.FAULTS:
        flagged = [i for i, row in enumerate(scores) if row[kind] > 0]
        worst = sorted(flagged, key=lambda i: (-scores[i][kind], scores[i]["rougeLsum"]))[:count]
        others = [i for i in flagged if i not in worst]
        typical = sorted(others, key=_far_from_median(scores, flagged, kind))[:count]
        for place, indices in (("worst", worst), ("typical", typical)):
            for i in indices:
                article, reference = test[i].article, test[i].reference
                text = summaries[i]["text"]
                wrong = indicators.flagged_spans(article, text, summaries[i]["finish_reason"])
                lacking = indicators.missed_key_facts(article, reference, text)
                chosen.append(
                    {
                        "system": system,
                        "kind": kind,
                        "flagged": len(flagged),
                        "place": place,
                        "value": scores[i][kind],
                        "rougeLsum": scores[i]["rougeLsum"],
                        "id": test[i].id,
                        "article": article,
                        "reference": reference,
                        "summary": text,
                        "flags": {
                            "reference": [span for span in lacking if span[2] == kind],
                            "summary": [span for span in wrong if span[2] == kind],
                        },
                    }
                )
    return chosen


def _flags(article: str, text: str, finish_reason: str | None = None) -> list[indicators.Span]:
    return sorted(
        indicators.copied_spans(article, text)
        + indicators.flagged_spans(article, text, finish_reason)
    )


def _far_from_median(
    scores: Sequence[Record], flagged: Sequence[int], kind: str
) -> Callable[[int], tuple[float, float]]:
    if not flagged:
        return lambda i: (0.0, 0.0)
    value = statistics.median(scores[i][kind] for i in flagged)
    rouge = statistics.median(scores[i]["rougeLsum"] for i in flagged)
    return lambda i: (abs(scores[i][kind] - value), abs(scores[i]["rougeLsum"] - rouge))
