"""Configure articles, and the prompts made from them."""

from __future__ import annotations

import unicodedata
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from nutgraf.config.types import Count, Float, LocalPath, PathOrName, Section, Seed


class DataConfig(Section):
    """The articles and their references."""

    source: PathOrName = Field(
        "newswire",
        description="Where articles come from: `newswire` (embedded, synthetic), a Hub data set "
        "like `abisee/cnn_dailymail`, a local file of rows with a split column, or a folder.",
    )
    name: str | None = Field(None, description="Configuration of the Hub data set, e.g. `3.0.0`.")
    revision: str | None = Field(
        None, description="Commit of the Hub data set, so that a later run reads the same rows."
    )
    train: LocalPath | None = Field(
        None, description="Local file for training; given together with the other two splits."
    )
    validation: LocalPath | None = Field(None, description="Local file for validation.")
    test: LocalPath | None = Field(None, description="Local file for the test.")
    id_column: str = Field(
        "id", description="Column of the article's id; numbered if a file has none."
    )
    article_column: str = Field("article", description="Column of the article's text.")
    summary_column: str = Field(
        "highlights", description="Column of the reference summary, one sentence a line."
    )
    split_column: str = Field("split", description="Column of the split in a single local file.")
    train_examples: Count | None = Field(
        900, description="Articles drawn for training, at random with `seed`; null takes all."
    )
    validation_examples: Count | None = Field(
        64, description="Articles drawn for validation; null takes all."
    )
    test_examples: Count | None = Field(
        100, description="Articles drawn for the test, the same for every system; null takes all."
    )
    max_rejected: Annotated[Float, Field(ge=0, le=1)] = Field(
        0.05,
        description="Share of a split's rows, 0 to 1, that may be rejected; if more are, "
        "`prepare` stops and says why.",
    )
    allow_overlap: bool = Field(
        False,
        description="Keep articles in training that are in validation, in the test or there twice, "
        "and in validation those of the test, instead of removing them.",
    )
    seed: Seed = Field(42, description="Seed of the draws.")

    @property
    def is_newswire(self) -> bool:
        """Return whether the articles are those of the embedded newswire."""
        return self.source == "newswire" and not self.train

    @model_validator(mode="after")
    def _three_files(self) -> DataConfig:
        splits = ("train", "validation", "test")
        missing = [split for split in splits if not getattr(self, split)]
        if 0 < len(missing) < 3:
            named = [split for split in splits if split not in missing]
            raise ValueError(
                f"only {', '.join(named)} given: set {', '.join(f'data.{n}' for n in missing)} "
                "too, or put all rows in one file with a split column and set data.source"
            )
        endless = [split for split in splits if getattr(self, f"{split}_examples") is None]
        if endless and missing and self.source == "newswire":
            raise ValueError(f"the newswire never ends: set data.{endless[0]}_examples to a number")
        return self


def _words(text: str) -> str:
    """Return the words of a request. Raise ValueError for what would not stay as it is written."""
    if text != text.strip():
        raise ValueError(f"{text!r} begins or ends in white space: leave that out")
    if other := [c for c in text if unicodedata.category(c) in ("Cc", "Co", "Cs") and c != "\n"]:
        raise ValueError(f"{text!r} holds the character {other[0]!r}: leave it out")
    return text


class PromptConfig(Section):
    """How an article becomes a prompt."""

    request: Annotated[str, AfterValidator(_words)] = Field(
        "Summarize:",
        description="Words before the article, for every model of the study; a space follows them. "
        "In YAML a text that ends in a colon needs quotes.",
    )
    template: Literal["plain", "chat"] = Field(
        "plain",
        description="`plain` is `{request} {article}\\n\\nSummary: {summary}`; `chat` puts "
        "request and article into the tokenizer's chat template.",
    )
    max_tokens: Count = Field(
        896, description="Longest training row, prompt and summary together, in tokens."
    )
    max_article_tokens: Count = Field(
        736, description="Longest article in a prompt, in tokens; the rest of its end is cut."
    )

    @model_validator(mode="after")
    def _room_for_a_summary(self) -> PromptConfig:
        if self.max_article_tokens >= self.max_tokens:
            raise ValueError(
                f"max_article_tokens is {self.max_article_tokens}, max_tokens {self.max_tokens}: "
                "no room for a summary; lower prompt.max_article_tokens or raise prompt.max_tokens"
            )
        return self
