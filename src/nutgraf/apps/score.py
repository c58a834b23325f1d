"""ROUGE with intervals, and indicators, for any file of summaries."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nutgraf import errors, metrics, tables
from nutgraf.cores import spread
from nutgraf.problems import UserError, visible
from nutgraf.section import did_you_mean
from nutgraf.settings import ScoreConfig
from nutgraf.text import Unusable, usable

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


def run(path: Path, reference: str, summary: str, article: str | None, as_json: bool) -> None:
    """Print the scores of the summaries in a JSONL, CSV or Parquet file, as a table or as JSON.

    `reference`, `summary` and `article` are names of columns; without articles there are no
    indicators. A summary may be empty, which scores 0. Raises UserError naming the file, and the
    column or the row, where there is no row, no such column, no text, or no reference.
    """
    rows = list(_read(path, reference, summary, article))
    if not rows:
        raise UserError(f"{path} holds no row: there is nothing to score")
    measured = spread(
        _measure,
        rows,
        rows_per_process=_ROWS_PER_PROCESS[article is not None],
        progress=visible(path.name),
    )
    found = _result(measured, ScoreConfig())
    print(json.dumps(found) if as_json else "\n".join(_as_text(visible(str(path)), found)))


def _read(path: Path, reference: str, summary: str, article: str | None) -> Iterator[_Row]:
    for number, row in enumerate(tables.rows(path), 1):
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
    try:
        return usable(row[column])
    except Unusable as error:
        if error.reason == "empty" and not needed:
            return ""
        what = needed or "summary"
        raise UserError(
            f"{name}: the {what} in column {column!r} is {error}: correct it or leave the row out"
        ) from None


def _measure(row: _Row) -> _Measured:
    try:
        rouge = metrics.rouge(row.reference, row.summary)
    except UserError as error:
        raise UserError(f"{row.name}: {error}") from None
    if row.article is None:
        return _Measured(rouge, {}, {})
    judge = errors.Judge(row.article, row.reference)
    return _Measured(rouge, judge.indicators(row.summary), judge.indicators(row.reference))


def _result(measured: Sequence[_Measured], settings: ScoreConfig) -> dict[str, Any]:
    found: dict[str, Any] = {"n": len(measured)}
    for kind in metrics.ROUGE_TYPES:
        values = [row.rouge[kind] for row in measured]
        interval = metrics.bootstrap(values, settings.resamples, settings.seed)
        found[kind] = {name: round(value, 4) for name, value in asdict(interval).items()}
    if measured[0].indicators:
        found["indicators"] = _means([row.indicators for row in measured])
        found["reference_indicators"] = _means([row.reference_indicators for row in measured])
    found["signature"] = metrics.signature(settings.seed, settings.resamples)
    return found


def _means(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: round(float(np.mean([row[name] for row in rows])), 4) for name in rows[0]}


def _as_text(path: str, found: Mapping[str, Any]) -> Iterator[str]:
    yield f"{found['n']:,} summaries of {path}: ROUGE F1, 0 to 100, with 95% bootstrap intervals"
    for kind in metrics.ROUGE_TYPES:
        score = found[kind]
        yield f"{kind:<10}{score['mean']:8.2f}   {score['low']:.2f} to {score['high']:.2f}"
    if "indicators" in found:
        yield f"{'mean of':<20}{'summaries':>11}{'references':>12}"
        for name, mean in found["indicators"].items():
            own = found["reference_indicators"][name]
            yield f"{name:<20}{mean:11.3f}{own:12.3f}   {errors.MEANINGS[name]}"
    yield "; ".join(f"{name} {value}" for name, value in found["signature"].items())
