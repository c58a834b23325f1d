"""Compare a plan with the run that followed it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

# What a stage makes, by the beginnings of the names of its artefacts.
ARTEFACTS = {
    "search": ("search",),
    "train": ("models/",),
    "generate": ("summaries/",),
    "score": ("scores/",),
    "compare": ("comparison", "final_best_model"),
}


def planned_vs_actual(
    plan: Mapping[str, Any], manifests: Mapping[str, Mapping[str, Any]], training_bytes: int
) -> Iterator[dict[str, Any]]:
    """Yield rows of `what`, `planned`, `measured`, `unit` and `luck`: the range by luck, or None.

    There is a row with the seconds of each stage that made what was planned, after the plan and
    without a stop, side-by-side work counted once; and one with the peak memory of a training.
    """
    stages = {stage["name"]: stage for stage in plan["stages"]}
    for name, beginnings in ARTEFACTS.items():
        made = [m for artefact, m in manifests.items() if artefact.startswith(beginnings)]
        whole = len(made) == stages[name]["artefacts"] and not any(m["carried_on"] for m in made)
        if whole and all(m["created"] + m["seconds"] > plan["made"] for m in made):
            took = covered(made)
            planned, luck = stages[name]["seconds"], stages[name]["by_luck"]
            yield {"what": name, "planned": planned, "measured": took, "unit": "s", "luck": luck}
            if name == "train":
                held = {"planned": plan["training_bytes"] / 1e9, "measured": training_bytes / 1e9}
                yield {"what": "memory of a training", **held, "unit": "GB", "luck": None}


def covered(made: Iterable[Mapping[str, Any]]) -> float:
    """Return the seconds in which artefacts were made, of their manifests; overlaps count once."""
    total, reached = 0.0, -math.inf
    for start, end in sorted((m["created"], m["created"] + m["seconds"]) for m in made):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total
