"""Parse and run the commands that take a model: summarize, serve, export."""

from __future__ import annotations

import argparse
import contextlib
import math
from collections.abc import Callable
from typing import Any, TypeAlias, get_args

from nutgraf.config.load import setting_fields
from nutgraf.config.systems import EngineName
from nutgraf.core.fast_import import fast_imports
from nutgraf.core.paths import expand
from nutgraf.serving.limits import Limits, parse_limits

TOLERANCE = 0.05  # nats a token that an export may change the loss by

Commands: TypeAlias = "argparse._SubParsersAction[Any]"


def add(commands: Commands) -> None:
    """Add the commands to the command line; `call` of the parsed arguments runs one."""
    _add_summarize(commands)
    _add_serve(commands)
    _add_export(commands)


def _add_command(
    commands: Commands, name: str, help: str, call: Callable[..., None]
) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(name, help=help)
    command.set_defaults(call=call)
    model = "a run folder, its final_best_model, an exported model, or a Hub id"
    command.add_argument("--model", required=True, metavar="DIR", help=model)
    return command


def _add_engine(command: argparse.ArgumentParser) -> None:
    engine = "what writes; auto: llama.cpp for a GGUF file on a CPU without bf16, if installed"
    command.add_argument("--engine", choices=get_args(EngineName), default="auto", help=engine)


def _add_check_facts(command: argparse.ArgumentParser) -> None:
    checks = "let the base read the summaries, and say which sentences it doubts (docs/commands.md)"
    command.add_argument("--check-facts", action="store_true", help=checks)


def _add_summarize(commands: Commands) -> None:
    command = _add_command(commands, "summarize", "summaries of new articles", _summarize)
    add = command.add_argument
    add(
        "sources", nargs="*", metavar="SOURCE", default=["-"],
        help="a file of text, HTML, or rows (.jsonl, .csv, .parquet); a folder of such; an address "
        "with --fetch; - or nothing for standard input",
    )  # fmt: skip
    add("--json", action="store_true", help="one JSON object an article")
    add("--article", metavar="COL", default="article", help="the column of articles in a table")
    add("--id", metavar="COL", help="that of their ids; without it id, if any")
    add("--sentences", metavar="N", type=positive, help="at most so many")
    long = (
        "articles beyond the prompt's limit: summarize their beginning (lead), or their parts and "
        "then the parts' summaries"
    )
    add("--long", choices=("lead", "map-reduce"), default="lead", help=long)
    add("--fetch", action="store_true", help="fetch addresses, if they are public")
    _add_check_facts(command)
    _add_engine(command)


def _add_serve(commands: Commands) -> None:
    command = _add_command(commands, "serve", "a web page and an HTTP API for a model", _serve)
    add_address(command)
    _add_check_facts(command)
    _add_engine(command)
    group = command.add_argument_group("limits")
    for name, sentence, default in setting_fields(Limits):
        shown = f"{sentence} [{default or 'study'}]"
        group.add_argument(f"--{name.replace('_', '-')}", metavar="N", help=shown)


def add_address(command: argparse.ArgumentParser) -> None:
    """Add the options of a command that serves a page."""
    host = "address to listen at [127.0.0.1: this machine alone]"
    command.add_argument("--host", default="127.0.0.1", help=host)
    command.add_argument("--port", default=8000, type=int, help="0 takes a free one [8000]")
    origin = "address at which a proxy shows the page, which may then ask; can be repeated"
    command.add_argument("--allow-origin", metavar="URL", action="append", default=[], help=origin)


def _add_export(commands: Commands) -> None:
    add = _add_command(commands, "export", "the model for other programs", _export).add_argument
    add("--to", required=True, metavar="DIR", type=expand, help="a new folder")
    form = (
        "merged into the base in full precision; the adapter alone; or one file for llama.cpp and "
        "Ollama"
    )
    add("--format", required=True, choices=("merged", "adapter", "gguf"), help=form)
    numbers = (
        "the numbers in the file: f32, f16, bf16, q8_0, q5_1, q5_0, q4_1, q4_0; with llama.cpp "
        "installed also q6_k, q5_k_m, q4_k_m [q8_0]"
    )
    add("--quantize", metavar="FORMAT", type=str.lower, default="", help=numbers)
    tolerance = f"the most that merging and rounding may change the loss of a token [{TOLERANCE}]"
    add("--tolerance", metavar="NATS", type=_tolerance, default=TOLERANCE, help=tolerance)
    add("--author", metavar="NAME", help="the author that the file names")
    llama_cpp = "a copy of llama.cpp, whose converter makes the file, of bases that are no Llamas"
    add("--llama-cpp", metavar="DIR", type=expand, help=llama_cpp)
    push = "then put the folder into this repository of the Hub; a new one is private"
    add("--push-to-hub", metavar="OWNER/NAME", help=push)


def _tolerance(text: str) -> float:
    """Return a number from 0 on."""
    with contextlib.suppress(ValueError):
        if 0 <= (number := float(text)) < math.inf:
            return number
    raise argparse.ArgumentTypeError(f"{text!r} is no number from 0 on")


def positive(text: str) -> int:
    """Return a whole number above 0."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)


def _summarize(args: argparse.Namespace, overrides: dict[str, str]) -> None:
    with fast_imports():
        from nutgraf.cli import summarize
        from nutgraf.data.new_articles import Columns

    summarize.run(
        args.model,
        args.sources,
        as_json=args.json,
        columns=Columns(args.article, args.id),
        sentences=args.sentences,
        long=args.long,
        fetch=args.fetch,
        engine=args.engine,
        check_facts=args.check_facts,
    )


def _serve(args: argparse.Namespace, overrides: dict[str, str]) -> None:
    from nutgraf.serving import server

    limits = parse_limits({n: vars(args)[n] for n in Limits.model_fields if vars(args)[n]})
    server.run(
        args.model,
        args.host,
        args.port,
        limits,
        args.allow_origin,
        args.engine,
        args.check_facts,
    )


def _export(args: argparse.Namespace, overrides: dict[str, str]) -> None:
    with fast_imports():
        from nutgraf.cli import export

    export.run(
        args.model,
        args.to,
        args.format,
        push_to_hub=args.push_to_hub,
        llama_cpp=args.llama_cpp,
        tolerance=args.tolerance,
        quantize=args.quantize,
        author=args.author,
    )
