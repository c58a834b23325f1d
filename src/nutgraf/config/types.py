"""Define what sections are made of: their base class, numbers, domains of a search."""

from __future__ import annotations

import os
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
    model_validator,
)

from nutgraf.core.paths import absolute, is_path


class Section(BaseModel):
    """Base of every section: immutable, and unknown names are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, str_min_length=1)


def _reject_bool(value: object) -> object:
    """Raise ValueError for `true`, which Python counts as 1."""
    if isinstance(value, bool):
        raise ValueError(f"{str(value).lower()} is not a number")
    return value


# YAML 1.1 reads `2e-4` (no dot) as text, and pydantic takes that as the number it is.
Float = Annotated[float, BeforeValidator(_reject_bool), Field(allow_inf_nan=False)]
Positive = Annotated[Float, Field(gt=0)]
Count = Annotated[int, BeforeValidator(_reject_bool), Field(ge=1, le=10**9)]
CountOrZero = Annotated[int, BeforeValidator(_reject_bool), Field(ge=0, le=10**9)]
Seed = Annotated[int, BeforeValidator(_reject_bool), Field(ge=0, lt=2**32)]  # numpy takes no other


def _as_text(value: object) -> object:
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _resolve(path: str, info: ValidationInfo) -> str:
    """Make a path absolute, if this is the start of a study: later the folder may be another.

    `info.context` is then whether the study runs where this program does. Raises ValueError for a
    relative path of another machine.
    """
    if info.context is None or os.path.isabs(path) or "://" in path:
        return path
    if not info.context["here"]:
        raise ValueError(f"{path!r} is read on a cluster (ray.address): give an absolute path")
    return absolute(path)


def _resolve_if_path(text: str, info: ValidationInfo) -> str:
    words = {"base": ("pocket", "smollm2"), "source": ("newswire",)}.get(info.field_name or "", ())
    return text if text in words or not is_path(text) else _resolve(text, info)


# What is on a disk, or has an address; the second may also be on the Hub, or embedded.
LocalPath = Annotated[str, BeforeValidator(_as_text), AfterValidator(_resolve)]
PathOrName = Annotated[str, BeforeValidator(_as_text), AfterValidator(_resolve_if_path)]


class Choices(Section):
    """Values that a trial chooses from."""

    choices: tuple[Any, ...] = Field(description="The values to choose from.", min_length=1)

    @property
    def largest(self) -> Any:
        """Return the largest value, of those that have an order."""
        return max(self.choices)


class Range(Section):
    """An interval that a trial draws from."""

    low: Float = Field(description="Smallest value.")
    high: Float = Field(description="Largest value.")
    log: bool = Field(False, description="Draw the logarithm uniformly.")

    @model_validator(mode="after")
    def _ordered(self) -> Range:
        if not self.low < self.high:
            raise ValueError(f"low is {self.low}, high {self.high}: low must be the smaller")
        if self.log and self.low <= 0:
            raise ValueError(f"low is {self.low}: a logarithmic range starts above 0")
        return self

    @property
    def largest(self) -> float:
        """Return the largest value."""
        return self.high


def _kind(value: Any) -> str:
    choices = "choices" in value if isinstance(value, dict) else isinstance(value, Choices)
    return "choices" if choices else "range"


Domain = Annotated[
    Annotated[Range, Tag("range")] | Annotated[Choices, Tag("choices")], Discriminator(_kind)
]
Space = dict[str, Domain]
