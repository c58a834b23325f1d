"""Score the summaries of any table, or of two text files."""

from __future__ import annotations

import ast
import io
import json
import logging
import math
import re
import tokenize
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm

from nutgraf.cli.check_facts import checked, reading_model, summed_up
from nutgraf.config import ModelConfig
from nutgraf.config.evaluation import RougeTokenizer
from nutgraf.core import files
from nutgraf.core.errors import UserError, is_full, one_line, visible
from nutgraf.core.paths import expand
from nutgraf.data import tables
from nutgraf.data.names import find_column, no_column
from nutgraf.data.rouge_tokens import MIN_LETTERS
from nutgraf.data.source_files import DAMAGED, encoding_of_table, open_bytes, read_head
from nutgraf.evaluation import indicators, rouge
from nutgraf.evaluation.bootstrap import MIN_VALUES, Interval
from nutgraf.evaluation.scores import Row, Scores, clean_row, rounded, score_rows

logger = logging.getLogger(__name__)

OUT_SUFFIXES = (".csv", ".jsonl", ".parquet")


def run(
    path: Path,
    columns: Mapping[str, Sequence[str]],
    references: Sequence[Path] = (),
    tokenizer: RougeTokenizer = "rouge-score",
    out: Path | None = None,
    as_json: bool = False,
    reader: str | None = None,
) -> None:
    """Print the scores of summaries, as a table or as JSON. An empty summary scores 0.

    Args:
        path: A table or, with `references`, a text file with a summary a line.
        columns: Names of the table's columns for "reference" (several if a row has so many),
            "summary" and, if indicators are wanted, "article". Of text files only "article" is
            taken, the name of a third one.
        references: Text files with a reference a line.
        tokenizer: That of ROUGE.
        out: Where the scores and flagged spans of each row go: .csv, .jsonl or .parquet.
        as_json: Print one JSON object.
        reader: The base that reads the sentences of summaries behind articles, which all rows have.

    Raises:
        UserError: There is no row, a column is missing, text files have different numbers of
            lines, a row has no text or no reference, or ROUGE counts too few of its letters.
    """
    texts = map(expand, columns.get("article", ())) if references else ()
    _check_out(out, [path, *references, *texts])
    rows = list(_of_lines(path, references, columns) if references else _of_table(path, columns))
    if not rows:
        raise UserError(f"{path} holds no row: there is nothing to score")
    scores = score_rows(
        rows,
        tokenizer,
        what=str(references[0] if references else path),
        knob="--tokenizer unicode",
        flags=out is not None,
        progress=visible(path.name),
    )
    record = scores.record()
    lines = [*_table(visible(str(path)), scores)]
    if reader:
        model = reading_model(reader)
        facts = _add_facts(rows, scores, model, visible(path.name))
        record |= {"facts": rounded(facts)}
        lines[-1:] = [*(f"{name:<20}{mean:11.3f}" for name, mean in facts.items()), lines[-1]]
        worth = summed_up([(row["doubted"], row["sentences"]) for row in scores.rows], model)
        lines.append(worth)
        if as_json:
            logger.info(worth)
    # Before a file that may not be written.
    print(*[json.dumps(record)] if as_json else lines, sep="\n", flush=True)
    if out:
        try:
            _write(out, rows, scores)
        except OSError as error:
            if is_full(error):
                raise
            raise UserError(
                f"--out {out} cannot be written ({error.strerror}): give another file"
            ) from None


def _add_facts(
    rows: Sequence[Row], scores: Scores, model: ModelConfig, progress: str
) -> dict[str, float]:
    """Add to each row what the base says of its sentences; return the means.

    The lowest probability is None in a row without a sentence, NaN if there is no other.
    """
    texts = [(row.article or "", row.summary) for row in rows]
    read = tqdm(checked(texts, model), progress, len(texts), leave=False, disable=None)
    for scored, sentences in zip(scores.rows, read, strict=True):
        scored["doubted"] = sum(one["doubted"] for one in sentences)
        scored["sentences"] = len(sentences)
        scored["lowest_probability"] = min((one["probability"] for one in sentences), default=None)
    table = pd.DataFrame(scores.rows)[["doubted", "sentences", "lowest_probability"]]
    return {str(name): float(column.astype(float).mean()) for name, column in table.items()}


def _of_table(path: Path, columns: Mapping[str, Sequence[str]]) -> Iterator[Row]:
    for number, row in enumerate(tables.read_rows(path), 1):
        name = f"{path} row {number}"
        texts: dict[str, Any] = {}
        for kind, names in columns.items():
            cells = [row[n] for column in names for n in _names(name, row, column, kind)]
            listed = [text for cell in cells for text in _listed(cell)]
            texts[kind] = listed if kind == "reference" else cells[0]
        yield clean_row(name, texts, columns, row.get(find_column("id", row) or "id"))


def _names(name: str, row: Mapping[str, Any], column: str, kind: str) -> list[str]:
    """Return the column or, for references, those with its name and a number behind."""
    if single := find_column(column, row):
        return [single]
    name_and_number = re.compile(re.escape(column) + r"[-_. ]?\d+", re.IGNORECASE)
    numbered = [other for other in row if name_and_number.fullmatch(other)]
    if not numbered or kind != "reference":
        raise no_column(name, column, row, f"set --{kind}")
    return numbered


def _listed(value: Any) -> list[Any]:
    """Return the texts of a list, also if a cell has it as JSON, Python or numpy writes it."""
    if isinstance(value, str) and value.strip().startswith("[") and value.strip().endswith("]"):
        value = _list_in(value.strip()) or value
    return value or [""] if isinstance(value, list) else [value]


def _list_in(text: str) -> list[str | None] | None:
    """Return the texts of a written list; None if it is none or has something else."""
    try:
        items = json.loads(text, strict=False)
        return items if all(isinstance(item, str | None) for item in items) else None
    except (ValueError, RecursionError):
        items = []
    try:
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.STRING:
                items.append(ast.literal_eval(token.string))
            elif token.string == "None":
                items.append(None)
            elif token.string.strip() not in ("", "[", "]", ","):
                return None
    except (ValueError, SyntaxError, tokenize.TokenError):
        return None
    return items


def _of_lines(
    path: Path, references: Sequence[Path], columns: Mapping[str, Sequence[str]]
) -> Iterator[Row]:
    article = [expand(name) for name in columns.get("article", ())]
    if unused := [kind for kind in columns if kind != "article"]:
        raise UserError(f"--{unused[0]} is a column of a table: not taken with text files")
    lines = [_lines(file) for file in (path, *references, *article)]
    for file, own in zip((*references, *article), lines[1:], strict=True):
        if len(own) != len(lines[0]):
            raise UserError(
                f"{path} has {len(lines[0]):,} lines, {file} {len(own):,}: give a line a summary, "
                "those that belong together at the same place"
            )
    for number, (summary, *others) in enumerate(zip(*lines, strict=True), 1):
        texts: dict[str, Any] = {"reference": others[: len(references)], "summary": summary}
        yield clean_row(
            f"{path} line {number}", texts | ({"article": others[-1]} if article else {})
        )


def _lines(path: Path) -> list[bytes]:
    if tables.is_table(path):
        raise UserError(f"{path} is a table: give it alone, with --reference COL and --summary COL")
    tables.check_is_file(path)
    try:
        encoding = encoding_of_table(path, read_head(path))
        with open_bytes(path) as file:
            text = file.read()
        if encoding != "utf-8-sig":
            text = text.decode(encoding).encode()
    except DAMAGED as error:
        raise UserError(f"{path} cannot be read: {one_line(error, 300)}") from None
    lines = text.split(b"\n")  # not at the other characters that str.splitlines takes
    return lines if lines[-1] else lines[:-1]


def _check_out(out: Path | None, inputs: Sequence[Path]) -> None:
    if out is None:
        return
    if out.suffix.lower() not in OUT_SUFFIXES or out.is_dir():
        raise UserError(f"--out {out}: give a file that ends in {', '.join(OUT_SUFFIXES)}")
    if out.resolve() in {path.resolve() for path in inputs}:
        raise UserError(f"--out {out} is what is scored: give another file")


def _write(out: Path, rows: Sequence[Row], scores: Scores) -> None:
    """Write a record a row: its number, scores, flagged spans and the texts that they are of."""
    several = bool(scores.mean_of_references)
    records = [
        {
            "row": number,
            **rounded(scored),
            **({"references": [*row.references]} if several else {"reference": row.references[0]}),
            "summary": row.summary,
        }
        for number, (row, scored) in enumerate(zip(rows, scores.rows, strict=True), 1)
    ]
    table = pd.DataFrame(records)
    if out.suffix.lower() == ".jsonl":
        files.write_records(out, records)
    elif out.suffix.lower() == ".csv":
        for name in {"flags", "references"} & {*table}:
            table[name] = [json.dumps(cell, ensure_ascii=False) for cell in table[name]]
        files.write_text(out, table.to_csv(index=False, lineterminator="\n"))
    else:
        out.parent.mkdir(parents=True, exist_ok=True)
        scratch = out.with_name(f".{out.name}.part")
        table.to_parquet(scratch, index=False)
        files.move(scratch, out)


def _table(path: str, scores: Scores) -> Iterator[str]:
    few = f", none below {MIN_VALUES} rows" if scores.n < MIN_VALUES else ""
    yield f"{scores.n:,} summaries of {path}: ROUGE F1, 0 to 100, with 95% bootstrap intervals{few}"
    for kind in rouge.ROUGE_TYPES:
        yield _line(kind, getattr(scores, kind))
    if scores.mean_of_references:
        yield "of several references the best counts above; the mean over a row's references:"
        for kind, interval in scores.mean_of_references.items():
            yield _line(kind, interval)
    if scores.without_words:
        yield f"summaries without a word that ROUGE counts, which score 0: {scores.without_words:,}"
    if commonest := Counter(scores.marks_cleaned).most_common(4):
        marks = ", ".join(f"{mark} {n:,}" for mark, n in commonest)
        yield f"marks of generators, cleaned: {visible(marks)}"
    letters = scores.letters_counted
    if min(letters["references"], letters["summaries"]) < 1:
        of_each = [
            f"{100 * letters[kind]:.4g}% of the {kind}'" for kind in ("references", "summaries")
        ]
        yield (
            f"letters that ROUGE counts (a-z): {' and '.join(of_each)}, "
            f"{letters['rows_below_limit']:,} rows below {100 * MIN_LETTERS:.0f}%; "
            "--tokenizer unicode counts all"
        )
    if scores.indicators:
        yield f"{'mean of':<20}{'summaries':>11}{'references':>12}"
        for name, mean in scores.indicators.items():
            reference = scores.reference_indicators[name]
            yield f"{name:<20}{mean:11.3f}{reference:12.3f}   {indicators.MEANINGS[name]}"
    yield "; ".join(f"{name} {value}" for name, value in scores.signature.items())


def _line(kind: str, interval: Interval) -> str:
    ends = "" if math.isnan(interval.low) else f"   {interval.low:.2f} to {interval.high:.2f}"
    return f"{kind:<10}{interval.mean:8.2f}{ends}"
