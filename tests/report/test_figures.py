"""Figures from small made-up records, degenerate ones included."""

import math
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from nutgraf.evaluation import published
from nutgraf.report.figures import canvas, scores, search

NAN = float("nan")
DATA = "the synthetic newswire"


def system(name: str, rougelsum: float, source: str = "measured", **values: object) -> dict:
    row = {
        "system": name,
        "source": source,
        "n": 120 if source == "measured" else 11490,
        "rouge1": rougelsum + 4,
        "rouge2": rougelsum / 2,
        "rougeL": rougelsum - 3 if source == "measured" else NAN,
        "rougeLsum": rougelsum,
        "rougeLsum_low": rougelsum - 2 if source == "measured" else NAN,
        "rougeLsum_high": rougelsum + 2 if source == "measured" else NAN,
        "loss": NAN,
        "perplexity": NAN,
        "learning_rate": NAN,
        "gradient_accumulation_steps": NAN,
        "weight_decay": NAN,
        "lora_r": NAN,
        "train_examples": NAN,
        "train_seconds": NAN,
    }
    return {**row, **values}


TABLE = pd.DataFrame(
    [
        system("lead3", 18.2),
        system("zero_shot", 14.9, loss=3.1, perplexity=22.2),
        system("baseline", 51.4, loss=0.92, perplexity=2.51, train_seconds=48.0),
        system("best", 57.1, loss=0.71, perplexity=2.03, train_seconds=51.0),
        system("BART-large", 40.90, "published"),
        system("PEGASUS-large", 41.11, "published"),
    ]
)
TRIALS = pd.DataFrame(
    [
        (0, "completed", None, 0.002, 800, 0.75, 2.1, 59.0, 44.0, 52.0, 55.0, 40.0, False),
        (1, "completed", None, 0.005, 800, 0.70, 2.0, 61.0, 45.0, 54.0, 57.0, 41.0, True),
        (2, "stopped", None, 0.0006, 200, 1.90, 6.7, NAN, NAN, NAN, NAN, 11.0, False),
        (3, "error", "loss is NaN", 0.01, 0, NAN, NAN, NAN, NAN, NAN, NAN, 2.0, False),
    ],
    columns="trial status error train.learning_rate examples validation_loss perplexity rouge1 "
    "rouge2 rougeL rougeLsum seconds chosen".split(),
).assign(proposed_by="random")
HISTORY = pd.DataFrame(
    [(0, 200, 1.6), (0, 400, 1.1), (0, 800, 0.75), (1, 200, 1.4), (1, 800, 0.70), (2, 200, 1.9)],
    columns=["trial", "examples", "validation_loss"],
)
CURVE = pd.DataFrame(
    [(1, 8, 3.0, NAN), (10, 80, 2.0, NAN), (25, 200, NAN, 1.5), (100, 800, 0.7, 0.75)],
    columns=["step", "examples", "train_loss", "validation_loss"],
)
RATES = pd.DataFrame(
    {"reference": [0.0, 1.0, 0.0], "lead3": [0.0, 0.0, 99.0], "best": [3.0, 12.0, 40.0]},
    index=["unfinished", "unsupported_names", "missing_key_facts"],
)


def every_figure(table: pd.DataFrame, trials: pd.DataFrame, history: pd.DataFrame) -> list[Figure]:
    return [
        scores.rouge_by_system(table, DATA),
        scores.loss_perplexity_time(table, DATA),
        scores.against_published(table, DATA, "Other data: not to be compared."),
        scores.gaps(table, DATA, "Other data: not to be compared."),
        search.loss_against_rouge(trials, DATA),
        search.scores_by_trial(trials, DATA),
        search.search_history(history, trials, DATA),
        search.training_curves({"baseline": CURVE, "best": CURVE}, DATA),
        scores.error_rates(RATES, 120, DATA),
        scores.relative_performance(table, DATA, "other data"),
        search.search_settings(trials, ["train.learning_rate"], DATA),
    ]


def words(figure: Figure) -> str:
    """All text of a figure, laid out as it would be drawn."""
    figure.draw_without_rendering()
    return " ".join(" ".join(text.get_text() for text in figure.findobj(Text)).split())


def test_every_figure_names_its_data_and_draws() -> None:
    for figure in every_figure(TABLE, TRIALS, HISTORY):
        text = words(figure)
        assert DATA in text
        assert figure.get_suptitle() in text


@pytest.mark.parametrize(
    ("trials", "history"),
    [
        (TRIALS[1:2], HISTORY[HISTORY.trial == 1]),
        (TRIALS[3:], HISTORY[:0]),
        (TRIALS[2:3], HISTORY[HISTORY.trial == 2]),
        (TRIALS[:0], HISTORY[:0]),
    ],
    ids=["one trial", "only a failed trial", "only a stopped trial", "no trial"],
)
def test_degenerate_searches_draw(trials: pd.DataFrame, history: pd.DataFrame) -> None:
    drawn = every_figure(TABLE, trials, history)
    for figure in (*drawn[4:7], drawn[-1]):
        assert DATA in words(figure)


@pytest.mark.parametrize("rows", [["lead3"], ["best"], ["lead3", "zero_shot"], ["BART-large"]])
def test_degenerate_tables_draw(rows: list[str]) -> None:
    table = TABLE[TABLE.system.isin(rows)]
    drawn = every_figure(table, TRIALS, HISTORY)
    for figure in (*drawn[:4], drawn[-2]):
        assert DATA in words(figure)


def test_what_was_not_measured_is_written_not_drawn_as_zero() -> None:
    assert "not measured" in words(search.scores_by_trial(TRIALS, DATA))
    axis = search.scores_by_trial(TRIALS, DATA).axes[1]
    assert [bar.get_width() for bar in axis.patches] == [59.0, 61.0]


def test_a_failed_trial_is_called_so() -> None:
    assert "3 (error)" in words(search.scores_by_trial(TRIALS, DATA))


def test_measured_and_published_are_told_apart() -> None:
    figure = scores.against_published(TABLE, DATA, "Other data.")
    assert "BART-large (published)" in words(figure)
    filled = [line.get_markerfacecolor() != "none" for line in figure.axes[2].lines]
    assert filled == ["large" not in name for name in TABLE.sort_values("rougeLsum").system]


def test_gaps_are_differences_in_points() -> None:
    axis = scores.gaps(TABLE, DATA, "").axes[0]
    best = next(line for line in axis.lines if line.get_label() == "best")
    assert list(best.get_xdata()) == pytest.approx([57.1 - 18.2, 57.1 - 40.90, 57.1 - 41.11])


def test_whiskers_are_the_intervals() -> None:
    axis = scores.rouge_by_system(TABLE, DATA).axes[3]
    assert [tuple(line.get_xdata()) for line in axis.lines][-1] == (55.1, 59.1)


def test_a_line_a_trial_runs_through_its_settings_to_its_loss() -> None:
    targets = ["all-linear", "q_proj", "all-linear", "q_proj"]
    trials = TRIALS.assign(**{"lora.target_modules": targets})
    searched = ["train.learning_rate", "lora.target_modules"]
    axis = search.search_settings(trials, searched, DATA).axes[0]
    lines = [list(line.get_ydata()) for line in axis.lines if len(line.get_xdata()) == 3]
    # Chosen last, so that it lies on top. Rates from 0.0006 to 0.01 stand on a log scale.
    rate = math.log(0.005 / 0.0006) / math.log(0.01 / 0.0006)
    assert lines[-1] == pytest.approx([rate, 0.75, 0])
    assert lines[0][1:] == pytest.approx([0.25, (0.75 - 0.70) / (1.90 - 0.70)])
    assert math.isnan(lines[2][2])  # the failed one has no loss
    assert [line.get_linestyle() for line in axis.lines[-4:]] == ["-", "--", "--", "-"]


def test_a_share_of_a_published_score_is_drawn_for_the_same_data_only() -> None:
    figure = scores.relative_performance(TABLE, DATA, published.BART)
    of_lead, of_bart = ([bar.get_width() for bar in axis.patches] for axis in figure.axes)
    assert of_lead[-1] == pytest.approx(100 * 57.1 / 18.2)
    assert of_bart[-1] == pytest.approx(100 * 57.1 / 40.90)
    whisker = figure.axes[1].lines[-2].get_xdata()
    assert list(whisker) == pytest.approx([100 * 55.1 / 40.90, 100 * 59.1 / 40.90])
    without = scores.relative_performance(TABLE, DATA, "other data")
    assert "not given: other data" in words(without)
    assert not without.axes[1].patches


def test_a_system_keeps_its_colour() -> None:
    alone, together = canvas.colours_of(["best"]), canvas.colours_of(["lead3", "bart", "best"])
    assert alone["best"] == together["best"]
    assert len(set(together.values())) == 3


def test_the_same_figure_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        canvas.save(scores.rouge_by_system(TABLE, DATA), tmp_path / name / "rouge")
    for kind in ("svg", "png"):
        first, second = (tmp_path / name / f"rouge.{kind}" for name in ("a", "b"))
        assert first.read_bytes() == second.read_bytes()


def test_svg_keeps_text_as_text_escaped_and_follows_the_page(tmp_path: Path) -> None:
    table = TABLE.assign(system=TABLE.system.replace("best", "<script>$x$</script>"))
    canvas.save(scores.rouge_by_system(table, DATA), tmp_path / "rouge")
    svg = (tmp_path / "rouge.svg").read_text()
    assert "&lt;script&gt;$x$&lt;/script&gt;" in svg
    assert "<script>" not in svg
    assert "currentColor" in svg
    assert canvas.INK not in svg.replace(f'color="{canvas.INK}"', "")
    assert not re.search(r"\d{4}-\d\d-\d\d", svg)


def test_figures_load_no_torch() -> None:
    code = "import sys, nutgraf.report.figures.scores; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
