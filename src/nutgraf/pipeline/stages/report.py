"""Report: figures/, report.html and report.md from what the other stages left."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import pandas as pd

from nutgraf.config import Config, Rival
from nutgraf.config.load import to_yaml
from nutgraf.config.systems import BUILT_IN, TRAINED
from nutgraf.core.files import read_json, read_records, write_text
from nutgraf.evaluation import error_rates, indicators, published, rouge
from nutgraf.pipeline import artifacts
from nutgraf.planning.duration import planned_vs_actual
from nutgraf.report import render
from nutgraf.report.describe import SYNTHETIC, describe_data, is_synthetic
from nutgraf.report.figures import canvas, parallel, relative, scores, search
from nutgraf.report.terminal_table import spread
from nutgraf.storage.run_folder import RunFolder


def run(config: Config, folder: RunFolder, force: bool = False) -> bool:
    """Make figures/, report.html and report.md."""
    (made,) = artifacts.report(config, folder)
    if made.is_current and not force:
        return False
    with made.writing() as scratch:
        (scratch / "figures").mkdir()
        drawn = {}
        for name, figure in _figures(config, folder):
            canvas.save(figure, scratch / "figures" / name)
            drawn[name] = (scratch / "figures" / f"{name}.svg").read_text(encoding="utf-8")
        page, plain = render.render(_study(config, folder, drawn))
        write_text(scratch / "report.html", page)
        write_text(scratch / "report.md", plain)
    return True


def _figures(config: Config, folder: RunFolder) -> Iterator[tuple[str, scores.Figure]]:
    data = describe_data(config)
    table = pd.read_csv(folder / "model_comparison_results.csv")
    trials = pd.read_csv(folder / "search" / "trials.csv")
    history = pd.read_csv(folder / "search" / "history.csv")
    curves = {name: pd.read_csv(folder.model(name) / "history.csv") for name in TRAINED}
    found = pd.read_csv(folder / "analysis" / "errors.csv", dtype={"id": str})
    note = render.published_note(data, int(table.loc[table["system"] == "best", "n"].iloc[0]))
    intervals = pd.read_csv(folder / "analysis" / "intervals.csv")
    whiskers = table.merge(intervals, on="system", how="left")
    yield "rouge_by_system", scores.rouge_by_system(whiskers, data)
    yield "relative_performance", relative.relative_performance(table, data, _bart(data))
    yield "loss_perplexity_time", scores.loss_perplexity_time(table, data)
    yield "against_published", scores.against_published(table, data, note)
    yield "gaps", scores.gaps(table, data, note)
    yield "loss_against_rouge", search.loss_against_rouge(trials, data)
    yield "scores_by_trial", search.scores_by_trial(trials, data)
    yield "search_history", search.search_history(history, trials, data)
    yield "search_settings", parallel.search_settings(trials, list(config.search.space), data)
    yield "training_curves", search.training_curves(curves, data)
    yield (
        "error_rates",
        scores.error_rates(error_rates.rates_by_group(found), found["id"].nunique(), data),
    )


def _bart(data: str) -> tuple[str, float] | None:
    """BART-large's name and ROUGE-Lsum, where a share of it may be given."""
    bart = published.BART
    if not published.comparable(data) or bart.rougeLsum is None:
        return None
    return bart.system, bart.rougeLsum


def _study(config: Config, folder: RunFolder, drawn: dict[str, str]) -> render.Study:
    manifests = folder.manifests()
    trained = manifests["models/best"]
    card = read_json(folder / "data" / "card.json")
    held_out = card["splits"]["validation"]["sampled"]
    return render.Study(
        run=str(folder.path),
        command=f"nutgraf run {shlex.quote(str(folder.config))}",
        data=describe_data(config),
        caution=SYNTHETIC if is_synthetic(config) else "",
        table=_records(pd.read_csv(folder / "model_comparison_results.csv")),
        seeds=spread(pd.read_csv(folder / "analysis" / "seeds.csv")),
        systems=BUILT_IN | {name: _rival(rival) for name, rival in config.rivals.items()},
        differences=_records(pd.read_csv(folder / "analysis" / "differences.csv")),
        trials=_records(pd.read_csv(folder / "search" / "trials.csv")),
        searched=list(config.search.space),
        models={name: read_json(folder.model(name) / "train.json") for name in TRAINED},
        published=[asdict(cited) for cited in published.SYSTEMS],
        errors=pd.read_csv(folder / "analysis" / "errors.csv", dtype={"id": str}),
        meanings=indicators.MEANINGS,
        examples=read_records(folder / "analysis" / "examples.jsonl"),
        error_examples=read_records(folder / "analysis" / "error_examples.jsonl"),
        validated_on={
            "loss": min(config.train.eval_examples, held_out),
            "rouge": min(config.search.rouge_examples, held_out),
        },
        card=card,
        figures=drawn,
        signature=rouge.rouge_signature(config.score.seed, config.score.resamples),
        configuration=to_yaml(config),
        planned=_planned(folder, manifests),
        artefacts=[made for name, made in manifests.items() if name != "report"],
        versions=trained["versions"],
        machine=trained["machine"],
    )


def _planned(folder: RunFolder, manifests: dict[str, Any]) -> list[dict[str, Any]]:
    """The plan beside what came; nothing where there was no plan."""
    path = folder / "search" / "plan.json"
    if not path.exists():
        return []
    trained = [read_json(folder.model(name) / "train.json") for name in TRAINED]
    peak = max(record["peak_memory_bytes"] for record in trained)
    return list(planned_vs_actual(read_json(path), manifests, peak))


def _rival(rival: Rival) -> str:
    if rival.file:
        return f"someone's summaries, read from {rival.file}"
    return f"{rival.model}, with its own generation settings"


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as plain dictionaries, None where a cell is empty."""
    filled = frame.astype(object).where(frame.notna(), None)
    return [{str(name): value for name, value in row.items()} for row in filled.to_dict("records")]
