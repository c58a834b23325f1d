"""Name the systems of a study: what turns an article into a summary, all measured alike."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, TypeAlias

EXTRACTIVE_SYSTEMS = {
    "lead3": "the article's first three sentences, no model",
    "textrank": "the article's three most central sentences, no model (TextRank)",
    "oracle": "the article's sentences that share most with the reference, which it reads: "
    "what copying up to three sentences can reach, found greedily, no system to compete with",
}
TRAINED_SYSTEMS = {
    "baseline": "the base with an adapter trained with the given settings",
    "best": "the base with an adapter trained with the settings that the search chose",
}
# If `best` writes several candidates of each article.
CHOSEN_SYSTEMS = {
    "best_chosen": "of the candidates that best writes of an article, the one that is chosen",
    "best_oracle": "of these candidates, the one that is most like the reference: what a perfect "
    "choice would reach, no system to compete with",
}
MODEL_SYSTEMS = {"zero_shot": "the base model as it came, untrained", **TRAINED_SYSTEMS}
BUILT_IN_SYSTEMS = {**EXTRACTIVE_SYSTEMS, **MODEL_SYSTEMS, **CHOSEN_SYSTEMS}
ORACLES = ("oracle", "best_oracle")
# The analysis of errors lists the references among the systems.
RESERVED_NAMES = (*BUILT_IN_SYSTEMS, "reference")
EngineName: TypeAlias = Literal["auto", "transformers", "llama.cpp"]  # writes for a model
_SEED = "-seed-"


def system_names(rivals: Iterable[str], candidates: int = 1) -> tuple[str, ...]:
    """Return every system of a study, in the order of its tables.

    Args:
        rivals: Names of other systems.
        candidates: Summaries that `best` writes of each article.
    """
    chosen = CHOSEN_SYSTEMS if candidates > 1 else ()
    return (*EXTRACTIVE_SYSTEMS, *rivals, *MODEL_SYSTEMS, *chosen)


def seed_repeats(seeds: Sequence[int]) -> dict[str, tuple[str, int]]:
    """Return {name: (model, seed)} of the trained models for each seed after the first.

    They are summarized and scored as systems are, and appear in the tables as spreads.
    """
    return {f"{name}{_SEED}{seed}": (name, seed) for seed in seeds[1:] for name in TRAINED_SYSTEMS}


def measured_systems(
    rivals: Iterable[str], seeds: Sequence[int], candidates: int = 1
) -> tuple[str, ...]:
    """Return all that is summarized and scored: every system, and the further seeds."""
    return (*system_names(rivals, candidates), *seed_repeats(seeds))


def base_system(system: str) -> str:
    """Return the system that this one repeats with another seed, or itself."""
    return system.partition(_SEED)[0]


def without_oracle(systems: Iterable[str]) -> list[str]:
    """Return the systems that do not read the reference to write or choose a summary."""
    return [system for system in systems if system not in ORACLES]
