"""A study in an output cell of a notebook."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import IPython
import IPython.display
import pytest
from helpers.watched import snapshot, write_search

import nutgraf
from nutgraf.pipeline import runner
from nutgraf.watching import notebook


def test_the_cell_shows_stages_and_curves_and_escapes_what_it_reads(tmp_path: Path) -> None:
    write_search(tmp_path)
    (new := tmp_path / "new").mkdir()
    seen = snapshot(tmp_path)
    seen["problems"] = seen["log"] = [{"text": "<script>alert(1)</script> & more"}]
    page = notebook.render(seen)
    root = ElementTree.fromstring(page)
    assert len(root.findall(".//polyline")) == 4
    assert root.find(".//script") is None
    assert "<script>alert(1)</script> & more" in "".join(root.itertext())
    assert "5 of 6 trials; lowest validation loss 2.100, of trial 1" in page
    assert "<polyline" not in notebook.render(snapshot(new))


def test_run_shows_the_study_while_it_runs_and_at_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages: list[str] = []
    handle = SimpleNamespace(update=lambda page: pages.append(page.data))
    monkeypatch.setattr(runner, "run_study", lambda *a, **k: write_search(tmp_path))
    with pytest.raises(nutgraf.UserError, match="needs a notebook: elsewhere give `nutgraf run"):
        nutgraf.run(run=str(tmp_path), watch=True)
    monkeypatch.setattr(IPython, "get_ipython", lambda: object())
    monkeypatch.setattr(IPython.display, "display", lambda *a, **k: handle)
    assert nutgraf.run(run=str(tmp_path), watch=True) == tmp_path
    assert "5 of 6 trials" in pages[-1]
