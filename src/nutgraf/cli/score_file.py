"""ROUGE with intervals, and indicators, for any file of summaries."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nutgraf.config import ScoreConfig
from nutgraf.core.errors import UserError, did_you_mean, visible
from nutgraf.data import tables
from nutgraf.data.text import UnusableText, usable_text
from nutgraf.evaluation import bootstrap
from nutgraf.evaluation import indicators as errors
from nutgraf.evaluation import rouge as metrics
from nutgraf.parallel.process_pool import map_rows

# How many rows take about as long as starting a process: ROUGE alone, and with indicators.
_ROWS_PER_PROCESS = {False: 500, True: 100}


@dataclass(frozen=True)
class _Row:
    name: str
    reference: str
    summary: str
    article: str | None


@dataclass(frozen=True)
class _Measured:
    rouge: dict[str, float]
    indicators: dict[str, float]
    reference_indicators: dict[str, float]


@dataclass(frozen=True)
class Scores:
    """Scores of `n` summaries: ROUGE F1, 0 to 100, with 95% bootstrap intervals over the rows.

    `indicators` are the means that `errors.MEANINGS` explains, of the summaries, and
    `reference_indicators` those of the references; both are empty without articles. `signature`
    says what the figures depend on.
    """

    n: int
    rouge1: bootstrap.Interval
    rouge2: bootstrap.Interval
    rougeL: bootstrap.Interval  # noqa: N815 (the name of the figure)
    rougeLsum: bootstrap.Interval  # noqa: N815
    indicators: dict[str, float]
    reference_indicators: dict[str, float]
    signature: dict[str, str | int | bool]

    def record(self) -> dict[str, Any]:
        """Return them for JSON, rounded to 4 digits; without indicators if there are none."""
        found = asdict(self)
        for kind in metrics.ROUGE_TYPES:
            found[kind] = {name: round(value, 4) for name, value in found[kind].items()}
        for name in ("indicators", "reference_indicators"):
            found[name] = {kind: round(mean, 4) for kind, mean in found[name].items()}
            if not found[name]:
                del found[name]
        return found


def run(path: Path, reference: str, summary: str, article: str | None, as_json: bool) -> None:
    """Print the scores of the summaries in a JSONL, CSV or Parquet file, as a table or as JSON.

    `reference`, `summary` and `article` are names of columns; without articles there are no
    indicators. A summary may be empty, which scores 0. Raises UserError naming the file, and the
    column or the row, where there is no row, no such column, no text, or no reference.
    """
    rows = list(_read(path, reference, summary, article))
    if not rows:
        raise UserError(f"{path} holds no row: there is nothing to score")
    found = _scores(rows, progress=visible(path.name))
    shown = (
        json.dumps(found.record()) if as_json else "\n".join(_as_text(visible(str(path)), found))
    )
    print(shown)


def score(
    summaries: Sequence[str],
    references: Sequence[str],
    articles: Sequence[str] | None = None,
    processes: int = 1,
) -> Scores:
    """Return the scores of summaries in memory, in `processes`; see `nutgraf.score`."""
    lengths = {"summaries": len(summaries), "references": len(references)}
    if articles is not None:
        lengths["articles"] = len(articles)
    if len(set(lengths.values())) > 1 or not summaries:
        counts = ", ".join(f"{n} {what}" for what, n in lengths.items())
        raise UserError(f"{counts}: give equally many, at least one")
    texts = articles if articles is not None else [None] * len(summaries)
    rows = [
        _Row(
            f"row {number}",
            _clean(reference, f"row {number}: the reference"),
            _clean(summary, f"row {number}: the summary", may_be_empty=True),
            None if articles is None else _clean(article, f"row {number}: the article"),
        )
        for number, (summary, reference, article) in enumerate(
            zip(summaries, references, texts, strict=True), 1
        )
    ]
    return _scores(rows, processes)


def _scores(
    rows: Sequence[_Row], processes: int | None = None, progress: str | None = None
) -> Scores:
    measured = map_rows(
        _measure,
        rows,
        rows_per_process=_ROWS_PER_PROCESS[rows[0].article is not None],
        processes=processes,
        progress=progress,
    )
    return _result(measured, ScoreConfig())


def _read(path: Path, reference: str, summary: str, article: str | None) -> Iterator[_Row]:
    for number, row in enumerate(tables.read_rows(path), 1):
        name = f"{path} row {number}"
        yield _Row(
            name,
            _text(row, reference, name, "reference"),
            _text(row, summary, name),
            None if article is None else _text(row, article, name, "article"),
        )


def _text(row: Mapping[str, Any], column: str, name: str, needed: str | None = None) -> str:
    """The row's text in that column; `needed` says what it may not be empty of."""
    if column not in row:
        raise UserError(
            f"{name} has no column {column!r}{did_you_mean(column, row)} "
            f"(it has {tables.listed(row)})"
        )
    what = f"{name}: the {needed or 'summary'} in column {column!r}"
    return _clean(row[column], what, may_be_empty=not needed)


def _clean(value: object, what: str, may_be_empty: bool = False) -> str:
    try:
        return usable_text(value)
    except UnusableText as error:
        if error.reason == "empty" and may_be_empty:
            return ""
        raise UserError(f"{what} is {error}: correct it or leave the row out") from None


def _measure(row: _Row) -> _Measured:
    try:
        rouge = metrics.score_rouge(row.reference, row.summary)
    except UserError as error:
        raise UserError(f"{row.name}: {error}") from None
    if row.article is None:
        return _Measured(rouge, {}, {})
    judge = errors.Judge(row.article, row.reference)
    return _Measured(rouge, judge.indicators(row.summary), judge.indicators(row.reference))


def _result(measured: Sequence[_Measured], settings: ScoreConfig) -> Scores:
    rouge = {
        kind: bootstrap.bootstrap(
            [row.rouge[kind] for row in measured], settings.resamples, settings.seed
        )
        for kind in metrics.ROUGE_TYPES
    }
    return Scores(
        n=len(measured),
        **rouge,
        indicators=_means([row.indicators for row in measured]),
        reference_indicators=_means([row.reference_indicators for row in measured]),
        signature=metrics.rouge_signature(settings.seed, settings.resamples),
    )


def _means(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


def _as_text(path: str, scores: Scores) -> Iterator[str]:
    found = scores.record()
    yield f"{scores.n:,} summaries of {path}: ROUGE F1, 0 to 100, with 95% bootstrap intervals"
    for kind in metrics.ROUGE_TYPES:
        score = found[kind]
        yield f"{kind:<10}{score['mean']:8.2f}   {score['low']:.2f} to {score['high']:.2f}"
    if "indicators" in found:
        yield f"{'mean of':<20}{'summaries':>11}{'references':>12}"
        for name, mean in found["indicators"].items():
            own = found["reference_indicators"][name]
            yield f"{name:<20}{mean:11.3f}{own:12.3f}   {errors.MEANINGS[name]}"
    yield "; ".join(f"{name} {value}" for name, value in found["signature"].items())
