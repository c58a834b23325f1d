"""List what each stage makes, from which inputs and with which settings.

No library that does the work is loaded, so that a finished study is recognized at once.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from nutgraf.config import Config, effects, systems
from nutgraf.config.load import with_overrides
from nutgraf.core.errors import UserError, library_errors
from nutgraf.core.files import file_hash, files_in
from nutgraf.judging.record import FOLDER
from nutgraf.modeling.base_files import base_fingerprint, hash_parts, is_local
from nutgraf.storage.artefact import Artefact
from nutgraf.storage.run_folder import RunFolder

# Parts of the base that decide its losses, and those that decide what is written with it.
_WEIGHTS = ("base_weights", "base_config")
_DECODING = ("tokenizer_files", "generation_config", "chat_template")  # its end of an answer too
TABLE = "model_comparison_results.csv"


def prepare(config: Config, folder: RunFolder) -> list[Artefact]:
    """Return the data, of files as they are now. Raise UserError if one cannot be read."""
    chat = ["chat_template"] if config.prompt.template == "chat" else []
    settings = _deciding(config, "data", "tokenizer_files", *chat)
    settings["token_ids"] = 2  # the form in which they are stored
    files = settings["files"] = {}
    for name in ("data.source", "data.train", "data.validation", "data.test"):
        path = Path(settings[name] or "")
        if path.is_absolute() and (hashes := _file_hashes(name, path)):
            files |= hashes  # what is in it counts, not where it is
            del settings[name]
    return [folder.artefact("data", settings=settings)]


def search(config: Config, folder: RunFolder) -> list[Artefact]:
    """Return the search: its trials and the settings that it chose.

    A trial follows from rows, base, and the settings of its training. So if those of the search
    itself change, trials that it proposes again are not trained again.
    """
    settings = _deciding(with_first_seed(config), "search", *_WEIGHTS, *_DECODING)
    return [
        folder.artefact(
            "search",
            inputs=["data:train", "data:validation"],
            settings=settings,
            replayed=[
                name
                for name in settings
                if name.startswith(("search.", "generate.", "score.")) or name in _DECODING
            ],
            recorded=effects.undecisive(config),
        )
    ]


def train(config: Config, folder: RunFolder) -> list[Artefact]:
    """Return one artefact a model, in the order of `training_configs`.

    A round follows from the model that it starts from, with all that decides that.
    """
    artefacts = []
    for name, own in training_configs(config, folder).items():
        inputs, settings = ["data:train", "data:validation"], _deciding(own, "models", *_WEIGHTS)
        if start := systems.start_of_round(name):
            inputs.append(f"models/{start}")
            settings = _deciding(config, "rounds", *_WEIGHTS, *_DECODING)
        elif systems.base_system(name) == "best":
            inputs.append("search:best.yaml")
        recorded = effects.undecisive(config)
        artefacts.append(
            folder.artefact(f"models/{name}", inputs=inputs, settings=settings, recorded=recorded)
        )
    return artefacts


def generate(config: Config, folder: RunFolder) -> list[Artefact]:
    """Return one artefact a system, in the order of `measured_systems`, after a fitted choice."""
    return [_choice(config, folder)] * systems.fits_choice(config) + [
        folder.artefact(
            f"summaries/{system}",
            outputs=[f"summaries/{system}.jsonl"],
            inputs=["data:test", *_written_with(system, config)],
            settings=_generation_settings(system, config),
            recorded=effects.undecisive(config),
        )
        for system in systems.measured_systems(config)
    ]


def score(config: Config, folder: RunFolder) -> list[Artefact]:
    """Return one artefact a system, in the order of `measured_systems`, and `facts`, if wanted."""
    systems_read = [f"summaries/{system}" for system in systems.model_systems(config)]
    facts = folder.artefact(
        "facts",
        outputs=["facts.jsonl"],
        inputs=["data:test", *systems_read],
        settings=_deciding(config, "facts", *_WEIGHTS, "tokenizer_files", "chat_template"),
    )
    return [facts] * (config.facts.articles > 0) + [
        folder.artefact(
            f"scores/{system}",
            outputs=[f"scores/{system}.jsonl"],
            inputs=["data:test", f"summaries/{system}"],
            settings=effects.deciding(config, "scores"),
        )
        for system in systems.measured_systems(config)
    ]


def compare(config: Config, folder: RunFolder) -> list[Artefact]:
    """Return the table with the analysis, then the model to take away."""
    measured = systems.measured_systems(config)
    models = [f"models/{name}" for name in systems.trained_models(config)]
    records = [f"{kind}/{system}" for system in measured for kind in ("summaries", "scores")]
    return [
        folder.artefact(
            "comparison",
            outputs=[TABLE, "analysis"],
            inputs=["data:test", *records, *models, *["facts"] * (config.facts.articles > 0)],
            settings=effects.deciding(config, "comparison"),
        ),
        folder.artefact(
            "final_best_model",  # its card describes the study
            inputs=[
                "data",
                "comparison",
                f"models/{systems.final_system(config)}",
                *["choice"] * systems.fits_choice(config),
            ],
            settings={
                **effects.deciding(config, "any"),
                **base_fingerprint(config.model, *_WEIGHTS, *_DECODING),
            },
        ),
    ]


def report(config: Config, folder: RunFolder) -> list[Artefact]:
    """Return the pages with their figures; they show every setting."""
    models = [f"models/{name}" for name in systems.trained_systems(config)]
    records = systems.system_names(config)
    files = sorted((folder / FOLDER).glob("*.jsonl"))
    judged = {"judgements": {file.stem: file_hash(file)[:16] for file in files}} if files else {}
    return [
        folder.artefact(
            "report",
            outputs=["figures", "report.html", "report.md"],
            inputs=[
                "data", "search", *models, *(f"scores/{name}" for name in records), "comparison",
                *["choice"] * systems.fits_choice(config),
            ],
            settings=effects.deciding(config, "any") | effects.deciding(config, "report") | judged,
        )
    ]  # fmt: skip


BY_STAGE: dict[str, Callable[[Config, RunFolder], list[Artefact]]] = {
    stage.__name__: stage for stage in (prepare, search, train, generate, score, compare, report)
}


def with_first_seed(config: Config) -> Config:
    """Return the configuration with the first seed only: a search does not depend on others."""
    return with_overrides(config, {"train.seeds": [config.train.seed]})


def training_configs(config: Config, folder: RunFolder) -> dict[str, Config]:
    """Return the configuration of each training by the model's name.

    `best` and its rounds have the settings that the search in the folder has chosen.
    """
    path = folder / "search" / "best.yaml"
    chosen = yaml.safe_load(path.read_text(encoding="utf-8")) if path.exists() else {}
    best = with_overrides(config, chosen)
    return {
        name: with_overrides(
            config if model == "baseline" else best, {"train.seeds": [seed], "train.rounds": 0}
        )
        for name, (model, seed) in systems.trained_models(config).items()
    }


def system_config(system: str, config: Config) -> Config:
    """Return the configuration with which a system writes: the final one alone, candidates."""
    if system == systems.final_system(config):
        return config
    one = {"generate.candidates": 1, "generate.choose": "consensus"}  # which is the default
    return with_overrides(config, one)


def _choice(config: Config, folder: RunFolder) -> Artefact:
    """Return the weights of a fitted choice, from candidates of the last round, or like those."""
    final = systems.final_system(config)
    start = systems.start_of_round(final)
    return folder.artefact(
        "choice",
        outputs=["choice.json"],
        inputs=["data:train", f"models/{final}", *([f"models/{start}"] if start else [])],
        settings=_deciding(config, "choice", *_WEIGHTS, *_DECODING),
        recorded=effects.undecisive(config),
    )


def _deciding(config: Config, artefact: str, *parts: str) -> dict[str, Any]:
    """Return the settings that decide an artefact; a local base stands for what is in it."""
    settings = effects.deciding(config, artefact)
    if is_local(config.model):
        del settings["model.base"], settings["model.revision"]
    return settings | base_fingerprint(config.model, *parts)


def _file_hashes(setting: str, path: Path) -> dict[str, str]:
    """Return the SHA-256 of each file at `path` by setting and name, without the folder above."""
    try:
        above = path if path.is_dir() else path.parent
        files = [file for file in files_in(path) if file.is_file()]
        return {f"{setting} {file.relative_to(above)}": file_hash(file) for file in files}
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}: give another") from None


def _written_with(system: str, config: Config) -> list[str]:
    """Return the artefact that a system's summaries are made from, if there is one."""
    if system in systems.CHOSEN_SYSTEMS:
        fitted = system == "best_chosen" and systems.fits_choice(config)
        return [f"summaries/{systems.final_system(config)}", *["choice"] * fitted]
    return [f"models/{system}"] if system in systems.trained_models(config) else []


def _generation_settings(system: str, config: Config) -> dict[str, Any]:
    """Return what the summaries of the system depend on, apart from the data."""
    if systems.base_system(system) in systems.MODEL_SYSTEMS:
        own = system_config(system, config)
        settings = _deciding(own, "summaries", *_WEIGHTS, *_DECODING)
        others = ("rivals.", "score.", "generate.choose")  # candidates are chosen from later
        return {n: v for n, v in settings.items() if not n.startswith(others)}
    if system == "best_chosen":
        return {"generate.choose": config.generate.choose}
    if system == "best_oracle":
        return {"score.tokenizer": config.score.tokenizer}
    if system in systems.EXTRACTIVE_SYSTEMS:
        return {} if system == "lead3" else {"score.tokenizer": config.score.tokenizer}
    rival, begin = config.rivals[system], f"rivals.{system}."
    settings = effects.deciding(config, "summaries")
    settings = {n: value for n, value in settings.items() if n.startswith(begin)}
    if rival.file:
        settings[f"{begin}file"] = file_hash(Path(rival.file))
    elif rival.model and Path(rival.model).is_dir():
        fact = f"{begin}model {rival.model!r} could not be read"
        with library_errors(fact, "give a folder with weights in safetensors"):
            settings[f"{begin}model"] = hash_parts(rival.model, None, *_WEIGHTS, *_DECODING)
    return settings
