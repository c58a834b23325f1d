"""Parse the command line, call, print errors on one line."""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from nutgraf import __version__
from nutgraf.cli import check_facts, model_commands, score_options, trial
from nutgraf.config import Config
from nutgraf.config.load import find_config, load_config, setting_fields, shipped_configs
from nutgraf.config.systems import JUDGED
from nutgraf.core.console import show_log
from nutgraf.core.environment import ignore_launchers
from nutgraf.core.errors import NutgrafError, UserError, is_full, one_line, os_error_message
from nutgraf.core.paths import shown
from nutgraf.core.priority import lower_priority
from nutgraf.core.signals import as_stopped, stop_on_signals
from nutgraf.pipeline import runner

CARRIES_ON = "; the same command carries on from here"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return the exit status: 0, 1 for a failure, 2 for a user's mistake."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # The name of a file may hold what UTF-8 cannot.
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")
    show_log()
    ignore_launchers()
    promise = ""
    try:
        words, overrides = _split_overrides(sys.argv[1:] if argv is None else argv)
        args, behind = _parser().parse_known_args(words)
        if behind and (any(w.startswith("-") for w in behind) or not hasattr(args, "references")):
            raise UserError(f"unrecognized arguments: {' '.join(behind)}: see `nutgraf --help`")
        if behind:  # argparse takes files before the first option only
            args.references += map(Path, behind)
        if overrides and not hasattr(args, "stages"):
            raise UserError(f"--{next(iter(overrides))} is a setting of a study: not taken here")
        promise = CARRIES_ON * _runs_stages(args)
        status: int | None = args.call(args, overrides)
        return status or 0
    except NutgrafError as error:
        return _complain(str(error), error.exit_code)
    except OSError as error:
        message = os_error_message(error)
        return _complain(message + f": free space there{promise}" * is_full(error), 1)
    except KeyboardInterrupt as interrupt:
        stop = as_stopped(interrupt)
        cause = stop.__cause__  # what failed after the signal
        why = f" ({type(cause).__name__}: {cause})" if cause else ""
        return _complain(f"{stop}{why}{promise}", stop.exit_code)


def _split_overrides(argv: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Return the words for the parser, and the settings apart.

    `--train.learning-rate 2e-4 --lora.r=8` are {"train.learning_rate": "2e-4", "lora.r": "8"}.
    """
    words: list[str] = []
    overrides: dict[str, str] = {}
    rest = iter(argv)
    for word in rest:
        name, equals, value = word.partition("=")
        if not (name.startswith("--") and "." in name):
            words.append(word)
            continue
        setting = name.removeprefix("--").replace("-", "_")
        try:
            overrides[setting] = value if equals else next(rest)
        except StopIteration:
            raise UserError(f"{word} has no value: give one behind it") from None
    return words, overrides


def _complain(message: str, status: int) -> int:
    print(f"nutgraf: {one_line(message)}", file=sys.stderr)
    return status


class _Parser(argparse.ArgumentParser):
    """argparse whose errors are one line, like all others."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}: see `{self.prog} --help`")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="nutgraf",
        description="Fine-tune a small language model to summarize news, on one modest GPU, "
        "and show with evidence how good it is.",
    )
    parser.add_argument("--version", action="version", version=f"nutgraf {__version__}")
    parsers = parser.add_subparsers(required=True, metavar="COMMAND")
    run = "the whole study; carries on where an earlier one stopped"
    study = _add_study_command(parsers, "run", run, tuple(runner.STAGES))
    shows = "show the study on a page while it runs, and print its address"
    study.add_argument("--watch", action="store_true", help=shows)
    for name, what in runner.STAGES.items():
        any_file = "; or those of any FILE of summaries" if name == "score" else ""
        stage = _add_study_command(parsers, name, f"one stage of it: {what}{any_file}", (name,))
        if name == "score":
            score_options.add(stage)
            stage.set_defaults(call=_score)
    fits = "before a study: does it fit, how long will it take, what is trained on"
    _add_study_command(parsers, "check", fits, ()).set_defaults(call=_check)
    model_commands.add(parsers)
    check_facts.add(parsers)
    _add_watch(parsers)
    trial.add(parsers)
    _add_judge(parsers)
    return parser


def _add_study_command(
    parsers: argparse._SubParsersAction[_Parser], name: str, what: str, stages: tuple[str, ...]
) -> argparse.ArgumentParser:
    command = parsers.add_parser(
        name,
        help=what,
        description=what[0].upper() + what[1:] + ".",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=_settings_help(),
        allow_abbrev=False,
    )
    files = f"a YAML file, or {', '.join(shipped_configs())}"
    config = f"settings: {files}; without it those of the run folder, or the pocket study's"
    storage = "where a copy of the study is stored: a folder, s3://, gs:// ..."
    command.add_argument("config", nargs="?", type=Path, metavar="CONFIG", help=config)
    command.add_argument("--run", metavar="DIR", help="the run folder")
    command.add_argument("--storage", metavar="URI", help=storage)
    if stages:
        command.add_argument("--force", action="store_true", help="repeat finished work")
    command.set_defaults(call=_run, stages=stages)
    return command


def _add_watch(parsers: argparse._SubParsersAction[_Parser]) -> None:
    what = "a web page that shows a study while it runs, or as it ended"
    watch = parsers.add_parser("watch", help=what, description=what[0].upper() + what[1:] + ".")
    watch.set_defaults(call=_watch)
    folder = Config.model_fields["run"].default
    watch.add_argument(
        "--run", metavar="DIR", type=Path, default=folder, help=f"the run folder [{folder}]"
    )
    storage = "a storage that has the study, in place of a run folder: a folder, s3://, gs:// ..."
    watch.add_argument("--storage", metavar="URI", help=storage)
    model_commands.add_address(watch)


def _add_judge(parsers: argparse._SubParsersAction[_Parser]) -> None:
    what = "a web page to judge two systems of a finished study, without their names"
    judge = parsers.add_parser("judge", help=what, description=what[0].upper() + what[1:] + ".")
    judge.set_defaults(call=_judge)
    judge.add_argument("--run", metavar="DIR", type=Path, required=True, help="the run folder")
    two = f"which two of the study [{' '.join(JUDGED)}]"
    judge.add_argument("--systems", nargs=2, metavar="NAME", default=JUDGED, help=two)
    model_commands.add_address(judge)


def _settings_help() -> str:
    lines = ["settings, as --section.field VALUE:"]
    for name, sentence, default in setting_fields():
        if name not in ("run", "storage"):
            shown = "a mapping" if name == "search.space" else default
            lines.append(f"  --{name.replace('_', '-')}  [{shown}]\n        {sentence}")
    return "\n".join(lines)


def _run(args: argparse.Namespace, overrides: dict[str, str]) -> None:
    config = _config(args, overrides)
    lower_priority()
    page: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
    if vars(args).get("watch"):
        from nutgraf.serving import watch

        page = watch.beside(Path(config.run))
    with stop_on_signals(), page:
        changed = runner.run_study(config, args.stages, force=args.force)
        if args.stages == tuple(runner.STAGES):
            _print_table(config, changed)


def _check(args: argparse.Namespace, overrides: dict[str, str]) -> int:
    from nutgraf.cli import check

    return check.run(_config(args, overrides))


def _watch(args: argparse.Namespace, overrides: dict[str, str]) -> None:
    from nutgraf.serving import watch

    watch.run(args.run, args.host, args.port, args.allow_origin, args.storage)


def _judge(args: argparse.Namespace, overrides: dict[str, str]) -> None:
    from nutgraf.serving import judge

    judge.run(args.run, args.systems, args.host, args.port, args.allow_origin)


def _runs_stages(args: argparse.Namespace) -> bool:
    """Return whether the command runs stages of a study, which carry on where they stopped."""
    return args.call is _run or (args.call is _score and not score_options.takes_file(args))


def _score(args: argparse.Namespace, overrides: dict[str, str]) -> None:
    """Run the stage of that name, or score a file of summaries."""
    if score_options.takes_file(args):
        score_options.score(args, overrides)
    else:
        _run(args, overrides)


def _config(args: argparse.Namespace, overrides: dict[str, str]) -> Config:
    texts = {name: vars(args)[name] for name in ("run", "storage") if vars(args)[name] is not None}
    path = find_config(args.config, args.run)
    if args.run and args.storage and path is None:  # it may have begun on another machine
        from nutgraf.storage.remote_files import RemoteFiles

        name = "config.yaml"
        if (content := RemoteFiles(args.storage).read(name)) is not None:
            with tempfile.TemporaryDirectory() as scratch:
                (Path(scratch) / name).write_bytes(content)
                try:
                    return load_config(Path(scratch) / name, overrides, **texts)
                except UserError as error:
                    raise UserError(str(error).replace(scratch, args.storage)) from None
    return load_config(path, overrides, **texts)


def _print_table(config: Config, changed: bool) -> None:
    from nutgraf.report.terminal_table import render_table

    folder = Path(shown(config.run))
    print(render_table(folder / "model_comparison_results.csv", config))
    print(f"\n{'Report' if changed else 'All is done. Report'}: {folder / 'report.html'}")
    print(f"Model:  {folder / 'final_best_model'}")
