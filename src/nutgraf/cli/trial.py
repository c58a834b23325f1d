"""Steer the trials of a search that runs: the `trial` command."""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING, Any

from nutgraf.config import Config
from nutgraf.core.errors import UserError
from nutgraf.core.paths import expand, shown

if TYPE_CHECKING:
    from nutgraf.cli.model_commands import Commands

PATIENCE = 10.0  # seconds that the search has to take up what it is asked
_MAX_NUMBER = 10**9


def add(commands: Commands) -> None:
    """Add the command with its options."""
    what = "steer a search while it runs: stop a trial, add one, let a stopped one go on"
    trial = commands.add_parser("trial", help=what, description=what[0].upper() + what[1:] + ".")
    actions = trial.add_subparsers(required=True, metavar="ACTION", dest="do")
    for action, does in (
        ("stop", "stop a trial after its last evaluation"),
        ("add", "train one with settings of your own, as --section.field VALUE"),
        ("continue", "let a trial go on that the search or a person has stopped"),
    ):
        command = actions.add_parser(
            action, help=does, description=does[0].upper() + does[1:] + ".", allow_abbrev=False
        )
        command.set_defaults(call=_run, trial=None, examples=None)
        folder = Config.model_fields["run"].default
        path = f"the run folder [{folder}]"
        command.add_argument("--run", metavar="DIR", type=expand, default=expand(folder), help=path)
        if action == "add":
            command.set_defaults(stages=())  # so that settings are taken
            like = "the trial whose other settings it has [those of the study]"
            command.add_argument("--like", metavar="TRIAL", type=_count, help=like)
            continue
        command.add_argument("trial", type=_count, metavar="TRIAL", help="its number")
        if action == "continue":
            until = "articles in all after which it is stopped again [its whole training]"
            command.add_argument("--examples", metavar="N", type=_count, help=until)


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= _MAX_NUMBER:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 on")
    return int(text)


def _run(args: argparse.Namespace, settings: dict[str, str]) -> None:
    """Ask the search of a study, and print what became of it, as far as that is known.

    Raises UserError if the search refuses, or if there is none.
    """
    from nutgraf.pipeline import steering
    from nutgraf.search.ledger import Request
    from nutgraf.watching.machine import holder

    values: dict[str, Any] = {}
    if args.do == "add":
        values = steering.edited_values(args.run, settings, args.like)
    request = Request(do=args.do, trial=args.trial, examples=args.examples, values=values)
    name = steering.ask(args.run, request)
    if holder(args.run / ".lock") is None:
        print(f"Noted. Nothing runs this study: `nutgraf run --run {shown(args.run)}` does it.")
        return
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if steer := steering.answer(args.run, name):
            if steer.refused:
                raise UserError(steer.refused)
            print(f"{steer.words[0].upper()}{steer.words[1:]}.")
            return
        time.sleep(0.1)
    print("Noted. The search does it when it next hears of a trial.")
