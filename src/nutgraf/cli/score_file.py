"""Score any file of summaries: ROUGE with intervals, and indicators."""

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
from nutgraf.data.text import TextError, usable_text
from nutgraf.evaluation import indicators, rouge
from nutgraf.evaluation.bootstrap import Interval, bootstrap
from nutgraf.parallel.process_pool import map_rows

# How many rows take about as long as starting a process: ROUGE alone, and with indicators.
_ROWS_PER_PROCESS = {False: 500, True: 100}


@dataclass(frozen=True)
class _Row:
    name: str
    reference: str
    summary: str
    article: str | None = None


@dataclass(frozen=True)
class Scores:
    """Scores of `n` summaries: ROUGE F1, 0 to 100, with 95% bootstrap intervals over the rows.

    `indicators` are means over the summaries of the indicators in `indicators.MEANINGS`, and
    `reference_indicators` those over the references; both are empty without articles. `signature`
    lists what the figures depend on.
    """

    n: int
    rouge1: Interval
    rouge2: Interval
    rougeL: Interval  # noqa: N815 (the name of the figure)
    rougeLsum: Interval  # noqa: N815
    indicators: dict[str, float]
    reference_indicators: dict[str, float]
    signature: dict[str, str | int | bool]

    def record(self) -> dict[str, Any]:
        """Return the scores for JSON, rounded to 4 digits; without indicators if there are none."""
        record = asdict(self)
        for name in (*rouge.ROUGE_TYPES, "indicators", "reference_indicators"):
            record[name] = {key: round(value, 4) for key, value in record[name].items()}
        return {name: value for name, value in record.items() if value != {}}


def run(path: Path, columns: Mapping[str, str], as_json: bool) -> None:
    """Print the scores of the summaries in a JSONL, CSV or Parquet file, as a table or as JSON.

    A summary may be empty, which scores 0.

    Args:
        path: The file.
        columns: Names of its columns for "reference", "summary" and, if indicators are wanted,
            "article".
        as_json: Print one JSON object.

    Raises:
        UserError: There is no row, a column is missing, or a row has no text or no reference.
    """
    rows = list(_read(path, columns))
    if not rows:
        raise UserError(f"{path} holds no row: there is nothing to score")
    scores = _scores(rows, progress=visible(path.name))
    lines = [json.dumps(scores.record())] if as_json else _table(visible(str(path)), scores)
    print(*lines, sep="\n")


def score_texts(texts: Mapping[str, Sequence[str]], processes: int) -> Scores:
    """Return the scores of equally long lists: "reference", "summary" and maybe "article"."""
    rows = [
        _row(f"row {number}", dict(zip(texts, row, strict=True)))
        for number, row in enumerate(zip(*texts.values(), strict=True), 1)
    ]
    return _scores(rows, processes)


def _read(path: Path, columns: Mapping[str, str]) -> Iterator[_Row]:
    for number, row in enumerate(tables.read_rows(path), 1):
        name = f"{path} row {number}"
        for column in columns.values():
            if column not in row:
                raise UserError(
                    f"{name} has no column {column!r}{did_you_mean(column, row)} "
                    f"(it has {tables.listed(row)})"
                )
        yield _row(name, {kind: row[column] for kind, column in columns.items()}, columns)


def _row(name: str, texts: Mapping[str, object], columns: Mapping[str, str] | None = None) -> _Row:
    """Clean the texts of a row; `columns` names the column of each in a message."""
    clean = {}
    for kind, text in texts.items():
        try:
            clean[kind] = usable_text(text)
        except TextError as error:
            if (kind, error.reason) != ("summary", "empty"):
                column = f" in column {columns[kind]!r}" if columns else ""
                raise UserError(
                    f"{name}: the {kind}{column} is {error}: correct it or leave the row out"
                ) from None
            clean[kind] = ""
    return _Row(name, **clean)


def _measure(row: _Row) -> tuple[dict[str, float], dict[str, float], dict[str, float]]:
    """Return the row's ROUGE, its summary's indicators and its reference's."""
    try:
        scores = rouge.score_rouge(row.reference, row.summary)
    except UserError as error:
        raise UserError(f"{row.name}: {error}") from None
    if row.article is None:
        return scores, {}, {}
    judge = indicators.SummaryJudge(row.article, row.reference)
    return scores, judge.indicators(row.summary), judge.indicators(row.reference)


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
    per_row, of_summaries, of_references = zip(*measured, strict=True)
    config = ScoreConfig()
    return Scores(
        n=len(rows),
        **{
            kind: bootstrap([row[kind] for row in per_row], config.resamples, config.seed)
            for kind in rouge.ROUGE_TYPES
        },
        indicators=_means(of_summaries),
        reference_indicators=_means(of_references),
        signature=rouge.rouge_signature(config.seed, config.resamples),
    )


def _means(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


def _table(path: str, scores: Scores) -> Iterator[str]:
    yield f"{scores.n:,} summaries of {path}: ROUGE F1, 0 to 100, with 95% bootstrap intervals"
    for kind in rouge.ROUGE_TYPES:
        interval = getattr(scores, kind)
        yield f"{kind:<10}{interval.mean:8.2f}   {interval.low:.2f} to {interval.high:.2f}"
    if scores.indicators:
        yield f"{'mean of':<20}{'summaries':>11}{'references':>12}"
        for name, mean in scores.indicators.items():
            reference = scores.reference_indicators[name]
            yield f"{name:<20}{mean:11.3f}{reference:12.3f}   {indicators.MEANINGS[name]}"
    yield "; ".join(f"{name} {value}" for name, value in scores.signature.items())
