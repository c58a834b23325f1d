"""The notebook: runs from top to bottom with a small budget, in short cells, without an error."""

from __future__ import annotations

import nbformat
import pandas as pd
import pytest
from helpers.places import ROOT
from nbclient import NotebookClient

from nutgraf.config import Config
from nutgraf.config.load import setting_fields
from nutgraf.config.systems import system_names

NOTEBOOK = ROOT / "FineTuneTinyLlama.ipynb"
SMALL = {
    "data.train_examples": 16,
    "data.validation_examples": 4,
    "data.test_examples": 4,
    "train.max_examples": 16,
    "train.eval_every": 8,
    "train.eval_examples": 4,
    "search.trials": 2,
    "search.concurrent": 1,
    "search.finalists": 1,
    "search.rouge_examples": 2,
    "generate.max_new_tokens": 24,
    "score.resamples": 500,
}
SECTIONS = (
    "Setup",
    "Environment",
    "Data",
    "Preprocessing",
    "Search",
    "Best and baseline",
    "Evaluation",
    "Results and plots",
    "Error analysis",
    "Sample prediction",
)


@pytest.fixture
def notebook() -> nbformat.NotebookNode:
    return nbformat.read(NOTEBOOK, as_version=4)


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def printed(cell: nbformat.NotebookNode) -> str:
    """What a cell wrote to standard output."""
    return "".join(out.text for out in cell.outputs if out.get("name") == "stdout")


def cell_with(notebook: nbformat.NotebookNode, source: str) -> nbformat.NotebookNode:
    (matching,) = (cell for cell in code_cells(notebook) if source in cell.source)
    return matching


def test_cells_are_under_ten_lines(notebook):
    assert all(len(cell.source.splitlines()) < 10 for cell in code_cells(notebook))


def test_the_sections_stand_in_their_order_and_say_what_to_look_for(notebook):
    texts = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    headings = [text.splitlines()[0] for text in texts if text.startswith("## ")]
    assert headings == [f"## {n}. {name}" for n, name in enumerate(SECTIONS, 1)]
    assert all(len(text.split()) > 8 for text in texts)


def test_the_committed_outputs_have_no_error(notebook):
    kinds = [out.output_type for cell in code_cells(notebook) for out in cell.outputs]
    assert "error" not in kinds


def test_it_runs_from_top_to_bottom(notebook, tmp_path):
    assert set(SMALL) <= {name for name, _, _ in setting_fields()}
    (place,) = (
        n for n, c in enumerate(notebook.cells) if "parameters" in c.metadata.get("tags", [])
    )
    small = {"CONFIG": "configs/pocket.yaml", "RUN": str(tmp_path / "run"), "OVERRIDES": SMALL}
    code = "\n".join(f"{name} = {value!r}" for name, value in small.items())
    notebook.cells.insert(place + 1, nbformat.v4.new_code_cell(code))
    watched = "nutgraf.run(CONFIG, run=RUN, watch=True, **OVERRIDES)"  # all is finished
    notebook.cells.append(nbformat.v4.new_code_cell(watched))
    client = NotebookClient(
        notebook, timeout=1200, kernel_name="python3", resources={"metadata": {"path": str(ROOT)}}
    )
    client.execute()

    table = pd.read_csv(tmp_path / "run" / "model_comparison_results.csv")
    assert list(table.loc[table["source"] == "measured", "system"]) == list(system_names(Config()))
    shown = printed(cell_with(notebook, "render_table("))
    assert all(f"\n{system}" in shown for system in system_names(Config()))
    assert "say nothing about CNN/DailyMail" in " ".join(shown.split())

    frame, view = (o.data["text/html"] for o in code_cells(notebook)[-1].outputs if "data" in o and
               "text/html" in o.data)  # fmt: skip
    assert frame.startswith("<div><iframe id=")
    assert "2 of 2 trials" in view
    assert "<td" in view

    article, _, summary = printed(cell_with(notebook, "Summarizer(")).partition("--- summary")
    assert len(article.split()) > 100
    assert summary.strip()

    images = [
        out
        for cell in code_cells(notebook)
        for out in cell.outputs
        if "image/png" in out.get("data", {})
    ]
    drawn = {path.stem for path in (tmp_path / "run" / "figures").glob("*.png")}
    assert len(images) == len(drawn)
