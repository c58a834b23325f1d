"""Blocks of code in a model card, and what they print when they are run."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def run_snippet(code: str, folder: Path, article: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """What a block of Python prints in the model's folder."""
    (folder / "article.txt").write_text(article, encoding="utf-8")
    monkeypatch.chdir(folder)
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(code, "card", "exec"), {})
    (folder / "article.txt").unlink()
    return out.getvalue().strip()
