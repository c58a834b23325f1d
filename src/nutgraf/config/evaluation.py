"""Configure summaries, their scores, and other systems to compare with."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from nutgraf.config.types import (
    Count,
    CountOrZero,
    Float,
    LocalPath,
    PathOrName,
    Positive,
    Section,
    Seed,
)

RougeTokenizer = Literal["rouge-score", "unicode"]
MAX_CANDIDATES = 16
Choice = Literal["consensus", "support", "fitted"]


class GenerateConfig(Section):
    """How summaries are decoded."""

    max_new_tokens: Count = Field(96, description="Longest summary, in tokens.")
    min_new_tokens: CountOrZero = Field(
        0, description="Tokens before which a summary cannot end; 0 sets no limit."
    )
    no_repeat_ngram: CountOrZero = Field(
        0,
        description="No sequence of so many words appears twice in a summary, which may copy its "
        "article; 0 forbids nothing.",
    )
    max_sentences: Count | None = Field(
        None, description="Sentences after which a summary is cut; null sets no limit."
    )
    whole_sentences: bool = Field(
        False,
        description="A summary that reached `max_new_tokens` is cut after its last whole sentence, "
        "if it has one.",
    )
    num_beams: Count = Field(1, description="Beams of the decoder; 1 is greedy.")
    length_penalty: Float = Field(
        1.0,
        description="The best of several beams has the highest log-likelihood divided by its "
        "tokens to this power: above 0 favours long summaries.",
    )
    candidates: Count = Field(
        1,
        le=MAX_CANDIDATES,
        description="Summaries that the best model writes of each article, from one reading, to "
        "choose one of them: the first greedily, the others drawn at random.",
    )
    temperature: Positive = Field(
        0.4, description="What scores are divided by before a candidate's token is drawn."
    )
    top_p: Annotated[Float, Field(gt=0, le=1)] = Field(
        0.95,
        description="Share of the probability of the likeliest tokens, of which one is drawn.",
    )
    seed: Seed = Field(42, description="Seed of the candidates, with one of each article.")
    choose: Choice = Field(
        "consensus",
        description="The candidate that is taken: `consensus` agrees most with the others, "
        "`support` has the fewest names and numbers that the article lacks, then agrees most, "
        "`fitted` is best by weights fitted on candidates of training articles.",
    )
    batch_size: Count = Field(50, description="Articles decoded together.")

    @model_validator(mode="after")
    def _no_beams_to_choose_from(self) -> GenerateConfig:
        if self.candidates > 1 and self.num_beams > 1:
            raise ValueError(
                f"candidates is {self.candidates}, num_beams {self.num_beams}: candidates are "
                "drawn without beams, set one of them to 1"
            )
        return self

    @model_validator(mode="after")
    def _can_end(self) -> GenerateConfig:
        if self.min_new_tokens >= self.max_new_tokens:
            raise ValueError(
                f"min_new_tokens is {self.min_new_tokens}, max_new_tokens {self.max_new_tokens}: "
                "the first must be the smaller"
            )
        return self


class ScoreConfig(Section):
    """ROUGE, and the bootstrap of its intervals."""

    tokenizer: RougeTokenizer = Field(
        "rouge-score",
        description="Words that ROUGE compares: `rouge-score` keeps a-z and 0-9, stemmed as "
        "English, as published figures do; `unicode` keeps the letters of every script, unstemmed.",
    )
    resamples: Count = Field(
        10_000, le=1_000_000, description="Bootstrap resamples of the articles."
    )
    seed: Seed = Field(42, description="Seed of the bootstrap.")


class FactsConfig(Section):
    """A second look at summaries: by the base, which reads them behind their articles."""

    articles: CountOrZero = Field(
        0,
        description="Test articles, drawn at random, of which the base reads the references and "
        "the models' summaries, to find sentences that the article may not support; 0 reads none.",
    )


class RivalConfig(Section):
    """Another system, whose summaries are scored too."""

    model: PathOrName | None = Field(
        None,
        description="Hub id or local folder of a sequence-to-sequence checkpoint in safetensors, "
        "e.g. `facebook/bart-large-cnn`; it decodes as its own generation settings say.",
    )
    revision: str | None = Field(None, description="Commit of the Hub checkpoint.")
    batch_size: Count = Field(8, description="Articles decoded together by the checkpoint.")
    file: LocalPath | None = Field(
        None, description="Instead of a checkpoint: .jsonl, .csv or .parquet with its summaries."
    )
    id: str = Field("id", description="Column of the file with the test articles' ids.")
    summary: str = Field("summary", description="Column of the file with the summaries.")

    @model_validator(mode="after")
    def _one_of_two(self) -> RivalConfig:
        if (self.model is None) == (self.file is None):
            raise ValueError(
                f"model is {self.model!r} and file {self.file!r}: set exactly one of them"
            )
        return self
