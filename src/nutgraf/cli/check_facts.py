"""Check the sentences of any summaries against their articles: the `check-facts` command."""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from nutgraf.cli.model_commands import positive
from nutgraf.core.errors import UserError, visible
from nutgraf.core.fast_import import fast_imports
from nutgraf.core.paths import expand

if TYPE_CHECKING:
    from nutgraf.cli.model_commands import Commands
    from nutgraf.config import ModelConfig
    from nutgraf.evaluation.support import Checked

logger = logging.getLogger(__name__)


class Row(NamedTuple):
    """A summary with its article; `name` is for messages."""

    name: str
    id: str | None
    article: str
    summary: str


def add(commands: Commands) -> None:
    """Add the command with its options."""
    what = "sentences of summaries that their articles may not support, by a model that reads both"
    command = commands.add_parser(
        "check-facts",
        help=what,
        description=f"{what[0].upper()}{what[1:]}. An indicator, no verdict.",
    )
    command.set_defaults(call=_run)
    option = command.add_argument
    option(
        "file", type=expand, metavar="FILE", help="rows (.jsonl, .csv, .parquet), or a run folder"
    )
    option("--article", metavar="COL", help="the column of articles in rows [article]")
    option("--summary", metavar="COL", help="that of summaries [summary]")
    option("--system", metavar="NAME", help="whose summaries, of a run folder [the final model's]")
    option("--rows", metavar="N", type=positive, help="only the first so many [all]")
    base = "the model that reads: smollm2, a folder, a Hub id ... [that of the run, else smollm2]"
    option("--base", metavar="NAME", help=base)
    option("--json", action="store_true", help="one JSON object a row, with all sentences")


def _run(args: argparse.Namespace, overrides: dict[str, str]) -> None:
    """Print what is doubted, row by row, and then how much is probably wrong.

    Raises UserError if there is no row, a column is missing or a row has no text, or for an option
    of another kind of FILE.
    """
    from nutgraf.config import ModelConfig

    model, is_run = ModelConfig(), args.file.is_dir()
    for name in ("article", "summary") if is_run else ("system",):
        if vars(args)[name]:
            own, other = ("run folder", "table") if is_run else ("table", "run folder")
            raise UserError(f"--{name} is of a {other}, and {args.file} a {own}: leave it out")
    if is_run:
        from nutgraf.pipeline.facts import summaries_of

        written, model = summaries_of(args.file, args.system)
        rows = [Row(f"{system} {a.id}", a.id, a.article, text) for system, a, text in written]
    else:
        of_table = _of_table(args.file, args.article or "article", args.summary or "summary")
        rows = list(itertools.islice(of_table, args.rows))
    if args.base or not is_run:
        model = reading_model(args.base or "smollm2")
    rows = rows[: args.rows]
    if not rows:
        raise UserError(f"{args.file} holds no row: there is nothing to check")
    counts = []
    texts = [(row.article, row.summary) for row in rows]
    for row, sentences in zip(rows, checked(texts, model), strict=True):
        doubted = [sentence for sentence in sentences if sentence["doubted"]]
        counts.append((len(doubted), len(sentences)))
        if args.json:
            print(json.dumps(_record(row, sentences), ensure_ascii=False), flush=True)
        elif doubted:
            print(*_lines(row, doubted, len(sentences)), sep="\n", flush=True)
    line = summed_up(counts, model)
    if args.json:
        logger.info(line)
    else:
        print(line)


def reading_model(base: str) -> ModelConfig:
    """Return the model that reads, of `--base`: a word, a folder, a file or a Hub id."""
    from nutgraf.config import ModelConfig

    return ModelConfig.model_validate({"base": base}, context={"here": True})


def summed_up(counts: Sequence[tuple[int, int]], model: ModelConfig) -> str:
    """Return how many sentences are doubted, and how many are probably wrong, if that is known.

    `counts` has the doubted and all sentences of each summary.
    """
    from nutgraf.evaluation.support import is_calibrated, worth, wrong_rate

    doubted, sentences = (sum(column) for column in zip(*counts, strict=True))
    line = f"{doubted:,} of {sentences:,} sentences are doubted"
    if not is_calibrated(model):
        return f"{line}. {worth(model)}"
    wrong = wrong_rate(counts, model)
    if math.isnan(wrong.wrong):
        return line
    return (
        f"{line}. Corrected for what the check misses and doubts wrongly, about "
        f"{100 * wrong.wrong:.0f}% of the sentences are wrong (95% interval {100 * wrong.low:.0f} "
        f"to {100 * wrong.high:.0f}%)."
    )


def _of_table(path: Path, article: str, summary: str) -> Iterator[Row]:
    from nutgraf.data import tables
    from nutgraf.data.names import USUAL, find_column, no_column
    from nutgraf.data.text import TextError, usable_text

    others = {"article": USUAL["article_column"], "summary": ()}
    for number, cells in enumerate(tables.read_rows(path), 1):
        name, texts = f"{path} row {number}", []
        for option, column in (("article", article), ("summary", summary)):
            own = find_column(column, cells, others[option])
            if own is None:
                raise no_column(name, column, cells, f"set --{option}")
            try:
                texts.append(usable_text(cells[own]))
            except TextError as error:
                raise UserError(
                    f"{name}: the {option} in column {own!r} is {error}: correct it or leave the "
                    "row out"
                ) from None
        identity = cells.get(find_column("id", cells) or "id")
        yield Row(name, None if identity is None else str(identity), *texts)


def checked(texts: Sequence[tuple[str, str]], model: ModelConfig) -> Iterator[list[Checked]]:
    """Yield the sentences of each summary; `texts` are articles with a summary of each.

    Summaries of one article that follow each other are read together. Raises as `load_reader`.
    """
    with fast_imports():
        from nutgraf.generation.reading import load_reader

    reader = load_reader(model)
    for article, group in itertools.groupby(texts, lambda pair: pair[0]):
        yield from reader.check(article, [summary for _, summary in group])


def _record(row: Row, sentences: Sequence[Checked]) -> Mapping[str, Any]:
    def shown(sentence: Checked) -> Mapping[str, Any]:
        passages = [row.article[place["start"] : place["end"]] for place in sentence["passages"]]
        text = row.summary[sentence["start"] : sentence["end"]]
        return {**sentence, "text": text, "passages": passages}

    return {"id": row.id, "summary": row.summary, "sentences": [shown(one) for one in sentences]}


def _lines(row: Row, doubted: Sequence[Checked], sentences: int) -> Iterator[str]:
    yield f"== {visible(row.name)}: {len(doubted)} of {sentences} sentences doubted"
    for one in doubted:
        yield f"{100 * one['probability']:4.0f}%  {visible(row.summary[one['start'] : one['end']])}"
        passages = (row.article[place["start"] : place["end"]] for place in one["passages"])
        yield f"       article: {visible(' '.join(passages))}"
