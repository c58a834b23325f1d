"""Read a configuration: YAML, overrides, validation, and errors that say what to change."""

from __future__ import annotations

import datetime
import itertools
import re
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

import nutgraf
from nutgraf.config import strict_yaml
from nutgraf.config.study import Config
from nutgraf.config.types import Choices, Range, Section
from nutgraf.core.errors import UserError, did_you_mean, one_line, without_secrets
from nutgraf.core.paths import expand


class ConfigError(UserError):
    """The configuration cannot be used: the message names the field, the value, what is allowed."""


def load_config(
    path: Path | None, overrides: Mapping[str, str] | None = None, **texts: str
) -> Config:
    """Return the configuration of a YAML file with overrides applied.

    Args:
        path: A file, or the name of a configuration that nutgraf comes with, such as
            `tinyllama-cnndm`; a file of that name comes first. None is the pocket study.
        overrides: YAML text by dotted name, such as `2e-4` by `train.learning_rate`. Each
            replaces one field and leaves its siblings.
        **texts: Overrides that are text as it stands, such as `run`.

    Raises:
        ConfigError: The file cannot be read, or a field or value is not allowed.
    """
    values = {name: _parse(name, text) for name, text in (overrides or {}).items()}
    return load_config_values(path, {**values, **texts})


def load_config_values(path: Path | None, overrides: Mapping[str, Any]) -> Config:
    """Return what `load_config` does, with Python values as overrides. Raises ConfigError."""
    raw = _read_yaml(path) if path else {}
    for name, value in overrides.items():
        _override(raw, name, value)
    config = build_config(raw)
    if config.data.train and "data.source" in overrides:
        raise ConfigError(
            f"data.source is {config.data.source!r}, and data.train, data.validation and data.test "
            "come before it: set these three to null"
        )
    return config


def find_config(path: Path | None, run: str | Path | None) -> Path | None:
    """Return `path`, or without one the configuration in the run folder `run`, if any."""
    path = path and expand(path)
    saved = expand(run) / "config.yaml" if run else None
    return saved if path is None and saved is not None and saved.exists() else path


def shipped_configs() -> dict[str, Path]:
    """Return the configurations that nutgraf comes with, by name."""
    folder = Path(nutgraf.__path__[0]) / "configs"
    files = {path.stem: path for path in sorted(folder.glob("*.yaml"))}
    return {name: path for name, path in files.items() if name != "cluster"}  # for Ray's launcher


def build_config(raw: Mapping[str, Any]) -> Config:
    """Return the configuration of nested mappings, with paths from the root.

    A relative path is one of the current folder. Raises ConfigError with every problem.
    """
    _check_texts(raw)
    ray = raw.get("ray")
    address = ray.get("address") if isinstance(ray, Mapping) else None
    try:
        config = Config.model_validate(raw, context={"here": not str(address).startswith("ray://")})
    except ValidationError as error:
        raise ConfigError(_explain(error)) from None
    space = {name: _checked(config, name, domain) for name, domain in config.search.space.items()}
    return with_overrides(config, {"search.space": space})


def _checked(config: Config, name: str, domain: Range | Choices) -> Range | Choices:
    """Return the domain of a searched setting, with numbers for texts like `5e-2`.

    Raises ConfigError for a value that the setting cannot have.
    """
    section, field = name.split(".", 1)

    def read(value: Any) -> Any:
        return getattr(getattr(with_overrides(config, {name: value}), section), field)

    if isinstance(domain, Choices):
        values = ((value, read(value)) for value in domain.choices)
        return Choices(choices=tuple(new if isinstance(old, str) else old for old, new in values))
    if any(isinstance(read(end), bool) for end in (domain.low, domain.high)):
        raise ConfigError(f"search.space has a range of {name}, which is yes or no: use choices")
    return domain


def with_overrides(config: Config, overrides: Mapping[str, Any]) -> Config:
    """Return `config` with dotted fields replaced, e.g. `{"train.learning_rate": 2e-4}`.

    Raises ConfigError for a value that does not validate.
    """
    by_section: dict[str, dict[str, Any]] = {}
    for name, value in overrides.items():
        section, field = name.split(".", 1)
        by_section.setdefault(section, {})[field] = value
    update: dict[str, Section] = {}
    for section, fields in by_section.items():
        old: Section = getattr(config, section)
        try:
            update[section] = type(old).model_validate({**old.model_dump(), **fields})
        except ValidationError as error:
            raise ConfigError(_explain(error, section)) from None
    return config.model_copy(update=update)


def to_yaml(config: Config) -> str:
    """Return every field as YAML that `load_config` reads back to an equal configuration."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def setting_fields(
    model: type[BaseModel] = Config, prefix: str = ""
) -> Iterator[tuple[str, str, Any]]:
    """Yield (dotted name, description, default) of every field in order.

    In a mapping of sections by names of the user's, `NAME` stands for any of them.
    """
    for name, info in model.model_fields.items():
        section, dotted = info.annotation, f"{prefix}{name}."
        if typing.get_origin(section) is dict:
            section, dotted = typing.get_args(section)[1], f"{dotted}NAME."
        if isinstance(section, type) and issubclass(section, Section):
            yield from setting_fields(section, dotted)
        else:
            yield f"{prefix}{name}", info.description or "", info.default


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        if not path.is_file():
            path = shipped_configs().get(str(path), path)
        with path.open("rb") as file:
            raw = strict_yaml.load_yaml(file.read(strict_yaml.LONGEST + 1).decode())
    except FileNotFoundError:
        names = " or ".join(shipped_configs())
        raise ConfigError(
            f"{path} does not exist: give the path of a YAML file, or {names}"
        ) from None
    except (OSError, ValueError) as error:  # among them text that is not UTF-8, a NUL in the name
        raise ConfigError(f"{path} cannot be read: {error}") from None
    if raw is not None and not isinstance(raw, dict):
        raise ConfigError(f"{path} holds a {type(raw).__name__}: it must be `section: …` mappings")
    return raw or {}


def _parse(name: str, text: str) -> Any:
    if name == "prompt.request" and not text.startswith(('"', "'")):
        return text  # words as they stand: with a colon behind them they would be a mapping
    try:
        return strict_yaml.load_yaml(text)
    except ValueError as error:
        raise ConfigError(f"{name}: {text!r} cannot be read as a value: {error}") from None


def _override(raw: dict[str, Any], name: str, value: Any) -> None:
    """Set one field in `raw`, the mappings of a YAML file."""
    names = {known for known, _, _ in setting_fields()} | {"rivals"}
    parts = name.split(".")
    if name.startswith("search.space."):
        parts = name.split(".", 2)  # a searched field has a dot itself: train.learning_rate
    elif re.sub(r"^rivals\.[^.]+", "rivals.NAME", name) not in names:
        raise ConfigError(f"{name!r} is not a setting{did_you_mean(name, names)}")
    section = raw
    for part in parts[:-1]:
        if part == "space" and part not in section:  # the other searched fields stay
            section[part] = Config().model_dump(mode="json")["search"]["space"]
        inner = section.get(part)
        section[part] = dict(inner) if isinstance(inner, dict) else {}
        section = section[part]
    section[parts[-1]] = value


def _check_texts(value: Any, name: str = "") -> None:
    """Raise ConfigError for what no setting may hold: a secret, which would be saved; a NUL."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            _check_texts(inner, f"{name}.{key}".lstrip("."))
    elif isinstance(value, list | tuple):
        for inner in value:
            _check_texts(inner, name)
    elif isinstance(value, str):
        if without_secrets(value) != value:
            variable = "AWS_SECRET_ACCESS_KEY or its like" if name == "storage" else "HF_TOKEN"
            raise ConfigError(
                f"{name} holds a token or a password, and settings are saved: leave it out, and "
                f"set the environment variable {variable} instead"
            )
        if "\0" in value:
            raise ConfigError(f"{name} is {value!r}: leave the NUL character out")


def _explain(error: ValidationError, section: str = "") -> str:
    """Return pydantic's problems as one line: of each the field, its value, what is allowed."""
    problems = error.errors(include_url=False)
    lines = []
    for problem in problems:
        loc, kind = problem["loc"], problem["type"]
        if kind == "too_short" and any(p["loc"][:-1] == loc for p in problems):
            continue  # the item that is wrong is reported already
        # Parts such as "range" or "tuple[str]" say which of several types was tried.
        parts = [section, *map(str, loc)]
        name = ".".join(p for p in parts if p and not re.match(_TRIED_TYPE, p))
        if kind in ("extra_forbidden", "invalid_key"):
            lines.append(f"{name!r} is not a setting{did_you_mean(name, _all_names())}")
        elif kind == "value_error":
            text = str(problem["ctx"]["error"])
            lines.append(f"{name}: {text}" if name else text)
        else:
            lines.append(f"{name} is {_shown(problem['input'])}: {_allowed(problem)}")
    return "; ".join(dict.fromkeys(lines))


_TRIED_TYPE = r"(range|choices|\[key\])$|(literal|tuple)\["


def _all_names() -> set[str]:
    """Return the dotted names of all sections and fields."""
    paths = (name.split(".") for name, _, _ in setting_fields())
    return {name for path in paths for name in itertools.accumulate(path, "{}.{}".format)}


def _shown(value: Any) -> str:
    """Return a value as a person wrote it, or its beginning."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return one_line(repr(value), 80)


def _allowed(problem: Any) -> str:
    """Return what would be right in place of a value."""
    value, message = problem["input"], problem["msg"]
    if problem["type"] in ("model_type", "dict_type"):
        return "give its fields, `name: value` each"
    if problem["type"] == "string_type":
        plain = isinstance(value, int | float | datetime.date) and not isinstance(value, bool)
        return f"text is wanted, write '\"{value}\"'" if plain else "text is wanted"
    return str(message[0].lower() + message[1:])
