"""The report from made-up records: what it says, what it escapes, that it asks no host."""

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from test_figures import CURVE, HISTORY, TABLE, TRIALS, every_figure

from nutgraf import differences, figures, report
from nutgraf.config import build
from nutgraf.report import Study, render, verdict
from nutgraf.runfolder import RunFolder, write_json, write_records
from nutgraf.stages import report as stage

EVIL = '<script>alert("x")</script>'
NAMES = (
    "rouge_by_system loss_perplexity_time against_published gaps loss_against_rouge "
    "scores_by_trial search_history training_curves error_rates"
).split()
SYSTEMS = ("lead3", "zero_shot", "baseline", "best")


def records(frame: pd.DataFrame) -> list[dict]:
    return frame.astype(object).where(frame.notna(), None).to_dict("records")


def difference(other: str, low: float, high: float) -> dict:
    return {"system": "best", "other": other, "metric": "rougeLsum", "n": 120, "low": low,
            "high": high, "difference": (low + high) / 2, "p": 0.0002, "p_holm": 0.0004,
            "verdict": "better"}  # fmt: skip


@pytest.fixture(scope="session")
def svgs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("figures")
    found = {}
    for name, figure in zip(NAMES, every_figure(TABLE, TRIALS, HISTORY), strict=True):
        figures.save(figure, folder / name)
        found[name] = (folder / f"{name}.svg").read_text()
    return found


@pytest.fixture
def study(svgs: dict[str, str]) -> Study:
    story = ("The mayor of Garehouse said on Monday that 2,500 homes would be built. " * 25).strip()
    errors = pd.DataFrame(
        {
            "id": f"test-{i}",
            "system": system,
            **dict.fromkeys(report.KINDS, 0),
            "unsupported_names": int(system == "best" and i < 3),
            "words": 30 + i,
            "length_ratio": 1.1,
        }
        for system in ("reference", *SYSTEMS)
        for i in range(10)
    )
    example = {
        "id": f"test-1 {EVIL}",
        "article": story + EVIL,
        "reference": "Garehouse builds homes.\nThe mayor said so.",
        "summaries": dict.fromkeys(SYSTEMS, "Graehouse builds 25 homes."),
        "flags": {**{name: [] for name in SYSTEMS}, "best": [[0, 9, "unsupported name"]]},
        "why": "rank 1 of 120",
    }
    split = {
        "source": "newswire", "revision": None, "rows_read": 120, "rejected": {"empty summary": 2},
        "asked": 120, "sampled": 118, "seed": 42, "duplicates": 0, "shared": {"train": 3},
        "article_words_mean": 212.5, "summary_words_mean": 33.1,
    }  # fmt: skip
    trained = {
        "learning_rate": 0.00213, "gradient_accumulation_steps": 2, "micro_batch_size": 4,
        "weight_decay": 0.01, "lora_r": 16, "lora_alpha": 32.0, "examples": 800, "steps": 100,
        "seconds": 48.2, "peak_memory_bytes": 1_200_000_000, "validation_loss": 0.71,
        "perplexity": 2.03,
    }  # fmt: skip
    return Study(
        run="runs/pocket",
        command="nutgraf run runs/pocket/config.yaml",
        data="the embedded synthetic newswire",
        caution="These scores are of a synthetic newswire and say nothing about CNN/DailyMail.",
        table=records(TABLE),
        differences=[difference(other, 2.0, 4.0) for other in SYSTEMS[:3]],
        trials=[*records(TRIALS)[:3], {**records(TRIALS)[3], "error": f"loss is NaN {EVIL}"}],
        searched=["train.learning_rate"],
        models={"baseline": trained, "best": trained},
        published=[
            {
                "system": "BART-large", "rouge1": 44.16, "rouge2": 21.28, "rougeLsum": 40.9,
                "n": 11490, "variant": "summary-level", "citation": "Lewis et al. 2020, https://x.org",
            }
        ],
        errors=errors,
        meanings={name: f"Meaning of {name}." for name in (*report.KINDS, "words", "length_ratio")},
        examples=[{**example, "id": f"{example['id']} {i}"} for i in range(10)],
        card={"warnings": ["OVERLAP: 3 of 118"], "splits": {"train": split, "test": split}},
        figures=svgs,
        signature={"package": "rouge-score", "stemmer": True},
        configuration="run: runs/pocket\ntrain:\n  learning_rate: 0.0002\n",
        artefacts=[{"artefact": "data", "seconds": 1.2, "digest": "ab" * 32}],
        versions={"nutgraf": "0.1.0", "torch": "2.13.0"},
        machine="Linux x86_64, 2 CPU cores",
    )  # fmt: skip


def test_the_verdict_leads_with_the_score_and_its_interval(study: Study) -> None:
    assert next(verdict(study)).endswith("ROUGE-Lsum 57.10 (95% interval 55.10 to 59.10).")


def test_the_verdict_says_for_each_system_whether_best_is_better(study: Study) -> None:
    told = (
        "no significant difference at n = 120; "
        "about 480 articles would show a difference of this size"
    )
    rows = [
        {**difference("lead3", 2, 4), "metric": "rouge1"},
        difference("zero_shot", 2, 4),
        {**difference("baseline", -1, 2), "p_holm": 0.51, "verdict": told},
    ]
    sentences = list(verdict(dataclasses.replace(study, differences=rows)))
    assert (
        "The best model against zero_shot: better (+3.00 points, paired 95% interval "
        "+2.00 to +4.00, p < 0.001 corrected for 3 comparisons)." in sentences
    )
    assert (
        f"The best model against baseline: {told} (+0.50 points, paired 95% interval "
        "−1.00 to +2.00, p = 0.510 corrected for 3 comparisons)." in sentences
    )
    assert not any("lead3" in sentence for sentence in sentences)


def test_errors_stand_beside_the_references_own(study: Study) -> None:
    assert any("30% of the best" in s and "0% of the references" in s for s in verdict(study))
    rates = report.rates(study.errors)
    assert list(rates.columns) == ["reference", *SYSTEMS]
    assert rates.loc["unsupported_names", "best"] == pytest.approx(30)


def test_published_figures_compare_only_on_the_same_data() -> None:
    assert "cannot be compared" in report.published_note("the embedded synthetic newswire", 120)
    note = report.published_note("abisee/cnn_dailymail 3.0.0", 120)
    assert "cannot" not in note
    assert "120 of its 11,490" in note


def test_nothing_from_outside_becomes_markup(study: Study) -> None:
    for text in render(study):
        assert "<script" not in text
        assert "&lt;script&gt;" in text


def test_outside_text_cannot_leave_its_place_in_markdown() -> None:
    text = report.as_markdown("a | b\n# not a heading\n[x](javascript:y) `c` <b> *d*")
    assert text == r"a \| b \# not a heading \[x\](javascript:y) \`c\` &lt;b&gt; \*d\*"


def test_the_page_asks_no_host(study: Study) -> None:
    page, _ = render(study)
    assert "https://x.org" in page  # a citation, as text
    assert not re.findall(r"""\b(?:src|href|action|data|poster)\s*=\s*["']?[^"'#]""", page)
    assert not re.findall(
        r"<(?:link|script|iframe|img|object|embed|base)\b|@import|url\((?!#)", page
    )
    assert "default-src 'none'" in page


def test_the_page_is_small_whole_and_has_its_figures(study: Study) -> None:
    page, _ = render(study)
    assert len(page.encode()) < 3_000_000
    assert page.count("<svg") == page.count("</svg>") == len(NAMES)
    assert page.count('<article class="example"') == 10
    assert page.lstrip().startswith("<!doctype html>")


def test_inline_figures_share_no_ids(study: Study) -> None:
    page, _ = render(study)
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))


def test_the_caution_stands_wherever_scores_do(study: Study) -> None:
    page, plain = render(study)
    for text in (page, plain):
        assert text.count("say nothing about CNN/DailyMail") >= 5
    page, plain = render(dataclasses.replace(study, caution=""))
    assert 'class="caution"' not in page
    assert "**Mind:**" not in plain


def test_both_pages_tell_the_whole_story(study: Study) -> None:
    for text in render(study):
        for fact in (
            "57.10", "55.10 to 59.10", "11,490", "+2.00 to +4.00", "p &lt; 0.001",
            "best against lead3", "loss is NaN", "0.00213", "1.2 GB", "OVERLAP",
            "empty summary: 2", "nutgraf run runs/pocket/config.yaml", "learning_rate: 0.0002",
            "torch 2.13.0", "abababababababab", "Meaning of words.", "Lewis et al. 2020",
        ):  # fmt: skip
            assert fact in text.replace(r"\_", "_")


def test_markdown_tables_are_whole(study: Study) -> None:
    _, plain = render(study)
    tables = re.findall(r"(?:^\|.*\|\n)+", plain, re.M)
    assert len(tables) == 9
    for table in tables:
        cells = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(cells) == 1
        assert set(table.splitlines()[1]) <= set("|- ")


def test_spans_are_marked_where_they_are() -> None:
    assert report.marked("abcdef", [[1, 3, "x"], [2, 4, "y"]]) == [
        ("a", ""), ("b", "x"), ("c", "x, y"), ("d", "y"), ("ef", ""),
    ]  # fmt: skip
    assert report.marked("abc", []) == [("abc", "")]
    assert report.marked("", []) == []


def test_marks_are_in_the_page(study: Study) -> None:
    assert '<mark title="unsupported name">Graehouse</mark> builds' in render(study)[0]


def test_no_trials_no_examples_still_render(study: Study) -> None:
    render(dataclasses.replace(study, trials=[], examples=[], differences=[], models={}))


def test_the_report_loads_neither_torch_nor_matplotlib() -> None:
    code = "import sys, nutgraf.report; sys.exit(bool({'torch', 'matplotlib'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def made_up_run(path: Path, study: Study) -> RunFolder:
    """A run folder as the stages before leave it, with made-up numbers."""
    folder = RunFolder(path)

    def made(name: str, files: dict[str, object], outputs: list[str]) -> None:
        with folder.artefact(name, outputs=outputs).writing() as scratch:
            for file, content in files.items():
                target = scratch / file
                target.parent.mkdir(parents=True, exist_ok=True)
                if isinstance(content, pd.DataFrame):
                    content.to_csv(target, index=False)
                elif isinstance(content, list):
                    write_records(target, content)
                else:
                    write_json(target, content)

    curve = CURVE.assign(learning_rate=1e-3, seconds=1.0)
    made("data", {"data/card.json": study.card}, ["data"])
    made("search", {"search/trials.csv": TRIALS, "search/history.csv": HISTORY}, ["search"])
    for name in ("baseline", "best"):
        files = {
            f"models/{name}/train.json": study.models[name],
            f"models/{name}/history.csv": curve,
        }
        made(f"models/{name}", files, [f"models/{name}"])
    scores = {
        system: [
            {"id": f"test-{i}", "rouge1": 10 + 7.5 * (i % 2) * place, "rouge2": 5.0 + i,
             "rougeLsum": 10.0 * place + i}
            for i in range(10)
        ]
        for place, system in enumerate(SYSTEMS)
    }  # fmt: skip
    for system, rows in scores.items():
        made(f"scores/{system}", {f"scores/{system}.jsonl": rows}, [f"scores/{system}.jsonl"])
    files = {
        "model_comparison_results.csv": TABLE,
        "analysis/errors.csv": study.errors,
        "analysis/differences.csv": pd.DataFrame(differences.table(scores, "best", 400, seed=1)),
        "analysis/examples.jsonl": list(study.examples),
    }
    made("comparison", files, ["model_comparison_results.csv", "analysis"])
    return folder


def test_the_stage_reports_a_run_folder_once(study: Study, tmp_path: Path) -> None:
    folder = made_up_run(tmp_path / "run", study)
    space = {"train.learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}}
    config = build({"run": str(folder.path), "search": {"space": space}})
    assert stage.run(config, folder)
    page = (folder / "report.html").read_text()
    assert "The best model against baseline: better (+10.00 points" in page
    # ROUGE-2 is the same for all of them: it has to be said.
    assert page.count("no significant difference at n = 10") == 3
    assert "synthetic newswire" in page
    assert {p.name for p in (folder / "figures").iterdir()} == {
        f"{name}.{kind}" for name in NAMES for kind in ("svg", "png")
    }
    figures_in_markdown = re.findall(r"\]\((figures/.*?)\)", (folder / "report.md").read_text())
    assert len(figures_in_markdown) == len(NAMES)
    assert all((folder / name).exists() for name in figures_in_markdown)
    assert not stage.run(config, folder)
