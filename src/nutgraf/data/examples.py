"""Hold articles as token ids: prompts, and training rows with a summary behind the prompt."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

IGNORED = -100  # the label of a position that the loss leaves out


@dataclass(frozen=True)
class Prompt:
    """`ids` of a prompt, `article_tokens` of them the article; `trimmed_tokens` more are cut."""

    ids: list[int]
    article_tokens: int
    trimmed_tokens: int


@dataclass(frozen=True, slots=True)
class Example:
    """A training row: prompt, summary, end of sequence.

    Four bytes a token, since those of a whole training are in memory: a list takes nine times that.
    """

    ids: array[int]
    prompt_tokens: int
    trimmed_tokens: int

    @property
    def input_ids(self) -> list[int]:
        """Return `ids` as a list."""
        return self.ids.tolist()

    @property
    def labels(self) -> list[int]:
        """Return as many labels as `input_ids`: -100 on the first `prompt_tokens`, then the ids."""
        return [IGNORED] * self.prompt_tokens + self.ids[self.prompt_tokens :].tolist()


@dataclass(frozen=True, slots=True)
class Encoded:
    """An article with its reference summary as token ids: what `prepare` stores of it.

    `example` is the training row, `article_tokens` the length of the whole article. `prompt_ids`
    asks for a summary of it; None if the prompt of the training row does, which is usual: only a
    summary that takes some of the article's room makes that shorter.
    """

    example: Example
    article_tokens: int
    prompt_ids: array[int] | None

    @property
    def prompt(self) -> Prompt:
        """Return the prompt that asks for a summary."""
        row = self.example
        ids = row.ids[: row.prompt_tokens] if self.prompt_ids is None else self.prompt_ids
        trimmed = row.trimmed_tokens + row.prompt_tokens - len(ids)
        return Prompt(ids.tolist(), self.article_tokens - trimmed, trimmed)


@dataclass(frozen=True)
class Rows(Sequence[Example]):
    """As many training rows as there are articles, of which only some are `loaded`, by index."""

    loaded: Mapping[int, Example]
    total: int

    def __len__(self) -> int:
        return self.total

    def __getitem__(self, index: Any) -> Any:
        return self.loaded[index]
