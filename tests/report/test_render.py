"""The report from made-up records: what it says, what it escapes, that it asks no host."""

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from test_figures import CURVE, HISTORY, TABLE, TRIALS, every_figure

from nutgraf.config import Config
from nutgraf.config.load import build_config
from nutgraf.config.systems import (
    BUILT_IN_SYSTEMS,
    compared_pairs,
    system_names,
    without_oracle,
)
from nutgraf.core.files import write_json, write_records
from nutgraf.evaluation import significance
from nutgraf.evaluation.indicators import FAULTS
from nutgraf.judging.pair import Item, Pair
from nutgraf.judging.standing import describe
from nutgraf.pipeline.runner import run_stage
from nutgraf.report import render as report
from nutgraf.report.figures import canvas
from nutgraf.report.formatting import as_markdown, mark_class, split_by_marks, with_marks
from nutgraf.report.render import Study, render, verdict
from nutgraf.storage.run_folder import RunFolder

EVIL = '<script>alert("x")</script>'
NAMES = (
    "rouge_by_system loss_perplexity_time against_published gaps loss_against_rouge "
    "scores_by_trial search_history training_curves error_rates relative_performance "
    "search_settings"
).split()
SYSTEMS = system_names(Config())


def records(frame: pd.DataFrame) -> list[dict]:
    return frame.astype(object).where(frame.notna(), None).to_dict("records")


def difference(other: str, low: float, high: float) -> dict:
    return {"system": "best", "other": other, "metric": "rougeLsum", "n": 120, "low": low,
            "high": high, "difference": (low + high) / 2, "p": 0.0002, "p_holm": 0.0004,
            "verdict": "better"}  # fmt: skip


@pytest.fixture(scope="session")
def svgs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("figures")
    drawings = {}
    for name, figure in zip(NAMES, every_figure(TABLE, TRIALS, HISTORY), strict=True):
        canvas.save(figure, folder / name)
        drawings[name] = (folder / f"{name}.svg").read_text()
    return drawings


@pytest.fixture
def study(svgs: dict[str, str]) -> Study:
    story = ("The mayor of Garehouse said on Monday that 2,500 homes would be built. " * 25).strip()
    errors = pd.DataFrame(
        {
            "id": f"test-{i}",
            "system": system,
            "article_words": 100 + 10 * i,
            "trimmed_tokens": 12 if i == 9 and system == "best" else 0,
            **dict.fromkeys(FAULTS, 0),
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
        "flags": {
            **{name: [] for name in ("reference", *SYSTEMS)},
            "best": [[0, 9, "unsupported_names"], [10, 19, "copied"]],
        },
        "why": "rank 1 of 120",
    }
    fault = {
        "system": "best", "kind": "missing_key_facts", "flagged": 7, "place": "worst",
        "value": 2, "rougeLsum": 12.3, "id": "test-7", "article": story, "summary": f"So {EVIL}.",
        "reference": "The mayor of Garehouse spoke.",
        "flags": {"reference": [[13, 22, "missing_key_facts"]], "summary": []},
    }  # fmt: skip
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
        final="best",
        command="nutgraf run runs/pocket/config.yaml",
        data="the embedded synthetic newswire",
        decoding="greedily, at most 96 tokens",
        candidates="",
        choice=None,
        seconds={"baseline": 0.126},
        timing="Seconds a summary are wall time.",
        cuts="",
        caution="These scores are of a synthetic newswire and say nothing about CNN/DailyMail.",
        table=records(TABLE),
        seeds=["one seed (42): the spread between trainings is not known"],
        systems=BUILT_IN_SYSTEMS,
        differences=[difference(other, 2.0, 4.0) for other in without_oracle(SYSTEMS[:-1])],
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
        meanings={name: f"Meaning of {name}." for name in (*FAULTS, "words", "length_ratio")},
        examples=[{**example, "id": f"{example['id']} {i}"} for i in range(10)],
        error_examples=[fault, {**fault, "place": "typical"}],
        validated_on={"loss": 48, "rouge": 32},
        card={
            "warnings": ["OVERLAP: 3 of 118"],
            "splits": {"train": split, "validation": split, "test": split},
        },
        figures=svgs,
        signature={"package": "rouge-score", "stemmer": True},
        prompt="Summarize: {article}\n\nSummary:",
        configuration="run: runs/pocket\ntrain:\n  learning_rate: 0.0002\n",
        planned=[
            {
                "what": "search", "planned": 100.0, "measured": 110.0, "unit": "s",
                "range": [80.0, 150.0],
            },
            {
                "what": "memory of a training", "planned": 2.0, "measured": 2.5, "unit": "GB",
                "range": None,
            },
        ],
        artefacts=[
            {"artefact": "data", "created": 0.0, "seconds": 1.2, "digest": "ab" * 32},
            {"artefact": "models/best", "created": 9.0, "seconds": 50.0, "digest": "cd" * 32},
        ],
        versions={"nutgraf": "0.1.0", "torch": "2.13.0"},
        machine="Linux x86_64, 2 CPU cores",
    )  # fmt: skip


def test_the_verdict_leads_with_the_score_and_its_interval(study: Study) -> None:
    assert next(verdict(study)).endswith("ROUGE-Lsum 57.10 (95% interval 55.10 to 59.10).")


def test_the_verdict_says_in_three_sentences_whether_best_is_better(study: Study) -> None:
    undecided = (
        "no significant difference at n = 120; "
        "about 480 articles would show a difference of this size"
    )
    rows = [
        {**difference("lead3", 2, 4), "metric": "rouge1"},
        difference("zero_shot", 2, 4),
        difference("bart", 3, 5),
        {**difference("pegasus", -4, -2), "verdict": "worse"},
        {**difference("baseline", -1, 2), "p_holm": 0.51, "verdict": undecided},
    ]
    sentences = list(verdict(dataclasses.replace(study, differences=rows)))
    assert len(sentences) == 3
    assert sentences[1].startswith(
        "By ROUGE-Lsum on the same articles the best model is better than zero_shot (+3.00, +2.00 "
        "to +4.00) and bart (+4.00, +3.00 to +5.00); worse than pegasus (−3.00, −4.00 to −2.00); "
        "not significantly different from baseline (+0.50, −1.00 to +2.00; about 480 articles "
        "would show a difference of this size)"
    )
    assert "5 comparisons" in sentences[1]
    assert "lead3" not in sentences[1]


def test_the_plan_stands_beside_what_came_or_is_not_mentioned(study: Study) -> None:
    for text in render(study):
        cells = [cell.strip() for cell in re.split(r"\||</?t[dr]>", text)]
        row = cells.index("memory of a training")
        assert [cell for cell in cells[row : row + 8] if cell][1:4] == ["2.0 GB", "2.5 GB", "1.25"]
        assert "100.0 s (80 to 150 by luck)" in cells
    for text in render(dataclasses.replace(study, planned=[])):
        assert "Planned" not in text


def test_the_winner_was_chosen_on_validation_and_that_stands_beside_test(study: Study) -> None:
    assert "chosen among 4 trials on validation articles" in report.caveat(study)
    for text in render(study):
        cells = " ; ".join(cell.strip() for cell in re.split(r"\||</?t[dr]>", text) if cell.strip())
        assert "baseline ; 0.710 ; 0.920 ; – ; 51.40 ; 49.40 to 53.40" in cells
        assert "best ; 0.710 ; 0.710 ; 57.00 ; 57.10 ; 55.10 to 59.10" in cells
        words = " ".join(text.split())
        assert report.caveat(study) in words
        assert "the trained models decoded greedily, at most 96 tokens." in words
        assert "Validation beside test" in text


def test_seconds_a_summary_stand_in_the_table_and_an_older_study_has_none(study: Study) -> None:
    for text in render(study):
        (row,) = (line for line in re.split(r"\n|<tr>", text) if "51.40" in line and "48.0" in line)
        assert re.split(r"\||</?td>", row)[-2].strip() == "0.13"
        assert "Seconds a summary are wall time." in text
    for text in render(dataclasses.replace(study, seconds={}, timing="")):
        assert "Seconds a summary" not in text
        assert "seconds a summary" in text


def test_a_share_of_bart_is_given_with_its_interval_for_the_same_data_only(study: Study) -> None:
    assert "%" not in report.share_of_published(study)
    real = dataclasses.replace(study, data="abisee/cnn_dailymail 3.0.0")
    said = report.share_of_published(real)
    assert "57.10 is 139.6% of the 40.90 published for BART-large" in said
    assert "95% interval 134.7% to 144.5%" in said
    other = dataclasses.replace(real, signature={**real.signature, "stemmer": False})
    assert "is given: it is of another tokenizer" in report.share_of_published(other)


def test_too_few_articles_have_no_interval_anywhere(study: Study) -> None:
    ends = {"rougeLsum_low": None, "rougeLsum_high": None}
    few = dataclasses.replace(
        study,
        data="abisee/cnn_dailymail 3.0.0",
        table=[{**row, **ends} for row in study.table],
        differences=[{**row, "low": None, "high": None} for row in study.differences],
    )
    assert "(95% interval not given below 6 articles)" in next(verdict(few))
    for text in render(few):
        assert "not given below 6 articles" in text
        assert not re.search(r"\bnan\b|None|– to –", text)


def test_errors_stand_beside_the_references_own(study: Study) -> None:
    assert any("30% of the best" in s and "0% of the references" in s for s in verdict(study))
    for text in render(study):
        assert "10.8 to 60.3" in text  # of 3 in 10


def test_rates_by_group_of_articles_are_on_both_pages(study: Study) -> None:
    for text in render(study):
        assert "articles of up to 130 words" in text
        assert "1 of 10 articles were trimmed" in text
        assert "trimmed articles" in text
    whole = dataclasses.replace(study, errors=study.errors.assign(trimmed_tokens=0))
    for text in render(whole):
        assert "No article was trimmed" in text
        assert "trimmed articles" not in text


def test_a_long_article_is_shown_from_its_beginning_and_that_is_said(study: Study) -> None:
    long = dict(study.examples[0]) | {"article": "word " * 10_000}
    for text in render(dataclasses.replace(study, examples=[long])):
        assert "(42,000 characters more)" in text


def test_published_figures_compare_only_on_the_same_data() -> None:
    assert "cannot be compared" in report.published_note(
        "the embedded synthetic newswire", 120, True
    )
    note = report.published_note("abisee/cnn_dailymail 3.0.0", 120, True)
    assert "cannot" not in note
    assert "120 of its 11,490" in note
    note = report.published_note("abisee/cnn_dailymail 3.0.0", 120, stemmed=False)
    assert note.startswith("Another tokenizer (score.tokenizer): ")
    assert "cannot be compared" in note


def test_nothing_from_outside_becomes_markup(study: Study) -> None:
    for text in render(study):
        assert "<script" not in text
        assert "&lt;script&gt;" in text


def test_outside_text_cannot_leave_its_place_in_markdown() -> None:
    text = as_markdown("a | b\n# not a heading\n[x](javascript:y) `c` <b> *d*")
    assert text == r"a \| b \# not a heading \[x\](javascript:y) \`c\` &lt;b&gt; \*d\*"


def test_the_prompt_is_on_both_pages_and_english_indicators_of_another_language(
    study: Study,
) -> None:
    french = {
        **study.card,
        "splits": {"test": {**study.card["splits"]["test"], "percent_english": 3.0}},
    }
    for before, after in zip(
        render(study), render(dataclasses.replace(study, card=french)), strict=True
    ):
        assert "Summarize: {article}" in before
        assert "not in English" not in before
        assert "These articles are not in English" in after


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
    assert page.count('<article class="example fault"') == 2
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
            "51 seconds", "missing_key_facts", "7 of 10 summaries of best", "docs/indicators.md",
        ):  # fmt: skip
            assert fact in text.replace(r"\_", "_")


def test_what_the_base_doubts_is_in_words_without_marks_of_markdown(study: Study) -> None:
    doubts = {"system": "best", "articles": 60, "sentences": 150, "doubted": 12.0,
              "wrong": 7.0, "low": 2.0, "high": 14.0}  # fmt: skip
    for text in render(dataclasses.replace(study, facts=[doubts])):
        words = text[text.index("The untrained base reads 60 of the articles") :]
        words = words[: words.index("It is no verdict on a sentence")]
        assert "Wrong" in words
        assert "*" not in words


def test_markdown_tables_are_whole(study: Study) -> None:
    _, plain = render(study)
    tables = re.findall(r"(?:^\|.*\|\n)+", plain, re.M)
    assert len(tables) == 12
    for table in tables:
        cells = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(cells) == 1
        assert set(table.splitlines()[1]) <= set("|- ")


def test_spans_are_marked_where_they_are() -> None:
    assert split_by_marks("abcdef", [[1, 3, "x"], [2, 4, "y"]]) == [
        ("a", ""), ("b", "x"), ("c", "x, y"), ("d", "y"), ("ef", ""),
    ]  # fmt: skip
    assert split_by_marks("abc", []) == [("abc", "")]
    assert split_by_marks("", []) == []


def test_marks_are_in_the_page(study: Study) -> None:
    page, plain = render(study)
    assert (
        '<mark class="wrong" title="unsupported_names">Graehouse</mark> <mark class="copied"'
        in page
    )
    assert "<b>Graehouse</b> <ins>builds 25</ins> homes" in plain
    missing = '<mark class="lacking" title="missing_key_facts">Garehouse</mark> spoke'
    assert page.count(missing) == 2
    assert plain.count("The mayor of <b>Garehouse</b> spoke") == 2


def test_marks_of_several_kinds_show_all_of_them() -> None:
    assert mark_class("copied, unsupported_numbers") == "copied wrong"
    assert mark_class("repeated_trigrams, repeated_sentences") == "repeated"


def test_marked_text_stays_in_its_place_in_markdown() -> None:
    text = with_marks("a|b <i>c</i>\n# d", [[0, 3, "copied"], [2, 7, "unfinished"]])
    assert text == r"<ins>a\|</ins><ins><b>b</b></ins><b> &lt;i&gt;</b>c&lt;/i&gt; \# d"


def test_what_people_judged_is_said_if_they_did(study: Study) -> None:
    for text in render(study):
        assert "People" not in text
        assert "people" not in text
    hostile = f"{EVIL} | `x` </div>"
    items = [
        Item(
            f"test-{i} {hostile}",
            hostile,
            hostile,
            (f"{i} {hostile}", f"Other {i}."),
            (5.0, *[1.0] * 9),
        )
        for i in range(40)
    ]
    pair = Pair(("best", "lead3"), "seed", items)
    row = {"time": "2026-01-01", "systems": ["best", "lead3"], "kind": "click", "left": "best",
           "seconds": 7.0, "seen": False}  # fmt: skip
    span = {"system": "lead3", "start": 0, "end": 5}
    rows = {
        judge: [
            {**row, "id": item.id, "texts": pair.texts[item.id], "wrong": [span][:n == 1],
             "verdict": "bad" if n == 1 else "right"}
            for n, item in enumerate(items)
        ]
        for judge in ("Ann", "Bob")
    }  # fmt: skip
    alike = {judge: clicks[2:] for judge, clicks in rows.items()}
    judged = [describe(pair, clicks) for clicks in (rows, alike)]
    page, plain = render(dataclasses.replace(study, judged=judged))
    for text in (page, plain):
        flat = " ".join(text.split())
        assert "who did not know which was which, best is preferred to lead3 in 1% of 40" in flat
        assert "Judged by people" in flat
        assert "settled after 11, lead3 is better" in flat
        assert "prefers the other one in 39 of the 39 articles" in flat
        assert "Rejected: 1 of 1 articles" in flat
        assert "all clicks on the 38 articles that several judged say the same" in flat
        assert "is 1.00 (95% 1.00 to 1.00) on the 40 articles that several judged" in flat
        assert "people prefer lead3, ROUGE-Lsum best by 5.0 points" in flat
    assert EVIL not in page
    assert '<mark class="wrong" title="marked as wrong">Other</mark>' in page
    assert "<script" not in plain
    assert '<a href="#people">' in page


def test_what_people_changed_in_the_search_is_listed_if_they_did(study: Study) -> None:
    said = "People changed the search while it ran"
    steered = [("2026-11-29 16:30 UTC", "a person stopped trial 3 after 160 articles")]
    for page in render(dataclasses.replace(study, steered=steered)):
        flat = re.sub(r"<[^>]+>", "", page)
        assert said in flat
        assert "2026-11-29 16:30 UTC: a person stopped trial 3 after 160 articles" in flat
    assert all(said not in page for page in render(study))


def test_no_trials_no_examples_still_render(study: Study) -> None:
    nothing = {"trials": [], "examples": [], "error_examples": [], "differences": []}
    render(dataclasses.replace(study, models={}, **nothing))


def test_the_report_loads_neither_torch_nor_matplotlib() -> None:
    code = "import sys, nutgraf.report; sys.exit(bool({'torch', 'matplotlib'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_that_all_is_done_needs_no_library_that_does_the_work() -> None:
    code = (
        "import sys, nutgraf.pipeline.runner, nutgraf.report.terminal_table\n"
        "heavy = {'huggingface_hub', 'transformers', 'torch', 'ray', 'matplotlib', 'jinja2'}\n"
        "sys.exit(bool(heavy & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def made_up_run(path: Path, study: Study) -> RunFolder:
    """A run folder as the stages before leave it, with made-up numbers."""
    folder = RunFolder(path)

    def write_artefact(name: str, files: dict[str, object], outputs: list[str]) -> None:
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
    frame = ("Summarize:", "\n\nSummary:")
    write_artefact("data", {"data/card.json": study.card, "data/frame.json": frame}, ["data"])
    write_artefact(
        "search", {"search/trials.csv": TRIALS, "search/history.csv": HISTORY}, ["search"]
    )
    for name in ("baseline", "best"):
        files = {
            f"models/{name}/train.json": study.models[name],
            f"models/{name}/history.csv": curve,
        }
        write_artefact(f"models/{name}", files, [f"models/{name}"])
    scores = {
        system: [
            {"id": f"test-{i}", "rouge1": 10 + 7.5 * (i % 2) * place, "rouge2": 5.0 + i,
             "rougeLsum": 10.0 * place + i}
            for i in range(10)
        ]
        for place, system in enumerate(SYSTEMS)
    }  # fmt: skip
    for system, rows in scores.items():
        write_artefact(
            f"scores/{system}", {f"scores/{system}.jsonl": rows}, [f"scores/{system}.jsonl"]
        )
    files = {
        "model_comparison_results.csv": TABLE,
        "analysis/errors.csv": study.errors,
        "analysis/seeds.csv": pd.DataFrame({"seed": [42], "system": ["best"], "rougeLsum": [1.0]}),
        "analysis/intervals.csv": pd.DataFrame({"system": ["best"], "rouge1_low": [1.0]}).assign(
            rouge1_high=2.0, rouge2_low=1.0, rouge2_high=2.0, rougeL_low=1.0, rougeL_high=2.0
        ),
        "analysis/differences.csv": pd.DataFrame(
            significance.difference_table(scores, compared_pairs(Config()), 800, seed=1)
        ),
        "analysis/examples.jsonl": list(study.examples),
        "analysis/error_examples.jsonl": list(study.error_examples),
    }
    write_artefact("comparison", files, ["model_comparison_results.csv", "analysis"])
    return folder


def test_the_stage_reports_a_run_folder_once(study: Study, tmp_path: Path) -> None:
    folder = made_up_run(tmp_path / "run", study)
    space = {"train.learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}}
    config = build_config({"run": str(folder.path), "search": {"space": space}})
    assert run_stage("report", config, folder)
    page = (folder / "report.html").read_text()
    assert "and baseline (+10.00, +10.00 to +10.00)" in page
    # ROUGE-2 is the same for all of them: it has to be said.
    assert page.count("no significant difference at n = 10") == 4
    assert "synthetic newswire" in page
    assert {p.name for p in (folder / "figures").iterdir()} == {
        f"{name}.{kind}" for name in NAMES for kind in ("svg", "png")
    }
    figures_in_markdown = re.findall(r"\]\((figures/.*?)\)", (folder / "report.md").read_text())
    assert len(figures_in_markdown) == len(NAMES)
    assert all((folder / name).exists() for name in figures_in_markdown)
    assert not run_stage("report", config, folder)
