"""The documents: commands that parse, files that exist, settings that are today's.

`python tests/test_readme.py` writes docs/settings.md again.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

import nutgraf.apps
from nutgraf import cli, study
from nutgraf.config import fields
from nutgraf.settings import Config

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(path: Path, language: str) -> list[str]:
    """The fenced blocks of a document in `language`."""
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE)


def commands() -> list[tuple[str, str]]:
    """(document, command line) of every line typed at a prompt."""
    return [
        (path.name, line.removeprefix("$ "))
        for path in DOCUMENTS
        for block in blocks(path, "console")
        for line in block.splitlines()
        if line.startswith("$ ")
    ]


@pytest.mark.parametrize(("document", "line"), commands())
def test_every_command_line_is_one_that_exists(document, line, monkeypatch, tmp_path):
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)  # where there are no runs yet, as in a fresh clone
    monkeypatch.setattr(study, "run", lambda *args, **kwargs: False)
    monkeypatch.setattr(cli, "_print_table", lambda *args: None)
    for app in ("check", "score", "summarize", "serve", "export"):
        quiet = SimpleNamespace(run=lambda *args, **kwargs: None)
        monkeypatch.setattr(nutgraf.apps, app, quiet, raising=False)
    program, *words = shlex.split(re.split(r"\s[<|>]\s", line)[0])
    if program == "nutgraf":
        assert cli.main(words) == 0
    elif program == "make":
        makefile = (ROOT / "Makefile").read_text()
        assert all(f"\n{target}:" in makefile for target in words)
    else:
        assert line == "source .venv/bin/activate", f"{document}: nothing checks {line!r}"


def test_the_commands_table_names_every_command():
    named = re.findall(r"^\| `nutgraf (\w+)", (ROOT / "README.md").read_text(), re.MULTILINE)
    told = ["run", *study.STAGES, "check", "summarize", "serve", "export"]
    assert list(dict.fromkeys(named)) == told


def test_stages_are_told_as_the_help_tells_them():
    text = (ROOT / "README.md").read_text().replace("`", "")
    for name, what in study.STAGES.items():
        assert f"| nutgraf {name} | {what} |" in text


def tree() -> list[str]:
    """Paths in the README's tree, folders with a slash at their end."""
    (block,) = (b for b in blocks(ROOT / "README.md", "text") if b.startswith("Makefile"))
    paths, folder = [], ""
    for line in block.splitlines():
        name = line.split()[0]
        if not line.startswith(" "):
            folder = name
        paths.append(f"{folder}{name}" if line.startswith(" ") else name)
    return paths


def test_the_tree_names_what_exists():
    for path in tree():
        assert (ROOT / path).is_dir() == path.endswith("/")
        assert (ROOT / path).exists(), path


def test_the_tree_names_every_room():
    rooms = {
        f"src/nutgraf/{path.name}{'/' * path.is_dir()}"
        for path in (ROOT / "src" / "nutgraf").iterdir()
        if not path.name.startswith("_")
    }
    assert rooms - set(tree()) == set(), "give each of these a line in README's tree"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_to_files(path):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", path.read_text()):
        assert (path.parent / target).exists(), target


def test_pocket_scores_are_never_without_their_caution():
    text = " ".join((ROOT / "README.md").read_text().split())
    assert "they say nothing about CNN/DailyMail or any other real news" in text


def settings_page() -> str:
    """docs/settings.md: every setting with its default and its sentence, a section a table."""
    lines = [
        "# Settings",
        "",
        "Made from `src/nutgraf/settings.py` by `python tests/test_readme.py`. The defaults are",
        "the pocket study; `configs/` holds others. In YAML a section is a mapping; on the command",
        "line `train.learning_rate` is `--train.learning-rate 1e-3`.",
        "",
        "| setting | default | |",
        "|---|---|---|",
    ]
    defaults = Config().model_dump(mode="json")
    section = ""
    for name, sentence, default in fields():
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
                "| setting | default | |",
                "|---|---|---|",
            ]
        default = default if "NAME" in here else defaults[here][field] if here else defaults[field]
        lines.append(f"| `{name}` | {_shown(default)} | {sentence} |")
    return "\n".join(lines) + "\n"


def _shown(default: object) -> str:
    """A default as YAML on one line."""
    text = yaml.safe_dump(default, default_flow_style=True, sort_keys=False, width=1000)
    return f"`{text.splitlines()[0]}`"  # a scalar has an end-of-document mark behind it


def test_the_settings_page_is_today_s():
    page = (ROOT / "docs" / "settings.md").read_text()
    assert page == settings_page(), "run `python tests/test_readme.py`"


if __name__ == "__main__":
    (ROOT / "docs" / "settings.md").write_text(settings_page())
