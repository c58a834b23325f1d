"""Summaries of new articles, with the model that a study left."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from nutgraf.identity import identity
from nutgraf.inference import generate
from nutgraf.model import Device, choose_device, load_base, load_tokenizer, with_adapter
from nutgraf.problems import UserError, visible
from nutgraf.prompts import Prompt, Renderer
from nutgraf.settings import GenerateConfig, ModelConfig, PromptConfig
from nutgraf.text import Unusable, usable


@dataclass(frozen=True)
class Recipe:
    """What serving needs beside the adapter: the same base, prompt and decoding as in the study."""

    folder: Path
    model: ModelConfig
    prompt: PromptConfig
    generate: GenerateConfig


def run(model: Path, files: Sequence[str], as_json: bool) -> None:
    """Print a summary of each file (`-` is standard input), as text or a JSON object a line.

    Raises UserError for a folder without a model, a base that is not the one trained on, and
    files that cannot be read or hold no text.
    """
    recipe = read_recipe(model)
    articles = [(name, _read(name)) for name in files]
    tokenizer, device = load_tokenizer(recipe.model), choose_device(recipe.model)
    renderer = Renderer(tokenizer, recipe.prompt)
    with with_adapter(load_base(recipe.model), recipe.folder) as loaded:
        for name, article in articles:
            started = time.perf_counter()
            prompt = renderer.prompt(article)
            text, reason = _summary(loaded, tokenizer, renderer, prompt, recipe.generate, device)
            if as_json:
                row = {
                    "file": name,
                    "summary": text,
                    "prompt_tokens": len(prompt.ids),
                    "trimmed_tokens": prompt.trimmed_tokens,
                    "finish_reason": reason,
                    "seconds": round(time.perf_counter() - started, 2),
                }
                print(json.dumps(row, ensure_ascii=False), flush=True)
            else:
                if len(articles) > 1:
                    print(f"== {visible(name)}")
                print(text, flush=True)


def read_recipe(model: Path) -> Recipe:
    """The recipe in a run folder or in its final_best_model; the base is checked to be the same."""
    folders = (model, model / "final_best_model")
    folder = next((f for f in folders if (f / "nutgraf.json").is_file()), None)
    if folder is None:
        raise UserError(f"{model} holds no model: give a finished run folder or final_best_model")
    file = folder / "nutgraf.json"
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
        trained_on = raw["base"]
        recipe = Recipe(
            folder,
            ModelConfig.model_validate(raw["model"]),
            PromptConfig.model_validate(raw["prompt"]),
            GenerateConfig.model_validate(raw["generate"]),
        )
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{file} is damaged ({type(error).__name__}: {reason}): make the model again with "
            "`nutgraf compare --force`"
        ) from None
    found = identity(recipe.model)
    # A model of an earlier version says less; what it says has to be so.
    if "shape" not in trained_on or {**found, **trained_on} != found:
        raise UserError(
            f"{folder} was trained on base {trained_on} and {recipe.model.base!r} is now {found}: "
            "an adapter works on its own base only"
        )
    return recipe


def _summary(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    renderer: Renderer,
    prompt: Prompt,
    settings: GenerateConfig,
    device: Device,
) -> tuple[str, str]:
    ((_, generated),) = generate(model, tokenizer, [prompt.ids], settings, device)
    return renderer.text(generated.ids), generated.finish_reason


def _read(name: str) -> str:
    """The article in a file of UTF-8 text, whatever the machine's own encoding is."""
    try:
        return usable(sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes())
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(f"{name} is not a file: give text files, or - for standard input") from None
    except Unusable as error:
        raise UserError(f"{name} is {error}: there is nothing to summarize") from None
    except (OSError, ValueError) as error:  # no right to read it; a NUL in the name
        raise UserError(f"{name} cannot be read: {error}: give another file") from None
