"""A training of seconds for tests of what stops one: six steps of eight rows, dropout on.

`python tests/helpers/little.py BASE OUT` does it and says each step on standard output.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nutgraf.config import Config, LoraSettings, ModelConfig, PromptConfig, TrainConfig
from nutgraf.core import signals
from nutgraf.data.examples import Example
from nutgraf.data.prompts import Renderer
from nutgraf.modeling.load import load_tokenizer
from nutgraf.training.fit import fit_adapter
from nutgraf.training.history import Evaluation, TrainingResult
from nutgraf.training.job import TrainingJob

SETTINGS = TrainConfig(
    max_examples=48,
    micro_batch_size=4,
    gradient_accumulation_steps=2,
    learning_rate=5e-3,
    eval_every=16,
    eval_examples=8,
)
STEPS, EVALUATED = 6, [2, 4, 6]


def rows(config: ModelConfig) -> list[Example]:
    """Forty, of unlike lengths."""
    renderer = Renderer(
        load_tokenizer(config), PromptConfig(max_tokens=200, max_article_tokens=120)
    )
    story = "On day {0} the council of town {0} met and spoke of {1}. " + "It went on. " * 2
    return [
        renderer.example(story.format(n, "roads" * (1 + n % 3)), f"Town {n} talks.")
        for n in range(40)
    ]


def train(
    base: Path,
    out: Path,
    on_eval: Callable[[Evaluation], None] | None = None,
    on_step: Callable[[int], None] | None = None,
    **changes: Any,
) -> TrainingResult:
    """`changes` are settings of the training that differ from SETTINGS."""
    config = ModelConfig(base=str(base), dtype="fp32", device="cpu")
    settings = TrainConfig.model_validate({**SETTINGS.model_dump(), **changes})
    return fit_adapter(job(config, settings, out, on_eval, on_step))


def job(config: ModelConfig, settings: TrainConfig, out: Path, *callbacks: Any) -> TrainingJob:
    lora, examples = LoraSettings(r=4, alpha=8, dropout=0.1), rows(config)
    study = Config(model=config, lora=lora, train=settings)
    return TrainingJob(study, examples[8:], examples[:8], out, out.name, *callbacks)


if __name__ == "__main__":
    with signals.stop_on_signals(signal.SIGTERM):
        train(Path(sys.argv[1]), Path(sys.argv[2]), on_step=lambda _: print("step", flush=True))
