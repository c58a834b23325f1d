"""Reading the configuration: YAML, overrides, validation, and errors that say what to change."""

from __future__ import annotations

import datetime
import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

import nutgraf
from nutgraf.config import strict_yaml
from nutgraf.config.study import Config
from nutgraf.config.types import Choices, Section
from nutgraf.core.errors import UserError, did_you_mean, one_line, without_secrets


class ConfigError(UserError):
    """The configuration cannot be used: the message names the field, the value, what is allowed."""


def load_config(path: Path | None, overrides: Mapping[str, str] | None = None) -> Config:
    """The configuration of a YAML file (the pocket study without one) with overrides applied.

    `path` may be the name of a configuration that nutgraf comes with, such as `tinyllama-cnndm`; a
    file of that name comes first.
    `overrides` maps dotted names (`train.learning_rate`) to YAML text (`2e-4`, `[4, 8]`, `null`);
    each replaces one field and leaves its siblings. Raises ConfigError.
    """
    return load_with(path, {name: _parse(name, text) for name, text in (overrides or {}).items()})


def load_with(path: Path | None, values: Mapping[str, Any]) -> Config:
    """Return what `load` does, with `values` of Python by dotted name. Raises ConfigError."""
    raw = _read_yaml(path) if path else {}
    if any(name.startswith("search.space.") for name in values):
        _default_space(raw)
    for name, value in values.items():
        _set(raw, name, value)
    return build_config(raw)


def saved_or(path: Path | None, run: str | None) -> Path | None:
    """Return `path`, or without one the settings that the run folder `run` has, if any."""
    saved = Path(run) / "config.yaml" if run else None
    return saved if path is None and saved is not None and saved.exists() else path


def shipped() -> dict[str, Path]:
    """Return the configurations that nutgraf comes with, by name."""
    folder = Path(nutgraf.__path__[0]) / "configs"
    files = {path.stem: path for path in sorted(folder.glob("*.yaml"))}
    return {name: path for name, path in files.items() if name != "cluster"}  # for Ray's launcher


def build_config(raw: Mapping[str, Any]) -> Config:
    """The configuration of plain nested mappings. Raises ConfigError, one line a problem."""
    _check_texts(raw)
    try:
        config = Config.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(_explain(error, Config)) from None
    for name, domain in config.search.space.items():
        ends = domain.choices if isinstance(domain, Choices) else (domain.low, domain.high)
        for value in ends:
            replace_settings(config, {name: value})
    return config


def replace_settings(config: Config, values: Mapping[str, Any]) -> Config:
    """`config` with dotted fields replaced, e.g. `{"train.learning_rate": 2e-4}`.

    Raises ConfigError for a value that does not validate.
    """
    sections: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        section, field = name.split(".", 1)
        sections.setdefault(section, {})[field] = value
    update: dict[str, Section] = {}
    for section, fresh in sections.items():
        old: Section = getattr(config, section)
        try:
            update[section] = type(old).model_validate({**old.model_dump(), **fresh})
        except ValidationError as error:
            raise ConfigError(_explain(error, type(old), prefix=section)) from None
    return config.model_copy(update=update)


def to_yaml(config: Config) -> str:
    """Every setting, resolved, as YAML that `load` reads back to an equal configuration."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def setting_fields(
    model: type[BaseModel] = Config, prefix: str = ""
) -> Iterator[tuple[str, str, Any]]:
    """(dotted name, sentence, default) of every field, in order, for help and documents.

    Where a section is a mapping of sections by names of the user's, `NAME` stands for any of them.
    """
    for name, info in model.model_fields.items():
        section = info.annotation
        inside = typing.get_args(section)[1] if typing.get_origin(section) is dict else None
        if isinstance(section, type) and issubclass(section, Section):
            yield from setting_fields(section, f"{prefix}{name}.")
        elif isinstance(inside, type) and issubclass(inside, Section):
            yield from setting_fields(inside, f"{prefix}{name}.NAME.")
        else:
            yield f"{prefix}{name}", info.description or "", info.default


def _read_yaml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        path = shipped().get(str(path), path)
    try:
        with path.open("rb") as file:
            text = file.read(strict_yaml.LONGEST + 1).decode()
        raw = strict_yaml.load_yaml(text)
    except FileNotFoundError:
        raise ConfigError(
            f"{path} does not exist: give the path of a YAML file, or {' or '.join(shipped())}"
        ) from None
    except (OSError, ValueError) as error:  # among them text that is not UTF-8, a NUL in the name
        raise ConfigError(f"{path} cannot be read: {error}") from None
    except strict_yaml.Mistake as error:
        raise ConfigError(f"{path}: {error}") from None
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        raise ConfigError(f"{path} holds a {type(raw).__name__}: it must be `section: …` mappings")
    return raw


def _default_space(raw: dict[str, Any]) -> None:
    """Give `raw` the default search space, so that overriding one domain keeps the others."""
    section = raw.setdefault("search", {})
    if isinstance(section, dict) and "space" not in section:
        section["space"] = Config().model_dump(mode="json")["search"]["space"]


def _parse(name: str, text: str) -> Any:
    try:
        return strict_yaml.load_yaml(text)
    except strict_yaml.Mistake as error:
        raise ConfigError(f"{name}: {text!r} cannot be read as a value: {error}") from None


def _set(raw: dict[str, Any], dotted: str, value: Any) -> None:
    # The names of a search space contain a dot themselves: search.space.train.learning_rate.
    parts = dotted.split(".", 2) if dotted.startswith("search.space.") else dotted.split(".")
    names = {name for name, _, _ in setting_fields()} | {"rivals"}
    known = re.sub(r"^rivals\.[^.]+", "rivals.NAME", dotted)
    if not (known in names or dotted.startswith("search.space.")):
        raise ConfigError(f"{dotted!r} is not a setting{did_you_mean(dotted, names)}")
    *sections, last = parts
    here = raw
    for section in sections:
        inner = here.get(section)
        inner = dict(inner) if isinstance(inner, dict) else {}
        here[section] = inner
        here = inner
    here[last] = value


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


def _explain(error: ValidationError, model: type[BaseModel], prefix: str = "") -> str:
    """Pydantic's problems as one line: of each the field, its value, what is allowed."""
    problems = error.errors(include_url=False, include_context=True)
    lines = []
    for problem in problems:
        loc, kind = problem["loc"], problem["type"]
        if kind == "too_short" and any(p["loc"][:-1] == loc for p in problems):
            continue  # the item that is wrong is told already
        # Parts such as "range" or "tuple[str]" say which of several types was tried.
        where = [str(part) for part in loc if part not in ("range", "choices", "[key]")]
        where = [part for part in where if not re.match(r"(literal|tuple)\[", part)]
        name = ".".join(([prefix] if prefix else []) + where)
        if kind in ("extra_forbidden", "invalid_key"):
            known = _siblings(model, loc[:-1])
            lines.append(f"{name!r} is not a setting{did_you_mean(where[-1], known)}")
        elif kind == "value_error":
            text = str(problem["ctx"]["error"])
            lines.append(f"{name}: {text}" if name else text)
        else:
            lines.append(f"{name} is {_shown(problem['input'])}: {_wanted(problem)}")
    return "; ".join(dict.fromkeys(lines))


def _shown(value: Any) -> str:
    """A value as a person wrote it, or its beginning."""
    names = {None: "null", True: "true", False: "false"}
    return names[value] if value is None or isinstance(value, bool) else one_line(repr(value), 80)


def _wanted(problem: Any) -> str:
    """What would be right in place of a value."""
    value, message = problem["input"], problem["msg"]
    if problem["type"] in ("model_type", "dict_type"):
        return "give its fields, `name: value` each"
    if problem["type"] == "string_type":
        plain = isinstance(value, int | float | datetime.date) and not isinstance(value, bool)
        return f"text is wanted, write '\"{value}\"'" if plain else "text is wanted"
    return str(message[0].lower() + message[1:])


def _siblings(model: Any, loc: Sequence[int | str]) -> list[str]:
    for part in loc:
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            return []
        info = model.model_fields.get(str(part))
        if info is None:
            return []
        model = info.annotation
        if isinstance(model, types.UnionType):
            return []
    if isinstance(model, type) and issubclass(model, BaseModel):
        return list(model.model_fields)
    return []
