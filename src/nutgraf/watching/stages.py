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
from nutgraf.watching.files import Files, LogTail

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


def search_folder(folder: Path) -> Path:
    """Return the folder of the search that is being made, else of the finished one."""
    making = folder / UNFINISHED / "search" / "search"
    return making if making.exists() else folder / "search"


def is_being_made(folder: Path, artefact: str) -> bool:
    """Return whether an artefact is half made, even if a finished one of before is there."""
    return (folder / UNFINISHED / _file(artefact)).exists()


def is_made(folder: Path, stage: str, artefact: str, files: Files, log: LogTail) -> bool:
    """Return whether an artefact is finished, and its stage is not about to make it anew.

    That is known once the stage has begun, from the log of the latest session.
    """
    manifest = files.read(_manifest(folder, artefact))
    if not manifest or is_being_made(folder, artefact):
        return False
    return artefact in log.current or manifest["created"] >= log.began.get(stage, 0.0)


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
    plan = files.read(search_folder(folder) / "plan.json")
    planned = {stage["name"]: stage for stage in (plan or {}).get("stages", [])}
    records, remade = [], False
    for name, names in artefacts(config).items():
        manifests = [files.read(_manifest(folder, n)) for n in names]
        there = [m for m in manifests if m]
        making = any(is_being_made(folder, n) for n in names)
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


def written(folder: Path, config: Config, files: Files, log: LogTail) -> float | None:
    """Return the share of the test summaries that are written, systems without a model too.

    A choice that is fitted counts as one system more. Its candidates are of training articles:
    `preference.articles` of them, or all if there are fewer.
    """
    card = files.read(folder / "data" / "card.json")
    names = artefacts(config)["generate"]
    if not card:
        return None
    articles = {split: counts["sampled"] for split, counts in card["splits"].items()}
    share = 0.0
    for name in names:
        if is_made(folder, "generate", name, files, log):
            share += 1
            continue
        total = articles["test"]
        if name == "choice":
            total = min(config.preference.articles, articles["train"])
        journals = [folder / UNFINISHED / _file(name) / journal for journal in _WRITTEN]
        rows = max(files.read(journal, _lines) or 0 for journal in journals)
        share += min(1.0, rows / max(1, total))
    return share / len(names)


def _lines(text: str) -> int:
    return text.count("\n")


def _manifest(folder: Path, artefact: str) -> Path:
    return folder / MANIFESTS / f"{_file(artefact)}.json"


def _file(artefact: str) -> str:
    return artefact.replace("/", ".")
