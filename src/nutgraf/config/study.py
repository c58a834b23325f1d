"""Define the configuration of a study, typed and immutable, a class a section.

Every field has one sentence, with its unit, which the command line's help and the documents show.
"""

from __future__ import annotations

import re

from pydantic import Field, field_validator, model_validator

from nutgraf.config.cluster import RayConfig
from nutgraf.config.data import DataConfig, PromptConfig
from nutgraf.config.evaluation import FactsConfig, GenerateConfig, RivalConfig, ScoreConfig
from nutgraf.config.preference import PreferenceConfig
from nutgraf.config.search import SearchConfig
from nutgraf.config.systems import RESERVED_NAMES, base_system
from nutgraf.config.training import LoraSettings, ModelConfig, TrackingConfig, TrainConfig
from nutgraf.config.types import LocalPath, Section

_MISSING = ("nan", "null")  # what pandas reads from a table as no value


class Config(Section):
    """The configuration of a study; the defaults are the pocket study."""

    run: LocalPath = Field("runs/pocket", description="The run folder.")
    storage: LocalPath | None = Field(
        None,
        description="Where a copy of the run folder is kept, to carry on from on another machine: "
        "a folder, `s3://`, `gs://` or another address; null is nowhere.",
    )
    data: DataConfig = Field(DataConfig(), description="Articles and their reference summaries.")
    prompt: PromptConfig = Field(PromptConfig(), description="From an article to a prompt.")
    model: ModelConfig = Field(ModelConfig(), description="The frozen base.")
    lora: LoraSettings = Field(LoraSettings(), description="The adapter of the baseline.")
    train: TrainConfig = Field(TrainConfig(), description="The training of the baseline.")
    preference: PreferenceConfig = Field(
        PreferenceConfig(),
        description="The rounds after the best model's training (`train.rounds`).",
    )
    search: SearchConfig = Field(SearchConfig(), description="What may differ in the best model.")
    generate: GenerateConfig = Field(GenerateConfig(), description="Decoding, for every system.")
    score: ScoreConfig = Field(ScoreConfig(), description="Intervals.")
    facts: FactsConfig = Field(
        FactsConfig(), description="Sentences that the base doubts when it has read the article."
    )
    tracking: TrackingConfig = Field(TrackingConfig(), description="Curves for other programs.")
    ray: RayConfig = Field(RayConfig(), description="A cluster, if one machine is not enough.")
    rivals: dict[str, RivalConfig] = Field(
        {}, description="Other systems on the test articles, by name: a `model` or a `file` each."
    )

    @field_validator("rivals")
    @classmethod
    def _names(cls, rivals: dict[str, RivalConfig]) -> dict[str, RivalConfig]:
        for name in rivals:
            valid = re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,23}", name)
            if base_system(name) in RESERVED_NAMES or name in _MISSING or not valid:
                raise ValueError(
                    f"{name!r} cannot be a rival's name: take up to 24 of a-z, 0-9, _ and -, but "
                    f"none of {', '.join((*RESERVED_NAMES, *_MISSING))}"
                )
        return rivals

    @model_validator(mode="after")
    def _consistent(self) -> Config:
        if self.train.eval_examples > (self.data.validation_examples or self.train.eval_examples):
            raise ValueError(
                f"train.eval_examples is {self.train.eval_examples}, data.validation_examples "
                f"{self.data.validation_examples}: lower the first or raise the second"
            )
        if self.ray.fsdp and self.model.quantization != "none":
            raise ValueError(
                f"ray.fsdp is true and model.quantization {self.model.quantization!r}: a base in 4 "
                "bits is not shared out; set the first to false or the second to none"
            )
        if self.generate.choose == "fitted" and self.generate.candidates == 1:
            raise ValueError(
                "generate.choose is 'fitted' and generate.candidates 1: there is nothing to choose "
                "from; raise the second, or leave out the first"
            )
        return self
