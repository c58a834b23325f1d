"""Say how far each stage of a study is, and how long it took, against the plan."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nutgraf.config import Config
from nutgraf.config.systems import fits_choice, measured_systems, trained_models
from nutgraf.pipeline.runner import STAGES
from nutgraf.planning.outcome import elapsed_seconds
from nutgraf.storage.artefact import UNFINISHED
from nutgraf.storage.run_folder import MANIFESTS
from nutgraf.watching.files import Files

_WRITTEN = ("candidates.part", "summaries.part")  # journals of what a model writes, a line a row


def artefacts(config: Config) -> dict[str, list[str]]:
    """Return the names of the artefacts that each stage makes."""
    systems = measured_systems(config)
    return {
        "prepare": ["data"],
        "search": ["search"],
        "train": [f"models/{name}" for name in trained_models(config)],
        "generate": ["choice"] * fits_choice(config) + [f"summaries/{name}" for name in systems],
        "score": ["facts"] * (config.facts.articles > 0) + [f"scores/{n}" for n in systems],
        "compare": ["comparison", "final_best_model"],
        "report": ["report"],
    }


def stages(
    folder: Path,
    config: Config,
    files: Files,
    running: bool,
    began: dict[str, float],
    progress: Mapping[str, float | None],
) -> list[dict[str, Any]]:
    """Return one record a stage.

    `state` is finished, running, stopped (half made, and nobody works on it), waiting, or earlier:
    finished before, while a stage before it is made anew.

    Args:
        folder: The run folder.
        config: The study's configuration.
        files: What was read before.
        running: Whether a process runs the study.
        began: When that process began each stage.
        progress: The share of a stage that is done, from 0 to 1, if it is known.
    """
    plan = files.read(folder / "search" / "plan.json") or files.read(
        folder / UNFINISHED / "search" / "search" / "plan.json"
    )
    planned = {stage["name"]: stage for stage in (plan or {}).get("stages", [])}
    records, remade = [], False
    for name, names in artefacts(config).items():
        manifests = [files.read(folder / MANIFESTS / f"{_file(n)}.json") for n in names]
        there = [m for m in manifests if m]
        making = any((folder / UNFINISHED / _file(n)).exists() for n in names)
        whole = len(there) == len(names) and not making
        latest = next(reversed(began), None)
        on = running and not whole and (name == latest if latest else making)
        state = (
            ("earlier" if remade else "finished")
            if whole
            else "running"
            if on
            else "stopped"
            if making or there
            else "waiting"
        )
        remade = remade or making
        stage = planned.get(name)
        seconds = stage["seconds"] + stage["starting"] if stage else None
        share = progress.get(name)
        records.append(
            {
                "name": name,
                "what": STAGES[name],
                "state": state,
                "there": len(there),
                "of": len(names),
                "seconds": round(elapsed_seconds(there), 1),
                "carried_on": any(m["carried_on"] for m in there),
                "began": began.get(name) if on else None,
                "planned": seconds,
                "share": None if share is None or whole else round(share, 3),
            }
        )
    return records


def written(folder: Path, config: Config, files: Files) -> float | None:
    """Return the share of the test summaries that are written, systems without a model too."""
    card = files.read(folder / "data" / "card.json")
    names = artefacts(config)["generate"]
    if not card:
        return None
    total, share = card["splits"]["test"]["sampled"], 0.0
    for name in names:
        if (folder / MANIFESTS / f"{_file(name)}.json").exists():
            share += 1
            continue
        journals = [folder / UNFINISHED / _file(name) / journal for journal in _WRITTEN]
        rows = max(files.read(journal, _lines) or 0 for journal in journals)
        share += min(1.0, rows / max(1, total))
    return share / len(names)


def _lines(text: str) -> int:
    return text.count("\n")


def _file(artefact: str) -> str:
    return artefact.replace("/", ".")
