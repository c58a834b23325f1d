"""Choose summaries to show a reader, and what to mark in them."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
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
    """Choose articles along the range of a system's ROUGE-Lsum, evenly by rank, worst to best.

    Args:
        test: The articles.
        summaries: Rows of each system, in the order of `test`.
        scores: Rows of `system`, in the order of `test`.
        system: The system whose scores count.
        count: How many articles to choose.

    Returns:
        Rows of id, article, reference, summaries by system, flags by system and for the
        `reference` (what is copied, what an indicator objects to and, in the reference, what
        `system` misses), and why.
    """
    by_score = sorted(range(len(test)), key=lambda i: scores[i]["rougeLsum"])
    count = min(count, len(test))
    rows = []
    for rank in sorted({round(k * (len(test) - 1) / max(1, count - 1)) for k in range(count)}):
        i = by_score[rank]
        article, reference = test[i].article, test[i].reference
        texts = {name: records[i]["text"] for name, records in summaries.items()}
        missed = indicators.missed_key_facts(article, reference, texts[system])
        flags = {"reference": sorted(_flags(article, reference) + missed)}
        for name, records in summaries.items():
            flags[name] = _flags(article, texts[name], records[i]["finish_reason"])
        rows.append(
            {
                "id": test[i].id,
                "article": article,
                "reference": reference,
                "summaries": texts,
                "flags": flags,
                "why": f"rank {rank + 1} of {len(test)} by ROUGE-Lsum of {system} "
                f"({scores[i]['rougeLsum']:.1f}), from the worst",
            }
        )
    return rows


def examples_by_fault(
    test: Sequence[Article],
    summaries: Sequence[Record],
    scores: Sequence[Record],
    system: str,
    count: int = 5,
) -> list[dict[str, Any]]:
    """Choose the worst and the most typical summaries of a system for each kind of error.

    Worst: the highest indicator, then the lowest ROUGE-Lsum. Typical: of the others, those nearest
    to the median of all flagged ones, first by the indicator, then by ROUGE-Lsum.

    Args:
        test: The articles.
        summaries: Rows of the system, in the order of `test`.
        scores: Rows of the system, in the order of `test`.
        system: Its name.
        count: How many worst, and how many typical ones.

    Returns:
        Rows of system, kind, flagged (how many summaries are), place (`worst` or `typical`), value
        (of the indicator), rougeLsum, id, article, reference, summary, and flags for `reference`
        and `summary`: the spans of this kind.
    """
    rows = []
    for kind in indicators.FAULTS:
        values = {i: (row[kind], row["rougeLsum"]) for i, row in enumerate(scores) if row[kind] > 0}
        if not values:
            continue
        middle, rouge = map(statistics.median, zip(*values.values(), strict=True))
        worst = sorted(values, key=lambda i: (-values[i][0], values[i][1]))[:count]
        typical = sorted(
            values.keys() - set(worst),
            key=lambda i: (abs(values[i][0] - middle), abs(values[i][1] - rouge), i),
        )[:count]
        for place, indices in (("worst", worst), ("typical", typical)):
            for i in indices:
                article, reference = test[i].article, test[i].reference
                text = summaries[i]["text"]
                flagged = indicators.flagged_spans(article, text, summaries[i]["finish_reason"])
                missed = indicators.missed_key_facts(article, reference, text)
                rows.append(
                    {
                        "system": system,
                        "kind": kind,
                        "flagged": len(values),
                        "place": place,
                        "value": scores[i][kind],
                        "rougeLsum": scores[i]["rougeLsum"],
                        "id": test[i].id,
                        "article": article,
                        "reference": reference,
                        "summary": text,
                        "flags": {
                            "reference": [span for span in missed if span[2] == kind],
                            "summary": [span for span in flagged if span[2] == kind],
                        },
                    }
                )
    return rows


def _flags(article: str, text: str, finish_reason: str | None = None) -> list[indicators.Span]:
    return sorted(
        indicators.copied_spans(article, text)
        + indicators.flagged_spans(article, text, finish_reason)
    )
