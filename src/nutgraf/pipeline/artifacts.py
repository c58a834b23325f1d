"""List what each stage makes, from which inputs and with which settings.

No library that does the work is loaded, so that a finished study is recognized at once.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from nutgraf.config import Config, DataConfig, systems
from nutgraf.config.load import with_overrides
from nutgraf.core.errors import UserError
from nutgraf.core.files import file_hash
from nutgraf.modeling.base_files import tokenizer_fingerprint, weights_fingerprint
from nutgraf.storage.run_folder import Artefact, RunFolder

TABLE = "model_comparison_results.csv"


def prepare(config: Config, folder: RunFolder) -> list[Artefact]:
    """Return the data, of files as they are now. Raise UserError if one cannot be read."""
    settings = {
        **_settings(config, "data", "prompt"),
        "files": _file_hashes(config.data),
        "tokenizer": [config.model.base, config.model.revision],
        **tokenizer_fingerprint(config.model),
        "token_ids": 1,  # the form in which they are stored
        **_tokenizer_settings(config),
    }
    return [folder.artefact("data", settings=settings)]


def search(config: Config, folder: RunFolder) -> list[Artefact]:
    """Return the search: its trials and the settings that it chose."""
    settings = _settings(
        with_first_seed(config), "prompt", "model", "lora", "train", "search", "generate"
    )
    del settings["search"]["trial_minutes"]
    settings |= _tokenizer_settings(config)
    return [folder.artefact("search", inputs=["data"], settings=settings)]


def train(config: Config, folder: RunFolder) -> list[Artefact]:
    """Return one artefact a model, in the order of `training_configs`."""
    inputs = {"baseline": ["data"], "best": ["data", "search"]}
    return [
        folder.artefact(
            f"models/{name}",
            inputs=inputs[systems.base_system(name)],
            settings=_settings(own, "prompt", "model", "lora", "train"),
        )
        for name, own in training_configs(config, folder).items()
    ]


def generate(config: Config, folder: RunFolder) -> list[Artefact]:
    """Return one artefact a system, in the order of `measured_systems`."""
    trained = trained_models(config)
    return [
        folder.artefact(
            f"summaries/{system}",
            outputs=[f"summaries/{system}.jsonl"],
            inputs=["data", *([f"models/{system}"] if system in trained else [])],
            settings=_generation_settings(system, config),
        )
        for system in systems.measured_systems(config.rivals, config.train.seeds)
    ]


def score(config: Config, folder: RunFolder) -> list[Artefact]:
    """Return one artefact a system, in the order of `measured_systems`."""
    return [
        folder.artefact(
            f"scores/{system}",
            outputs=[f"scores/{system}.jsonl"],
            inputs=["data", f"summaries/{system}"],
            settings=_tokenizer_settings(config),
        )
        for system in systems.measured_systems(config.rivals, config.train.seeds)
    ]


def compare(config: Config, folder: RunFolder) -> list[Artefact]:
    """Return the table with the analysis, then the model to take away."""
    measured = systems.measured_systems(config.rivals, config.train.seeds)
    models = [f"models/{name}" for name in trained_models(config)]
    return [
        folder.artefact(
            "comparison",
            outputs=[TABLE, "analysis"],
            inputs=[*(f"scores/{system}" for system in measured), *models],
            settings=_settings(config, "score"),
        ),
        folder.artefact("final_best_model", inputs=["data", "comparison", "models/best"]),
    ]


def report(config: Config, folder: RunFolder) -> list[Artefact]:
    """Return the pages with their figures; they show every setting."""
    models = [f"models/{name}" for name in systems.TRAINED_SYSTEMS]
    scores = [f"scores/{system}" for system in systems.system_names(config.rivals)]
    return [
        folder.artefact(
            "report",
            outputs=["figures", "report.html", "report.md"],
            inputs=["data", "search", *models, *scores, "comparison"],
            settings=config.model_dump(mode="json"),
        )
    ]


BY_STAGE: dict[str, Callable[[Config, RunFolder], list[Artefact]]] = {
    stage.__name__: stage for stage in (prepare, search, train, generate, score, compare, report)
}


def with_first_seed(config: Config) -> Config:
    """Return the configuration with the first seed only: a search does not depend on others."""
    return with_overrides(config, {"train.seeds": [config.train.seed]})


def trained_models(config: Config) -> dict[str, tuple[str, int]]:
    """Return `baseline` or `best` and the seed by the name of each model to train."""
    first = {name: (name, config.train.seed) for name in systems.TRAINED_SYSTEMS}
    return first | systems.seed_repeats(config.train.seeds)


def training_configs(config: Config, folder: RunFolder) -> dict[str, Config]:
    """Return the configuration of each training by the model's name.

    `best` has the settings that the search in the folder has chosen.
    """
    path = folder / "search" / "best.yaml"
    chosen = yaml.safe_load(path.read_text(encoding="utf-8")) if path.exists() else {}
    configs = {"baseline": config, "best": with_overrides(config, chosen)}
    return {
        name: with_overrides(configs[model], {"train.seeds": [seed]})
        for name, (model, seed) in trained_models(config).items()
    }


def _settings(config: Config, *sections: str) -> dict[str, Any]:
    """Return these sections, and the weights of the base if `model` is one of them."""
    settings = config.model_dump(mode="json", include=set(sections))
    return settings | (weights_fingerprint(config.model) if "model" in sections else {})


def _tokenizer_settings(config: Config) -> dict[str, Any]:
    """Return ROUGE's tokenizer, unless it is the one that studies had when there was no other."""
    tokenizer = config.score.tokenizer
    return {} if tokenizer == "rouge-score" else {"rouge_tokenizer": tokenizer}


def _file_hashes(data: DataConfig) -> dict[str, str]:
    """Return the SHA-256 of each local file, so that a changed one is read again."""
    hashes = {}
    for name in filter(None, [data.train, data.validation, data.test, data.source]):
        path = Path(name)
        try:
            for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
                if file.is_file():
                    hashes[str(file)] = file_hash(file)
        except OSError as error:
            raise UserError(f"{name} cannot be read: {error.strerror}: give another") from None
    return hashes


def _generation_settings(system: str, config: Config) -> dict[str, Any]:
    """Return what the summaries of the system depend on, apart from the data."""
    if systems.base_system(system) in systems.MODEL_SYSTEMS:
        return _settings(config, "prompt", "model", "generate")
    if system in systems.EXTRACTIVE_SYSTEMS:
        return {} if system == "lead3" else _tokenizer_settings(config)
    rival = config.rivals[system]
    file = {"sha256": file_hash(Path(rival.file))} if rival.file else {}
    return {**rival.model_dump(mode="json", exclude={"batch_size"}), **file}
