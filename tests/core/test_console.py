"""The log: what a person sees of it, and what a program that uses the package can do with it."""

from __future__ import annotations

import logging
import subprocess
import sys
import warnings

import pytest

from nutgraf.core import console
from nutgraf.core.console import print_line
from nutgraf.core.errors import Failure
from nutgraf.parallel.background_jobs import run_jobs

logger = logging.getLogger("nutgraf.test_console")


def test_a_message_is_one_line_that_drives_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    logger.info("read \x1b[2J\nand %s", "hf_" + "a" * 30)
    logger.warning("100% of it")
    output = capsys.readouterr()
    assert output.err == "read \\x1b[2J\\nand …\n100% of it\n"
    assert output.out == ""


def test_an_article_keeps_its_spaces_on_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    print_line("£20\u00a0million\u3000桥\u200b\x1b[2J")
    assert capsys.readouterr().out == "£20\u00a0million\u3000桥\\u200b\\x1b[2J\n"


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ("", "careful\n"),
        ("show_log(); show_log()", "step\ncareful\n"),
        ("logging.basicConfig(level='INFO', format='%(name)s')", "nutgraf.x\nnutgraf.x\n"),
        ("logging.getLogger('nutgraf').setLevel('ERROR')", ""),
    ],
)
def test_a_program_decides_where_messages_go(settings: str, expected: str) -> None:
    program = (
        f"import logging\nfrom nutgraf.core.console import show_log\n{settings}\n"
        "logger = logging.getLogger('nutgraf.x')\nlogger.info('step')\nlogger.warning('careful')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr, done.stdout) == (0, expected, "")


def speaks(name: str) -> str:
    logger.debug("not wanted")
    logger.info("%s begins", name)
    if name == "second":
        raise Failure("second is broken")
    return name


def test_messages_of_processes_reach_the_log_of_the_program(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run_jobs(speaks, ["first"], processes=1) == ["first"]
    with pytest.raises(Failure, match="second is broken"):
        run_jobs(speaks, ["second"], processes=1)
    error = "failed, what else is under way goes on: second is broken"
    expected = [
        (logger.name, logging.INFO, "first begins"),
        (logger.name, logging.INFO, "second begins"),
        (run_jobs.__module__, logging.WARNING, error),
    ]
    assert caplog.record_tuples == expected
    assert capfd.readouterr().err.splitlines() == [message for *_, message in expected]


def test_a_librarys_warning_and_log_are_a_line_without_a_place_in_the_code(monkeypatch, capsys):
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    monkeypatch.setattr(logging, "lastResort", logging.lastResort)
    console.show_log()
    place = "/x/lib/python3.11/site-packages/peft/tuners/a.py"
    warnings.showwarning("tied\nlayers \x1b[31m", UserWarning, place, 1463)
    assert logging.lastResort
    logging.lastResort.handle(logging.makeLogRecord({"msg": "one\ntwo", "levelno": 30}))
    err = capsys.readouterr().err
    assert err == "peft: tied layers \\x1b[31m\none\\ntwo\n"
