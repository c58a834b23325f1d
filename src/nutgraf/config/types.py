"""Define what sections are made of: their base class, numbers, domains of a search."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    model_validator,
)


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
Seed = Annotated[int, BeforeValidator(_reject_bool), Field(ge=0, lt=2**32)]  # numpy takes no other


class Choices(Section):
    """Values that a trial chooses from."""

    choices: tuple[Any, ...] = Field(description="The values to choose from.", min_length=1)


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


def _kind(value: Any) -> str:
    choices = "choices" in value if isinstance(value, dict) else isinstance(value, Choices)
    return "choices" if choices else "range"


Domain = Annotated[
    Annotated[Range, Tag("range")] | Annotated[Choices, Tag("choices")], Discriminator(_kind)
]
Space = dict[str, Domain]
