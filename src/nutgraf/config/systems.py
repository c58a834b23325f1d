"""Name the systems of a study: what turns an article into a summary, all measured alike."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal, TypeAlias

from nutgraf.config.training import MAX_ROUNDS

if TYPE_CHECKING:
    from nutgraf.config.study import Config

EXTRACTIVE_SYSTEMS = {
    "lead3": "the article's first three sentences, no model",
    "textrank": "the article's three most central sentences, no model (TextRank)",
    "oracle": "the article's sentences that share most with the reference, which it reads: "
    "what copying up to three sentences can reach, found greedily, no system to compete with",
}
# If `best` is trained in rounds, each from the one before.
ROUND_SYSTEMS = {
    f"best_round{number}": f"{'best' if number == 1 else f'best_round{number - 1}'}, trained on to "
    "prefer the better of two summaries that it wrote of a training article"
    for number in range(1, MAX_ROUNDS + 1)
}
TRAINED_SYSTEMS = {
    "baseline": "the base with an adapter trained with the given settings",
    "best": "the base with an adapter trained with the settings that the search chose",
    **ROUND_SYSTEMS,
}
# If the final model writes several candidates of each article.
CHOSEN_SYSTEMS = {
    "best_chosen": "of the candidates that the final model writes of an article, the one that is "
    "chosen",
    "best_oracle": "of these candidates, the one that is most like the reference: what a perfect "
    "choice would reach, no system to compete with",
}
MODEL_SYSTEMS = {"zero_shot": "the base model as it came, untrained", **TRAINED_SYSTEMS}
BUILT_IN_SYSTEMS = {**EXTRACTIVE_SYSTEMS, **MODEL_SYSTEMS, **CHOSEN_SYSTEMS}
ORACLES = ("oracle", "best_oracle")
JUDGED = ("best", "lead3")  # by people, if they name no others
# The analysis of errors lists the references among the systems.
RESERVED_NAMES = (*BUILT_IN_SYSTEMS, "reference")
EngineName: TypeAlias = Literal["auto", "transformers", "llama.cpp"]  # writes for a model
_SEED = "-seed-"


def round_systems(config: Config) -> tuple[str, ...]:
    """Return the models that the rounds of a study train, in their order."""
    return tuple(ROUND_SYSTEMS)[: config.train.rounds]


def trained_systems(config: Config) -> tuple[str, ...]:
    """Return the models that a study trains with its first seed, in their order."""
    return ("baseline", "best", *round_systems(config))


def final_system(config: Config) -> str:
    """Return the model to take away, which writes candidates: of the last round, else `best`."""
    return trained_systems(config)[-1]


def model_systems(config: Config) -> tuple[str, ...]:
    """Return the systems of a study that are models, in the order of its tables."""
    return ("zero_shot", *trained_systems(config))


def fits_choice(config: Config) -> bool:
    """Return whether weights are fitted to choose one of the final model's candidates."""
    return config.generate.choose == "fitted"


def system_names(config: Config) -> tuple[str, ...]:
    """Return every system of a study, in the order of its tables."""
    chosen = CHOSEN_SYSTEMS if config.generate.candidates > 1 else ()
    return (*EXTRACTIVE_SYSTEMS, *config.rivals, *model_systems(config), *chosen)


def seed_repeats(config: Config) -> dict[str, tuple[str, int]]:
    """Return {name: (model, seed)} of the trained models for each seed after the first.

    They are summarized and scored as systems are, and appear in the tables as spreads.
    """
    return {
        f"{name}{_SEED}{seed}": (name, seed)
        for seed in config.train.seeds[1:]
        for name in trained_systems(config)
    }


def trained_models(config: Config) -> dict[str, tuple[str, int]]:
    """Return the system and the seed by the name of each model to train, in their order."""
    first = {name: (name, config.train.seed) for name in trained_systems(config)}
    return first | seed_repeats(config)


def measured_systems(config: Config) -> tuple[str, ...]:
    """Return all that is summarized and scored: every system, and the further seeds."""
    return (*system_names(config), *seed_repeats(config))


def base_system(system: str) -> str:
    """Return the system that this one repeats with another seed, or itself."""
    return system.partition(_SEED)[0]


def start_of_round(model: str) -> str | None:
    """Return the model that a round's training starts from; None if `model` is of no round."""
    system, seed, number = model.partition(_SEED)
    if system not in ROUND_SYSTEMS:
        return None
    return ["best", *ROUND_SYSTEMS][list(ROUND_SYSTEMS).index(system)] + seed + number


def compared_pairs(config: Config) -> list[tuple[str, str]]:
    """Return which system is compared with which: each tuned one with all that stand before it.

    Those are `best`, its rounds and what is chosen among the last one's candidates. None is
    compared with a system that reads the reference.
    """
    names = without_oracle(system_names(config))
    tuned = names[names.index("best") :]
    return [(system, other) for system in tuned for other in names[: names.index(system)]]


def without_oracle(systems: Iterable[str]) -> list[str]:
    """Return the systems that do not read the reference to write or choose a summary."""
    return [system for system in systems if system not in ORACLES]
