"""Configure the base, its adapter, their training, and where its curves go."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from nutgraf.config.types import Count, CountOrZero, Float, PathOrName, Positive, Section, Seed

MAX_ROUNDS = 3


class ModelConfig(Section):
    """The frozen base."""

    base: PathOrName = Field(
        "pocket",
        description="`pocket` (embedded), `smollm2`, a Hub id, a local folder with safetensors, or "
        "a `.gguf` file of the Llama family.",
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
        "auto", description="`auto` takes a CUDA device if there is one."
    )


class LoraSettings(Section):
    """The adapter; not peft's own `LoraConfig`."""

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
    """One training."""

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
    samples: CountOrZero = Field(
        0,
        description="Articles of each evaluation that are summarized greedily, to be read in "
        "`nutgraf watch`: it costs time and decides nothing.",
    )
    activation_checkpointing: bool = Field(
        False,
        description="Recompute activations instead of keeping them: about 20% slower, less memory.",
    )
    seeds: tuple[Seed, ...] = Field(
        (42,),
        min_length=1,
        description="Seeds of adapter initialization, data order and dropout: the first is that of "
        "the search and of the model kept; each further one repeats the trainings.",
    )
    rounds: Annotated[CountOrZero, Field(le=MAX_ROUNDS)] = Field(
        0,
        description="Further trainings of the best model, each on pairs of summaries that it wrote "
        "of training articles (`preference`).",
    )

    @property
    def seed(self) -> int:
        """The first of the seeds, which the search uses."""
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


class TrackingConfig(Section):
    """Choose where curves are written."""

    to: tuple[Literal["tensorboard", "wandb", "mlflow", "trackio"], ...] | None = Field(
        None,
        description="Where the curves of search and training go too: any of `tensorboard`, "
        "`wandb`, `mlflow`, `trackio`; null is TensorBoard if it is installed.",
    )
