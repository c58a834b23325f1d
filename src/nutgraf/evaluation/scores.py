"""Score summaries that any program wrote: ROUGE with intervals, and indicators."""

from __future__ import annotations

import functools
import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from nutgraf.config import ScoreConfig
from nutgraf.config.evaluation import RougeTokenizer
from nutgraf.core.errors import UserError
from nutgraf.data.generator_marks import without_marks
from nutgraf.data.rouge_tokens import (
    MIN_LETTERS,
    check_letters,
    has_rouge_tokens,
    letters_counted,
)
from nutgraf.data.text import TextError, usable_text
from nutgraf.evaluation import indicators, rouge
from nutgraf.evaluation.bootstrap import Interval, bootstrap
from nutgraf.parallel.process_pool import map_rows

_SIDES = ("precision", "recall")
# How many rows take about as long as starting a process: ROUGE alone, and with indicators.
_ROWS_PER_PROCESS = {False: 500, True: 100}


@dataclass(frozen=True)
class Row:
    """A summary with its references and, for indicators, its article; `name` is for messages.

    `marks` counts what generators had left in them.
    """

    name: str
    references: tuple[str, ...]
    summary: str
    article: str | None = None
    id: str | None = None
    marks: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Rouge(Interval):
    """A mean F1 over the rows with its 95% interval, and the means of precision and recall."""

    precision: float
    recall: float


@dataclass(frozen=True)
class Scores:
    """Scores of `n` summaries: ROUGE, 0 to 100, with 95% bootstrap intervals over the rows.

    Of several references the best by F1 counts, for each ROUGE type, as in rouge-score's
    `score_multi`; `mean_of_references` has F1 averaged over them, and is empty if no row has
    several. An interval's ends are NaN below `bootstrap.MIN_VALUES` rows.

    `without_words` counts the summaries without a word, which score 0, and `marks_cleaned` the
    marks of generators (`<n>`, `&#39;`) that are not scored. `letters_counted` has the
    share of letters that the tokenizer counts, 0 to 1, in the mean reference and summary, and
    `rows_below_limit`. `indicators` are means over the summaries of the indicators in
    `indicators.MEANINGS`, `reference_indicators` those of the references, both averaged over a
    row's references first, and empty without articles. `signature` lists what the figures depend
    on, `rows` the scores of each row.
    """

    n: int
    rouge1: Rouge
    rouge2: Rouge
    rougeL: Rouge  # noqa: N815 (the name of the figure)
    rougeLsum: Rouge  # noqa: N815
    mean_of_references: dict[str, Interval]
    without_words: int
    marks_cleaned: dict[str, int]
    letters_counted: dict[str, float]
    indicators: dict[str, float]
    reference_indicators: dict[str, float]
    signature: dict[str, str | int | bool]
    rows: list[dict[str, Any]] = field(repr=False)

    def record(self) -> dict[str, Any]:
        """Return the scores for JSON, rounded to 4 digits; without what is empty and the rows.

        An interval that is not given has null for its ends.
        """
        record = asdict(self)
        del record["rows"]
        return {name: rounded(value) for name, value in record.items() if value != {}}


def clean_row(
    name: str,
    texts: Mapping[str, Any],
    columns: Mapping[str, Sequence[str]] | None = None,
    identity: object = None,
) -> Row:
    """Return a row of clean texts; `columns` names the columns of each in a message.

    All lose the marks that generators leave, or what an article shares would seem to be new.
    Of several references some may be empty: they are as many as the row has. Raises UserError for
    no reference, or a text that is none.
    """
    reference = texts["reference"]
    several = isinstance(reference, Iterable) and not isinstance(reference, str | bytes | Mapping)
    references = [*reference] if several else [reference]
    marks = Counter[str]()

    def clean(kind: str, value: object) -> str:
        try:
            text = usable_text(value)
            text, removed = without_marks(text)
            if kind != "article":  # whose marks are no fault of a summary
                marks.update(removed)
            if not text.strip():
                raise TextError("empty")
            return text
        except TextError as error:
            blank = error.reason == "empty" or (kind == "reference" and error.reason == "missing")
            if blank and (kind == "summary" or (kind == "reference" and len(references) > 1)):
                return ""
            column = f" in column {', '.join(columns[kind])!r}" if columns else ""
            raise UserError(
                f"{name}: the {kind}{column} is {error}: correct it or leave the row out"
            ) from None

    clean_references = tuple(filter(None, (clean("reference", text) for text in references)))
    if not clean_references:
        raise UserError(f"{name}: all its references are empty: give it one or leave the row out")
    article = clean("article", texts["article"]) if "article" in texts else None
    summary = clean("summary", texts["summary"])
    name_of_row = None if identity is None else str(identity)
    return Row(name, clean_references, summary, article, name_of_row, marks)


def score_rows(
    rows: Sequence[Row],
    tokenizer: RougeTokenizer,
    *,
    what: str,
    knob: str,
    flags: bool = False,
    processes: int | None = None,
    progress: str | None = None,
) -> Scores:
    """Score all rows, at least one.

    Args:
        rows: The summaries; with articles in all of them or in none.
        tokenizer: That of ROUGE.
        what: What the references are, for a message.
        knob: What chooses the other tokenizer, for a message.
        flags: Whether each of the `rows` of the result has the flagged spans of its summary.
        processes: At most so many, instead of one for each core.
        progress: The label of a progress bar.

    Raises:
        UserError: A reference has no word, or too few letters of them count.
    """
    letters = {"references": 1.0, "summaries": 1.0, "rows_below_limit": 0}
    if tokenizer == "rouge-score":
        shares = [min(map(letters_counted, row.references)) for row in rows]
        letters = {
            "references": check_letters(shares, what, knob),
            "summaries": float(np.mean([letters_counted(row.summary) for row in rows])),
            "rows_below_limit": sum(share < MIN_LETTERS for share in shares),
        }
    several = any(len(row.references) > 1 for row in rows)
    measured = map_rows(
        functools.partial(_measure, tokenizer=tokenizer, several=several, flags=flags),
        rows,
        rows_per_process=_ROWS_PER_PROCESS[rows[0].article is not None],
        processes=processes,
        progress=progress,
    )
    per_row, of_references = (list(part) for part in zip(*measured, strict=True))
    config = ScoreConfig(tokenizer=tokenizer)

    def interval(name: str) -> Interval:
        return bootstrap([row[name] for row in per_row], config.resamples, config.seed)

    def mean(names: Iterable[str], of: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        return {name: float(np.mean([row[name] for row in of])) for name in names}

    return Scores(
        n=len(rows),
        **{
            kind: Rouge(
                **asdict(interval(kind)),
                **{end: mean([f"{kind}_{end}"], per_row)[f"{kind}_{end}"] for end in _SIDES},
            )
            for kind in rouge.ROUGE_TYPES
        },
        mean_of_references={
            kind: interval(f"{kind}_mean") for kind in rouge.ROUGE_TYPES if several
        },
        without_words=sum(not has_rouge_tokens(row.summary, tokenizer) for row in rows),
        marks_cleaned=dict(sum((Counter(row.marks) for row in rows), Counter[str]())),
        letters_counted=letters,
        indicators=mean(of_references[0], per_row),
        reference_indicators=mean(of_references[0], of_references),
        signature=rouge.rouge_signature(**config.model_dump())
        | ({"references": "the best by F1"} if several else {}),
        rows=per_row,
    )


def _measure(
    row: Row, tokenizer: RougeTokenizer, several: bool, flags: bool
) -> tuple[dict[str, Any], dict[str, float]]:
    """Return the row's scores, ready for JSON, and its references' indicators."""
    try:
        matches = [rouge.match(text, row.summary, tokenizer) for text in row.references]
    except UserError as error:
        raise UserError(f"{row.name}: {error}") from None
    scores: dict[str, Any] = {} if row.id is None else {"id": row.id}
    for kind in rouge.ROUGE_TYPES:
        best = max((match[kind] for match in matches), key=lambda match: match.fmeasure)
        scores |= {kind: best.fmeasure} | {f"{kind}_{end}": getattr(best, end) for end in _SIDES}
        if several:
            scores[f"{kind}_mean"] = statistics.fmean(match[kind].fmeasure for match in matches)
    of_reference: dict[str, float] = {}
    if row.article is not None:
        judges = [(indicators.SummaryJudge(row.article, text), text) for text in row.references]
        of_summary = [judge.indicators(row.summary) for judge, _ in judges]
        of_text = [judge.indicators(text) for judge, text in judges]
        for name in of_summary[0]:
            scores[name] = statistics.fmean(values[name] for values in of_summary)
            of_reference[name] = statistics.fmean(values[name] for values in of_text)
        if flags:
            scores["flags"] = [
                {"start": start, "end": end, "kind": kind, "text": row.summary[start:end]}
                for start, end, kind in indicators.flagged_spans(row.article, row.summary)
            ]
    return scores, of_reference


def rounded(value: Any) -> Any:
    """Return a value for JSON: numbers to 4 digits, None for NaN."""
    if isinstance(value, dict):
        return {name: rounded(item) for name, item in value.items()}
    if isinstance(value, float):
        return None if math.isnan(value) else round(value, 4)
    return value
