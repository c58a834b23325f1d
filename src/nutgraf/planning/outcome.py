"""Compare a plan with what its run took."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

# The beginnings of the names of a stage's artefacts, which `pipeline.artifacts` lists: that room is
# above this one, so a test compares the two.
ARTEFACTS = {
    "search": ("search",),
    "train": ("models/",),
    "generate": ("summaries/", "choice"),
    "score": ("scores/", "facts"),
    "compare": ("comparison", "final_best_model"),
}


def planned_vs_actual(
    plan: Mapping[str, Any], manifests: Mapping[str, Mapping[str, Any]], peak: int
) -> Iterator[dict[str, Any]]:
    """Yield rows of `what`, `planned`, `measured`, `unit` and `range`, which may be None.

    There is a row for each stage that made all its artefacts after the plan, without an
    interruption; parallel work counts once. One more row has the `peak` bytes of a training.

    Args:
        plan: The contents of search/plan.json.
        manifests: The manifests of all artefacts, by name.
        peak: The measured peak memory of a training, in bytes.
    """
    stages = {stage["name"]: stage for stage in plan["stages"]}
    for name, beginnings in ARTEFACTS.items():
        own = [m for artefact, m in manifests.items() if artefact.startswith(beginnings)]
        if len(own) != stages[name]["artefacts"] or any(
            m["carried_on"] or m["created"] + m["seconds"] <= plan["made"] for m in own
        ):
            continue
        planned, luck = stages[name]["seconds"], stages[name]["by_luck"]
        measured = elapsed_seconds(own)
        yield {"what": name, "planned": planned, "measured": measured, "unit": "s", "range": luck}
        if name == "train":
            gigabytes = {"planned": plan["training_bytes"] / 1e9, "measured": peak / 1e9}
            yield {"what": "memory of a training", **gigabytes, "unit": "GB", "range": None}


def elapsed_seconds(manifests: Iterable[Mapping[str, Any]]) -> float:
    """Return the seconds in which these artefacts were made; overlaps count once."""
    total, reached = 0.0, -math.inf
    for start, end in sorted((m["created"], m["created"] + m["seconds"]) for m in manifests):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total
