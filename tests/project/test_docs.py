"""The documents: commands that parse, files that exist, settings that are today's.

A fenced block that nothing can check says why, in a comment before it: `<!-- not checked: why -->`.

`python tests/project/test_docs.py` writes docs/settings.md again.
"""

from __future__ import annotations

import contextlib
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from helpers.places import ROOT

import nutgraf.cli
import nutgraf.serving
from nutgraf.cli import main as cli
from nutgraf.config import Config
from nutgraf.config import load as config
from nutgraf.config.effects import DECIDES
from nutgraf.config.load import setting_fields
from nutgraf.data import article_store, load, rows, sources
from nutgraf.pipeline import runner
from nutgraf.pocket import newswire

DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
# What a document calls a program, where it does not stand at a prompt.
INLINE = re.compile(r"`((?:nutgraf|make|python|pip) [^`]+)`")


def fences(path: Path) -> list[tuple[str, str, bool]]:
    """(language, text, whether it is to be checked) of every fenced block of a document."""
    fenced = re.findall(
        r"(<!-- not checked: [^\n]+ -->\n+)?^```(\w*)\n(.*?)^```",
        path.read_text(),
        re.DOTALL | re.MULTILINE,
    )
    return [(language, text, not excused) for excused, language, text in fenced]


def blocks(path: Path, language: str) -> list[str]:
    """The fenced blocks of a document in `language` that are to be checked."""
    return [text for name, text, checked in fences(path) if checked and name == language]


def commands() -> list[tuple[str, str]]:
    """(document, command line) of every line typed at a prompt."""
    return [
        (path.name, line.removeprefix("$ "))
        for path in DOCUMENTS
        for block in blocks(path, "console")
        for line in block.splitlines()
        if line.startswith("$ ")
    ]


def inline_commands() -> list[tuple[str, str]]:
    """(document, command line) of every one in a line of text, but for a pattern of one."""
    inline = [(path, line) for path in DOCUMENTS for line in INLINE.findall(path.read_text())]
    return [(path.name, line) for path, line in inline if not re.search(r"[\[…]|[A-Z]{2}", line)]


def files(document: str) -> dict[str, str]:
    """The files that a document shows whole: blocks that begin with a comment with their name."""
    (path,) = (path for path in DOCUMENTS if path.name == document)
    matches = (re.match(r"# ([\w-]+\.(?:py|yaml))\n", text) for _, text, _ in fences(path))
    return {name[1]: name.string for name in matches if name}


def check_script(words: list[str], shown: dict[str, str]) -> None:
    """A script, module or test that is there, with options that it names."""
    if words[:1] == ["-m"]:
        module, words = words[1], words[1:]
        if module == "pytest":
            assert all((ROOT / name.partition("::")[0]).exists() for name in words[1:2])
            return
        folder = ROOT / "src" if module.startswith("nutgraf.") else ROOT
        script = folder / f"{module.replace('.', '/')}.py"
    else:
        script = ROOT / words[0]
    text = shown.get(words[0]) or script.read_text()
    for option in (word for word in words[1:] if word.startswith("--")):
        assert option in text or option[2:].replace("-", "_") in text, option


def check_make(targets: list[str]) -> None:
    """Targets of the Makefile."""
    makefile = (ROOT / "Makefile").read_text()
    assert all(f"\n{target}:" in makefile for target in targets)


@pytest.mark.parametrize(("document", "line"), commands())
def test_every_command_line_is_one_that_exists(document, line, monkeypatch, tmp_path):
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)  # where there are no runs yet, as in a fresh clone
    shown = files(document)
    for name, text in shown.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(runner, "run_study", lambda *args, **kwargs: False)
    monkeypatch.setattr(cli, "_print_table", lambda *args: None)
    quiet = SimpleNamespace(run=lambda *args, **kwargs: None, beside=contextlib.nullcontext)
    for name in ("check", "score_file", "summarize", "export"):
        monkeypatch.setattr(nutgraf.cli, name, quiet, raising=False)
    for command in (nutgraf.cli.trial, nutgraf.cli.check_facts):
        monkeypatch.setattr(command, "_run", lambda *args: None)
    for name in ("server", "judge", "watch"):
        monkeypatch.setattr(nutgraf.serving, name, quiet, raising=False)
    line = re.sub(r"^(\w+=\S+ |taskset -c \S+ )*", "", line)
    program, *words = shlex.split(re.split(r"\s[<|>]\s", line)[0])
    if program == "nutgraf":
        assert cli.main(words) == 0
    elif program == "make":
        check_make(words)
    elif program == "python":
        check_script(words, shown)
    else:
        assert line == "source .venv/bin/activate", f"{document}: nothing checks {line!r}"


@pytest.mark.parametrize(("document", "line"), inline_commands())
def test_commands_in_a_line_of_text_name_what_is_there(document, line):
    program, *words = shlex.split(line)
    if program == "nutgraf":
        commands = {
            "run",
            *runner.STAGES,
            "check",
            "check-facts",
            "summarize",
            "serve",
            "export",
            "watch",
            "trial",
            "judge",
        }
        assert words[0] in commands | {"--help"}
    elif program == "make":
        check_make(words)
    elif program == "python":
        check_script(words, files(document))
    else:
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        named = re.search(r"\.\[([\w,]+)\]$", line)
        assert named, f"{document}: nothing checks {line!r}"
        assert set(named[1].split(",")) <= set(extras["optional-dependencies"])


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_block_is_of_a_kind_that_is_checked_or_says_why_not(path):
    for language, text, checked in fences(path):
        assert not checked or language in ("console", "text", "yaml", "python"), text
        if (
            language in ("yaml", "python") and path.name != "python.md"
        ):  # see tests/project/test_python_api.py
            assert text in files(path.name).values(), "begin with a comment that names the file"


def test_the_guide_s_example_gives_three_splits_with_nothing_in_common(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    article_store.write_split(
        (rows.Article(s.id, s.article, s.reference) for s in newswire.stories("test", 100, 1)),
        tmp_path / "articles.parquet",
    )
    for name, text in files("own-data.md").items():
        (tmp_path / name).write_text(text)
    subprocess.run([sys.executable, "split.py"], check=True)
    data = config.load_config(Path("own.yaml")).data
    drawn = {split: load.load_articles(data, split).articles for split in sources.SPLITS}
    assert [len(articles) for articles in drawn.values()] == [60, 20, 20]
    assert len({article.id for articles in drawn.values() for article in articles}) == 100


def test_the_commands_table_names_every_command():
    table = re.compile(r"^\| `nutgraf ([\w-]+)", re.MULTILINE)
    commands = ["run", *runner.STAGES, "check", "check-facts", "summarize", "serve", "watch"]
    commands += ["trial", "judge", "export"]
    every = table.findall((ROOT / "docs" / "commands.md").read_text())
    assert list(dict.fromkeys(every)) == commands
    main = table.findall((ROOT / "README.md").read_text())
    assert main == [name for name in commands if name not in runner.STAGES]


def test_stages_are_described_as_in_the_help():
    text = (ROOT / "docs" / "commands.md").read_text().replace("`", "")
    for name, what in runner.STAGES.items():
        assert f"| nutgraf {name} | {what} |" in text


def test_the_table_of_where_a_new_thing_goes_names_paths_that_exist():
    rows = re.findall(r"^\|.*\|$", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    paths = [path for row in rows for path in re.findall(r"`([a-z_/-]+(?:\.[a-z]+|/))`", row)]
    assert len(paths) > 20
    for path in paths:
        assert (ROOT / path).exists() or (ROOT / "src" / "nutgraf" / path).exists(), path


def test_the_design_names_every_room_once():
    text = (ROOT / "docs" / "design.md").read_text()
    packages = {path.parent.name for path in (ROOT / "src" / "nutgraf").glob("*/__init__.py")}
    assert sorted(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)) == sorted(packages)


def test_every_test_that_a_document_names_exists():
    """`test_x`, and `test_x…` for all that begin so."""
    tests = list((ROOT / "tests").rglob("test_*.py"))
    names = {path.stem for path in tests}
    for path in tests:
        names.update(re.findall(r"def (test_\w+)", path.read_text("utf-8")))
    for document in DOCUMENTS:
        for name, more in re.findall(r"\b(test_\w+)(…?)", document.read_text("utf-8")):
            assert any(each == name or (more and each.startswith(name)) for each in names), name


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_to_files(path):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", path.read_text()):
        assert (path.parent / target).exists(), target


def test_pocket_scores_are_never_without_their_caution():
    text = " ".join((ROOT / "README.md").read_text().split())
    assert "they say nothing about CNN/DailyMail or any other real news" in text


HEAD = "| setting | default | | decides |"


def settings_page() -> str:
    """docs/settings.md: every setting with its default and its sentence, a section a table."""
    lines = [
        "# Settings",
        "",
        "Made from `src/nutgraf/config/` by `python tests/project/test_docs.py`. The defaults are",
        "the pocket study; `configs/` holds others, which `nutgraf run NAME` takes by their names.",
        "In YAML a section is a mapping; on the command line `train.learning_rate` is",
        "`--train.learning-rate 1e-3`.",
        "",
        "The last column says what a changed value makes again: artefacts of the run folder, and",
        "what follows from them if they come out different. Without one, nothing is made again.",
        "",
        HEAD,
        "|---|---|---|---|",
    ]
    defaults = Config().model_dump(mode="json")
    section = ""
    for name, sentence, default in setting_fields():
        here, _, field = name.rpartition(".")
        if here != section:
            section = here
            about = Config.model_fields[here.partition(".")[0]].description
            lines += [
                "",
                f"## {here}",
                "",
                str(about),
                "",
                HEAD,
                "|---|---|---|---|",
            ]
        default = default if "NAME" in here else defaults[here][field] if here else defaults[field]
        decides = DECIDES[name].replace(" ", ", ")
        lines.append(f"| `{name}` | {_shown(default)} | {sentence} | {decides} |")
    return "\n".join(lines) + "\n"


def _shown(default: object) -> str:
    """A default as YAML on one line."""
    text = yaml.safe_dump(default, default_flow_style=True, sort_keys=False, width=1000)
    return f"`{text.splitlines()[0]}`"  # a scalar has an end-of-document mark behind it


def test_the_settings_page_is_today_s():
    page = (ROOT / "docs" / "settings.md").read_text()
    assert page == settings_page(), "run `python tests/project/test_docs.py`"


if __name__ == "__main__":
    (ROOT / "docs" / "settings.md").write_text(settings_page())
