"""A training of seconds for tests of what stops one: six steps of eight rows, dropout on.

`python tests/little.py BASE OUT` does it and says each step on standard output.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nutgraf import stopping
from nutgraf.history import Evaluation, Fit
from nutgraf.model import choose_device, fresh_adapter, load_base, load_tokenizer
from nutgraf.prompts import Example, Renderer
from nutgraf.settings import LoraSettings, ModelConfig, PromptConfig, TrainConfig
from nutgraf.trainer import fit

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
    on_step: Callable[[], None] = lambda: None,
    **changes: Any,
) -> Fit:
    """`changes` are settings of the training that differ from SETTINGS."""
    config = ModelConfig(base=str(base), dtype="fp32", device="cpu")
    settings = TrainConfig.model_validate({**SETTINGS.model_dump(), **changes})
    found, tokenizer = rows(config), load_tokenizer(config)
    lora = LoraSettings(r=4, alpha=8, dropout=0.1)
    with fresh_adapter(load_base(config), lora, settings.seed) as model:
        return fit(
            model, tokenizer, found[8:], found[:8], settings, choose_device(config), out,
            on_eval, on_step,
        )  # fmt: skip


if __name__ == "__main__":
    with stopping.listening(signal.SIGTERM):
        train(Path(sys.argv[1]), Path(sys.argv[2]), on_step=lambda: print("step", flush=True))
