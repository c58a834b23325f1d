"""Score a file of summaries from anywhere: options of `score` beside those of a study's stage."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import get_args

from nutgraf.config.evaluation import RougeTokenizer
from nutgraf.core.errors import UserError
from nutgraf.core.paths import expand

_OPTIONS = ("reference", "summary", "article", "tokenizer", "out", "json", "check_facts", "base")


def add(score: argparse.ArgumentParser) -> None:
    """Add the options to the stage's command."""
    score.usage = (
        "nutgraf score [CONFIG.yaml] [--run DIR] [--force] [--section.field VALUE ...]\n"
        "       nutgraf score FILE --reference COL --summary COL [--article COL] [options]\n"
        "       nutgraf score SUMMARIES.txt REFERENCES.txt ... [--article ARTICLES.txt] [options]"
    )
    score.description = (
        "One stage of a study; or, given a FILE of summaries from anywhere (.jsonl, .csv, .parquet)"
        "\nwith the names of its columns, or text files with a text a line, ROUGE with 95%"
        "\nintervals, and indicators."
    )
    file = score.add_argument_group("for a FILE in place of CONFIG.yaml")
    several = (
        "the column of references; if a row has several: a list, COL_1, COL_2 ..., or given again"
    )
    lines = "text files with a reference a line, for a text file with a summary a line"
    file.add_argument("references", nargs="*", type=expand, metavar="REFERENCES", help=lines)
    file.add_argument("--reference", metavar="COL", action="append", help=several)
    file.add_argument("--summary", metavar="COL", help="the column of summaries")
    file.add_argument("--article", metavar="COL", help="that of articles: adds indicators")
    file.add_argument(
        "--tokenizer",
        choices=get_args(RougeTokenizer),
        help="rouge-score counts a-z and 0-9 and stems (the default); unicode counts every script",
    )
    file.add_argument(
        "--out", metavar="FILE", type=expand, help="scores and flagged spans of each row"
    )
    file.add_argument("--json", action="store_true", help="one JSON object, not a table")
    checks = "let a model read the summaries too, and count the sentences that it doubts"
    file.add_argument("--check-facts", action="store_true", help=checks)
    file.add_argument("--base", metavar="NAME", help="the model that reads then [smollm2]")


def takes_file(score: argparse.Namespace) -> bool:
    """Return whether `score` is given a file of summaries, or options for one."""
    from nutgraf.data.tables import is_table

    path: Path | None = score.config
    is_file = path is not None and (is_table(path) or path.suffix == ".txt")
    return is_file or bool(score.references or any(vars(score)[name] for name in _OPTIONS))


def score(args: argparse.Namespace, overrides: dict[str, str]) -> None:
    """Score the file that `takes_file` has found. Raises UserError for options that do not go."""
    from nutgraf.data.tables import SUFFIXES

    options = vars(args)
    for_file = [name for name in _OPTIONS if options[name]]
    if args.config is None:
        name = for_file[0].replace("_", "-")
        raise UserError(f"--{name} goes with a FILE of summaries ({', '.join(SUFFIXES)})")
    if for_study := [*overrides, *(name for name in ("run", "storage", "force") if options[name])]:
        raise UserError(f"--{for_study[0]} is of a study: not taken with a file of summaries")
    if not (args.references or (args.reference and args.summary)):
        raise UserError(
            f"{args.config}: name its columns with --reference COL and --summary COL, or "
            "give the file with its references behind it"
        )
    if args.check_facts and not args.article:
        raise UserError("--check-facts reads articles too: name theirs with --article")
    if args.base and not args.check_facts:
        raise UserError("--base is the model that reads: give --check-facts too, or leave it out")
    from nutgraf.cli import score_file

    columns = {"reference": args.reference, "summary": args.summary, "article": args.article}
    score_file.run(
        args.config,
        {kind: [name] if isinstance(name, str) else name for kind, name in columns.items() if name},
        args.references,
        args.tokenizer or "rouge-score",
        args.out,
        args.json,
        (args.base or "smollm2") if args.check_facts else None,
    )
