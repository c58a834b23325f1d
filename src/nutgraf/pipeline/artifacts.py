"""What each stage makes, from what and with which settings.

Told without a library that does the work, so that a study where all is done is so at once.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from nutgraf.config import Config, DataConfig
from nutgraf.config.load import replace_settings
from nutgraf.config.systems import (
    EXTRACTS,
    MODELS,
    TRAINED,
    base_system,
    measured_systems,
    seed_repeats,
    system_names,
)
from nutgraf.core.errors import UserError
from nutgraf.core.files import file_hash
from nutgraf.modeling.base_files import moving_tokenizer, weights_fingerprint
from nutgraf.storage.run_folder import Artefact, RunFolder

TABLE = "model_comparison_results.csv"


def prepare(config: Config, folder: RunFolder) -> list[Artefact]:
    """The data, of files that are as they are now. Raises UserError where one cannot be read."""
    settings = {
        "data": config.data.model_dump(mode="json"),
        "files": _contents(config.data),
        "prompt": config.prompt.model_dump(mode="json"),
        "tokenizer": [config.model.base, config.model.revision],
        **moving_tokenizer(config.model),
        "token_ids": 1,  # the form in which they are stored
    }
    return [folder.artefact("data", settings=settings)]


def search(config: Config, folder: RunFolder) -> list[Artefact]:
    """The trials and what was chosen, whatever the time that a trial was given."""
    decide = {"prompt", "model", "lora", "train", "search", "generate"}
    settings = with_first_seed(config).model_dump(
        mode="json", include=decide, exclude={"search": {"trial_minutes"}}
    )
    settings |= weights_fingerprint(config.model)
    return [folder.artefact("search", inputs=["data"], settings=settings)]


def train(config: Config, folder: RunFolder) -> list[Artefact]:
    """One a model, in the order of `trainings`."""
    decide = {"prompt", "model", "lora", "train"}
    inputs = {"baseline": ["data"], "best": ["data", "search"]}
    return [
        folder.artefact(
            f"models/{name}",
            inputs=inputs[base_system(name)],
            settings={
                **settings.model_dump(mode="json", include=decide),
                **weights_fingerprint(config.model),
            },
        )
        for name, settings in training_configs(config, folder).items()
    ]


def generate(config: Config, folder: RunFolder) -> list[Artefact]:
    """One a system, in the order of `measured`."""
    return [
        folder.artefact(
            f"summaries/{system}",
            outputs=[f"summaries/{system}.jsonl"],
            inputs=["data", *([f"models/{system}"] if base_system(system) in TRAINED else [])],
            settings=_of_summaries(system, config),
        )
        for system in measured_systems(config.rivals, config.train.seeds)
    ]


def score(config: Config, folder: RunFolder) -> list[Artefact]:
    """One a system, in the order of `measured`."""
    return [
        folder.artefact(
            f"scores/{system}",
            outputs=[f"scores/{system}.jsonl"],
            inputs=["data", f"summaries/{system}"],
        )
        for system in measured_systems(config.rivals, config.train.seeds)
    ]


def compare(config: Config, folder: RunFolder) -> list[Artefact]:
    """The table with the analysis, then the model to take away."""
    seeds = config.train.seeds
    scored = [f"scores/{system}" for system in measured_systems(config.rivals, seeds)]
    return [
        folder.artefact(
            "comparison",
            outputs=[TABLE, "analysis"],
            inputs=[*scored, *(f"models/{name}" for name in (*TRAINED, *seed_repeats(seeds)))],
            settings=config.model_dump(mode="json", include={"score"}),
        ),
        folder.artefact("final_best_model", inputs=["data", "comparison", "models/best"]),
    ]


def report(config: Config, folder: RunFolder) -> list[Artefact]:
    """The pages with their figures; they show every setting."""
    models = [f"models/{name}" for name in TRAINED]
    scores = [f"scores/{system}" for system in system_names(config.rivals)]
    return [
        folder.artefact(
            "report",
            outputs=["figures", "report.html", "report.md"],
            inputs=["data", "search", *models, *scores, "comparison"],
            settings=config.model_dump(mode="json"),
        )
    ]


BY_STAGE: dict[str, Callable[[Config, RunFolder], list[Artefact]]] = {
    "prepare": prepare,
    "search": search,
    "train": train,
    "generate": generate,
    "score": score,
    "compare": compare,
    "report": report,
}


def with_first_seed(config: Config) -> Config:
    """What the search depends on: seeds after the first are not among it."""
    return replace_settings(config, {"train.seeds": [config.train.seed]})


def training_configs(config: Config, folder: RunFolder) -> dict[str, Config]:
    """The settings of each training by the model's name, a further seed's behind the first's.

    `best` has those that the search in the folder has chosen.
    """
    best = folder / "search" / "best.yaml"
    chosen = yaml.safe_load(best.read_text(encoding="utf-8")) if best.exists() else {}
    models = {"baseline": config, "best": replace_settings(config, chosen)}
    first = {name: (name, config.train.seed) for name in models}
    return {
        name: replace_settings(models[model], {"train.seeds": [seed]})
        for name, (model, seed) in {**first, **seed_repeats(config.train.seeds)}.items()
    }


def _contents(data: DataConfig) -> dict[str, str]:
    """SHA-256 of each local file, so that a changed one is read again."""
    found = {}
    for name in filter(None, [data.train, data.validation, data.test, data.source]):
        path = Path(name)
        try:
            for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
                if file.is_file():
                    found[str(file)] = file_hash(file)
        except OSError as error:
            raise UserError(f"{name} cannot be read: {error.strerror}: give another") from None
    return found


def _of_summaries(system: str, config: Config) -> dict[str, Any]:
    """What the summaries of the system depend on, apart from the data."""
    if base_system(system) in MODELS:
        return {
            **config.model_dump(mode="json", include={"prompt", "model", "generate"}),
            **weights_fingerprint(config.model),
        }
    if system in EXTRACTS:
        return {}
    rival = config.rivals[system]
    file = {"sha256": file_hash(Path(rival.file))} if rival.file else {}
    return {**rival.model_dump(mode="json", exclude={"batch_size"}), **file}
