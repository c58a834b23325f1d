"""The settings of a study, typed and immutable, a section a class.

The defaults are the pocket study. Every field carries one sentence, with its unit; the command
line's help and the documents show the same sentences. `config` reads and checks them.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from nutgraf.section import (
    Choices,
    Count,
    Float,
    Positive,
    Range,
    Section,
    Seed,
    Space,
    did_you_mean,
)
from nutgraf.systems import TAKEN, origin
from nutgraf.trackers import TrackingConfig


class DataConfig(Section):
    source: str = Field(
        "newswire",
        description="Where articles come from: `newswire` (embedded, synthetic), a Hub data set "
        "like `abisee/cnn_dailymail`, or one local .jsonl, .csv or .parquet with a split column.",
    )
    name: str | None = Field(None, description="Configuration of the Hub data set, e.g. `3.0.0`.")
    revision: str | None = Field(
        None, description="Commit of the Hub data set, so that a later run reads the same rows."
    )
    train: str | None = Field(
        None, description="Local file for training; given together with the other two splits."
    )
    validation: str | None = Field(None, description="Local file for validation.")
    test: str | None = Field(None, description="Local file for the test.")
    id_column: str = Field(
        "id", description="Column of the article's id; numbered where a file has none."
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
        description="Share of a split's rows, 0 to 1, that may be rejected; where more are, "
        "`prepare` stops and says why.",
    )
    allow_overlap: bool = Field(
        False,
        description="Keep articles in training that are in validation, in the test or there twice, "
        "and in validation those of the test, instead of removing them.",
    )
    seed: Seed = Field(42, description="Seed of the draws.")

    @model_validator(mode="after")
    def _three_files(self) -> DataConfig:
        given = [n for n in ("train", "validation", "test") if getattr(self, n)]
        if given and len(given) < 3:
            missing = [n for n in ("train", "validation", "test") if n not in given]
            raise ValueError(
                f"only {', '.join(given)} given: set {', '.join(f'data.{n}' for n in missing)} "
                "too, or put all rows in one file with a split column and set data.source"
            )
        return self


class PromptConfig(Section):
    template: Literal["plain", "chat"] = Field(
        "plain",
        description="`plain` is `Summarize: {article}\\n\\nSummary: {summary}`; `chat` puts the "
        "same request into the tokenizer's chat template.",
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


class ModelConfig(Section):
    base: str = Field(
        "pocket", description="`pocket` (embedded), a Hub id, or a local folder with safetensors."
    )
    revision: str | None = Field(None, description="Commit of the Hub model.")
    quantization: Literal["none", "nf4"] = Field(
        "none", description="`nf4` holds the frozen base in 4 bits a weight (bitsandbytes)."
    )
    double_quantization: bool = Field(
        True, description="Quantize the 4-bit scales too, which saves about 0.4 bit a weight."
    )
    dtype: Literal["auto", "bf16", "fp16", "fp32"] = Field(
        "auto", description="Number format of the arithmetic; `auto` takes the best of the device."
    )
    device: Literal["auto", "cuda", "cpu"] = Field(
        "auto", description="`auto` takes a CUDA device where there is one."
    )


class LoraSettings(Section):
    r: Count = Field(16, description="Rank of the adapter's matrices.")
    alpha: Count = Field(32, description="Scale of the adapter: its output counts alpha / r.")
    dropout: Annotated[Float, Field(ge=0, lt=1)] = Field(
        0.0, description="Share of the adapter's inputs dropped in training, 0 to 1."
    )
    target_modules: Literal["all-linear"] | Annotated[tuple[str, ...], Field(min_length=1)] = Field(
        "all-linear",
        description="Layers that get an adapter: `all-linear` (all but the output layer) or names.",
    )


class TrainConfig(Section):
    max_examples: Count | None = Field(
        896,
        description="Articles seen in one training, repeats counted; the budget of every trial.",
    )
    max_steps: Count | None = Field(
        None, description="Optimizer steps of one training, instead of max_examples."
    )
    micro_batch_size: Count = Field(4, description="Articles in one forward pass.")
    gradient_accumulation_steps: Count = Field(
        2, description="Forward passes summed into one optimizer step."
    )
    learning_rate: Positive = Field(2e-3, description="Peak step size of AdamW.")
    weight_decay: Annotated[Float, Field(ge=0)] = Field(
        0.01, description="Decoupled weight decay of AdamW, per unit of learning rate."
    )
    warmup_steps: Annotated[Float, Field(ge=0)] = Field(
        0.05, description="Rise of the learning rate: optimizer steps, or below 1 a share of all."
    )
    schedule: Literal["linear", "cosine", "constant"] = Field(
        "linear", description="How the learning rate goes on after the rise."
    )
    max_grad_norm: Positive = Field(1.0, description="Gradients are scaled down to this norm.")
    eval_every: Count = Field(
        224, description="Articles trained on between two evaluations on the validation rows."
    )
    eval_examples: Count = Field(
        48, description="Validation articles in each evaluation, always the same ones."
    )
    activation_checkpointing: bool = Field(
        False,
        description="Recompute activations instead of keeping them: about 20% slower, less memory.",
    )
    seeds: tuple[Seed, ...] = Field(
        (42,),
        min_length=1,
        description="Seeds of adapter initialization, data order and dropout: the first is that of "
        "the search and of the model kept; each further one repeats the two trainings.",
    )

    @property
    def seed(self) -> int:
        """The first of the seeds."""
        return self.seeds[0]

    @model_validator(mode="after")
    def _one_budget(self) -> TrainConfig:
        if (self.max_examples is None) == (self.max_steps is None):
            raise ValueError(
                f"max_examples is {self.max_examples} and max_steps {self.max_steps}: "
                "set exactly one of them, the other to null"
            )
        return self

    @field_validator("seeds")
    @classmethod
    def _different(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(seeds)) < len(seeds):
            raise ValueError(f"{list(seeds)} has a seed twice: each must be another")
        return seeds


class SearchConfig(Section):
    trials: Count = Field(4, description="Settings tried.")
    space: Space = Field(
        default={
            "train.learning_rate": Range(low=3e-3, high=3e-2, log=True),
            "train.gradient_accumulation_steps": Choices(choices=(1, 2, 4)),
            "train.weight_decay": Range(low=1e-3, high=1e-1, log=True),
        },
        description="What is searched: a field of `train` or `lora`, and its choices or range.",
    )
    concurrent: Count = Field(2, description="Trials at the same time.")
    cpus_per_trial: Positive = Field(1, description="CPU cores, and so threads, of one trial.")
    gpus_per_trial: Annotated[Float, Field(ge=0)] = Field(
        0, description="GPUs of one trial; a fraction lets several share one."
    )
    trial_minutes: Positive | None = Field(
        None,
        description="Minutes after which a trial counts as failed, e.g. because it hangs; null "
        "sets no limit.",
    )
    grace_evaluations: Count = Field(
        1,
        description="Evaluations before ASHA may stop a trial (`train.eval_every` articles each).",
    )
    reduction_factor: Annotated[int, Field(ge=2)] = Field(
        2, description="At each rung ASHA keeps one in this many trials."
    )
    finalists: Count = Field(
        2, description="Best trials by loss whose summaries are also scored with ROUGE."
    )
    rouge_examples: Count = Field(
        32, description="Validation articles that finalists summarize, always the same ones."
    )
    seed: Seed = Field(42, description="Seed of the proposals.")

    @field_validator("space")
    @classmethod
    def _known_fields(cls, space: Space) -> Space:
        allowed = [f"train.{n}" for n in TrainConfig.model_fields if n not in _FIXED] + [
            f"lora.{n}" for n in LoraSettings.model_fields
        ]
        for name in space:
            if name not in allowed:
                raise ValueError(f"{name!r} cannot be searched{did_you_mean(name, allowed)}")
        return space


# The budget and what is evaluated are equal for every trial, so they are not searched.
_FIXED = {"max_examples", "max_steps", "eval_every", "eval_examples", "seeds"}


class GenerateConfig(Section):
    max_new_tokens: Count = Field(96, description="Longest summary, in tokens.")
    num_beams: Count = Field(1, description="Beams of the decoder; 1 is greedy.")
    batch_size: Count = Field(50, description="Articles decoded together.")


class ScoreConfig(Section):
    resamples: Count = Field(10_000, description="Bootstrap resamples of the articles.")
    seed: Seed = Field(42, description="Seed of the bootstrap.")


class Rival(Section):
    model: str | None = Field(
        None,
        description="Hub id or local folder of a sequence-to-sequence checkpoint in safetensors, "
        "e.g. `facebook/bart-large-cnn`; it decodes as its own generation settings say.",
    )
    revision: str | None = Field(None, description="Commit of the Hub checkpoint.")
    batch_size: Count = Field(8, description="Articles decoded together by the checkpoint.")
    file: str | None = Field(
        None, description="Instead of a checkpoint: .jsonl, .csv or .parquet with its summaries."
    )
    id: str = Field("id", description="Column of the file with the test articles' ids.")
    summary: str = Field("summary", description="Column of the file with the summaries.")

    @model_validator(mode="after")
    def _one_of_two(self) -> Rival:
        if (self.model is None) == (self.file is None):
            raise ValueError(
                f"model is {self.model!r} and file {self.file!r}: set exactly one of them"
            )
        return self


class Config(Section):
    run: str = Field("runs/pocket", description="The run folder.")
    data: DataConfig = Field(DataConfig(), description="Articles and their reference summaries.")
    prompt: PromptConfig = Field(PromptConfig(), description="From an article to a prompt.")
    model: ModelConfig = Field(ModelConfig(), description="The frozen base.")
    lora: LoraSettings = Field(LoraSettings(), description="The adapter of the baseline.")
    train: TrainConfig = Field(TrainConfig(), description="The training of the baseline.")
    search: SearchConfig = Field(SearchConfig(), description="What may differ in the best model.")
    generate: GenerateConfig = Field(GenerateConfig(), description="Decoding, for every system.")
    score: ScoreConfig = Field(ScoreConfig(), description="Intervals.")
    tracking: TrackingConfig = Field(TrackingConfig(), description="Curves for other programs.")
    rivals: dict[str, Rival] = Field(
        {}, description="Other systems on the test articles, by name: a `model` or a `file` each."
    )

    @field_validator("rivals")
    @classmethod
    def _names(cls, rivals: dict[str, Rival]) -> dict[str, Rival]:
        for name in rivals:
            if origin(name) in TAKEN or not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,23}", name):
                raise ValueError(
                    f"{name!r} cannot be a rival's name: take up to 24 of a-z, 0-9, _ and -, but "
                    f"none of {', '.join(TAKEN)}"
                )
        return rivals

    @model_validator(mode="after")
    def _consistent(self) -> Config:
        if self.train.eval_examples > (self.data.validation_examples or self.train.eval_examples):
            raise ValueError(
                f"train.eval_examples is {self.train.eval_examples}, data.validation_examples "
                f"{self.data.validation_examples}: lower the first or raise the second"
            )
        return self
