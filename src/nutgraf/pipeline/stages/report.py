"""Report: figures/, report.html and report.md from what the other stages left."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from nutgraf.config import Config
from nutgraf.config.load import to_yaml
from nutgraf.config.systems import (
    BUILT_IN_SYSTEMS,
    CHOSEN_SYSTEMS,
    final_system,
    fits_choice,
    model_systems,
    trained_systems,
)
from nutgraf.core.files import read_json, read_records, write_text
from nutgraf.core.paths import shown
from nutgraf.evaluation import error_rates, indicators, published, rouge
from nutgraf.pipeline import artifacts, judgements, steering
from nutgraf.planning.outcome import planned_vs_actual
from nutgraf.report import render
from nutgraf.report.describe import (
    SYNTHETIC,
    describe_candidates,
    describe_cuts,
    describe_data,
    describe_decoding,
    describe_timing,
)
from nutgraf.report.figures import canvas, scores, search
from nutgraf.report.formatting import table_records
from nutgraf.report.terminal_table import seed_spread
from nutgraf.storage.artefact import Artefact
from nutgraf.storage.run_folder import RunFolder


def run(config: Config, folder: RunFolder, outdated: Sequence[Artefact]) -> None:
    """Make figures/, report.html and report.md."""
    with outdated[0].writing() as scratch:
        (scratch / "figures").mkdir()
        svgs = {
            name: canvas.save(figure, scratch / "figures" / name)
            for name, figure in _figures(config, folder)
        }
        page, plain = render.render(_study(config, folder, svgs))
        write_text(scratch / "report.html", page)
        write_text(scratch / "report.md", plain)


def _figures(config: Config, folder: RunFolder) -> Iterator[tuple[str, canvas.Figure]]:
    data = describe_data(config)
    table = pd.read_csv(folder / artifacts.TABLE)
    trials = pd.read_csv(folder / "search" / "trials.csv")
    history = pd.read_csv(folder / "search" / "history.csv")
    # The loss of a round is of another kind.
    first = ("baseline", "best")
    curves = {name: pd.read_csv(folder.model(name) / "history.csv") for name in first}
    errors = pd.read_csv(folder / "analysis" / "errors.csv", dtype={"id": str})
    rates = error_rates.system_rates(errors)
    stemmed = config.score.tokenizer == "rouge-score"
    n = int(table.loc[table["system"] == "best", "n"].iloc[0])
    note = render.published_note(data, n, stemmed)
    intervals = pd.read_csv(folder / "analysis" / "intervals.csv")
    whiskers = table.merge(intervals, on="system", how="left")
    bart = published.why_not_comparable(data, stemmed) or published.BART
    yield "rouge_by_system", scores.rouge_by_system(whiskers, data)
    yield "relative_performance", scores.relative_performance(table, data, bart)
    yield "loss_perplexity_time", scores.loss_perplexity_time(table, data)
    yield "against_published", scores.against_published(table, data, note)
    yield "gaps", scores.gaps(table, data, note)
    yield "loss_against_rouge", search.loss_against_rouge(trials, data)
    yield "scores_by_trial", search.scores_by_trial(trials, data)
    yield "search_history", search.search_history(history, trials, data)
    yield "search_settings", search.search_settings(trials, list(config.search.space), data)
    yield "training_curves", search.training_curves(curves, data)
    yield "error_rates", scores.error_rates(rates, errors["id"].nunique(), data)


def _study(config: Config, folder: RunFolder, figures: Mapping[str, str]) -> render.Study:
    manifests = folder.manifests()
    models = {
        name: read_json(folder.model(name) / "train.json") for name in trained_systems(config)
    }
    card = read_json(folder / "data" / "card.json")
    validation = card["splits"]["validation"]["sampled"]
    rivals = {}
    for name, rival in config.rivals.items():
        checkpoint = f"{rival.model}, with its own generation settings"
        file = f"someone's summaries, read from {rival.file}"
        rivals[name] = file if rival.file else checkpoint
    planned: list[Mapping[str, Any]] = []
    if (plan := folder / "search" / "plan.json").exists():
        peak = max(model["peak_memory_bytes"] for model in models.values())
        planned = list(planned_vs_actual(read_json(plan), manifests, peak))
    seconds, timing = _seconds_a_summary(manifests, config)
    return render.Study(
        run=shown(folder.path),
        final=final_system(config),
        command=f"nutgraf run {shlex.quote(shown(folder.config))}",
        data=describe_data(config),
        decoding=describe_decoding(config.generate),
        candidates=describe_candidates(config.generate),
        choice=read_json(folder / "choice.json") if fits_choice(config) else None,
        seconds=seconds,
        timing=timing,
        cuts=describe_cuts(config.generate),
        caution=SYNTHETIC if config.data.is_newswire else "",
        table=_rows(folder / artifacts.TABLE),
        seeds=seed_spread(pd.read_csv(folder / "analysis" / "seeds.csv")),
        systems=BUILT_IN_SYSTEMS | rivals,
        differences=_rows(folder / "analysis" / "differences.csv"),
        trials=_rows(folder / "search" / "trials.csv"),
        searched=list(config.search.space),
        models=models,
        published=[asdict(system) for system in published.SYSTEMS],
        errors=pd.read_csv(folder / "analysis" / "errors.csv", dtype={"id": str}),
        meanings=indicators.MEANINGS,
        examples=read_records(folder / "analysis" / "examples.jsonl"),
        error_examples=read_records(folder / "analysis" / "error_examples.jsonl"),
        validated_on={
            "loss": min(config.train.eval_examples, validation),
            "rouge": min(config.search.rouge_examples, validation),
        },
        card=card,
        figures=figures,
        signature=rouge.rouge_signature(**config.score.model_dump()),
        prompt="{} {{article}}{}".format(*folder.frame),
        configuration=to_yaml(config).replace(f"{Path.cwd()}{os.sep}", ""),  # as `shown`
        planned=planned,
        artefacts=[manifest for name, manifest in manifests.items() if name != "report"],
        versions=manifests["models/best"]["versions"],
        machine=manifests["models/best"]["machine"],
        steered=steering.describe_steers(folder),
        facts=_rows(folder / "analysis" / "facts.csv") if config.facts.articles else (),
        judged=judgements.describe_judgements(folder),
    )


def _seconds_a_summary(
    manifests: Mapping[str, Mapping[str, Any]], config: Config
) -> tuple[dict[str, float], str]:
    """Return the seconds by system of the models whose time is known, and what they are."""
    seconds: dict[str, float] = {}
    timing, candidates, final = "", config.generate.candidates, final_system(config)
    for system in model_systems(config):
        manifest = manifests.get(f"summaries/{system}", {})
        measured = manifest.get("measured")
        if not measured:
            continue  # an earlier version took no time
        of = CHOSEN_SYSTEMS if system == final and candidates > 1 else (system,)
        seconds |= dict.fromkeys(of, measured["writing_seconds"] / measured["articles"])
        timing = describe_timing(measured, manifest["machine"], candidates)
    return seconds, timing


def _rows(path: Path) -> list[dict[str, Any]]:
    return table_records(pd.read_csv(path))
