"""Configure a round of training on preferences among summaries that the model wrote."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from nutgraf.config.evaluation import MAX_CANDIDATES
from nutgraf.config.types import Count, Float, Positive, Section


class PreferenceConfig(Section):
    """A round: candidates of training articles, of which the better is preferred to the worse."""

    articles: Count = Field(
        320,
        description="Training articles of a round, of which candidates are written; "
        "`generate.choose: fitted` is fitted on them.",
    )
    candidates: Annotated[Count, Field(ge=2, le=MAX_CANDIDATES)] = Field(
        8, description="Summaries of each of them, of which the best and the worst make a pair."
    )
    temperature: Positive = Field(
        0.7, description="What scores are divided by before a candidate's token is drawn."
    )
    reward: Literal["reference", "consensus", "support"] = Field(
        "reference",
        description="What makes a candidate better: `reference` is ROUGE against the reference; "
        "`consensus` (agreement with the others) and `support` (few names and numbers that the "
        "article lacks, then agreement) need none.",
    )
    learning_rate: Positive = Field(5e-5, description="Peak step size of AdamW in a round.")
    beta: Positive = Field(
        0.1, description="How dear it is to leave the model that a round begins with, per nat."
    )
    likelihood: Annotated[Float, Field(ge=0)] = Field(
        1.0,
        description="How much the loss of the better summary, in nats a token, counts beside the "
        "preference; 0 leaves it out.",
    )
