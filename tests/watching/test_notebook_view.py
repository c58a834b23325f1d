"""A study in an output cell of a notebook."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import IPython
import IPython.display
import pytest
from helpers.watched import snapshot, write_samples, write_search

import nutgraf
from nutgraf.pipeline import runner
from nutgraf.watching import notebook
from nutgraf.watching.snapshot import Watcher


def test_the_cell_shows_stages_and_curves_and_escapes_what_it_reads(tmp_path: Path) -> None:
    write_search(tmp_path)
    (new := tmp_path / "new").mkdir()
    watcher = Watcher(tmp_path)
    seen = watcher.latest()
    seen["problems"] = seen["log"] = [{"text": "<script>alert(1)</script> & more"}]
    page = notebook.render(seen, watcher.samples("4"))
    root = ElementTree.fromstring(page)
    assert len(root.findall(".//polyline")) == 4
    assert root.find(".//script") is None
    assert "<script>alert(1)</script> & more" in "".join(root.itertext())
    rows = ["|".join(row.itertext()) for row in root.findall(".//tr")]
    settings = "learning rate|gradient accumulation steps|weight decay"
    assert rows[0] == f"Trial|State|{settings}|Articles|Loss|ROUGE-Lsum"
    assert rows[1] == "1|completed|0.001|320|2.100"
    assert [row[0] for row in rows[1:6]] == ["1", "4", "3", "2", "5"]  # who has no loss comes last
    assert rows[-1] == "A mill burned.|<img src=x onerror='document.title = 1'> burned."
    assert "5 of 6 trials; lowest validation loss 2.100, of trial 1" in page
    assert "<polyline" not in notebook.render(snapshot(new))


def test_run_shows_the_study_while_it_runs_and_at_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages: list[str] = []
    handle = SimpleNamespace(update=lambda page: pages.append(page.data))

    def run_study(*_: object, **__: object) -> None:
        write_search(tmp_path)
        write_samples(tmp_path, 1, "Early.", "What <b>it</b> writes.")

    monkeypatch.setattr(runner, "run_study", run_study)
    with pytest.raises(nutgraf.UserError, match="needs a notebook: elsewhere give `nutgraf run"):
        nutgraf.run(run=str(tmp_path), watch=True)
    monkeypatch.setattr(IPython, "get_ipython", lambda: object())
    monkeypatch.setattr(IPython.display, "display", lambda *a, **k: handle)
    assert nutgraf.run(run=str(tmp_path), watch=True) == tmp_path
    assert "5 of 6 trials" in pages[-1]
    assert "What &lt;b&gt;it&lt;/b&gt; writes." in pages[-1]
