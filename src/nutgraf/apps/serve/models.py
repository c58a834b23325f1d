"""The systems of a model folder in one memory: the base, its adapters, the first sentences."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedModel

from nutgraf import extracts
from nutgraf.apps.summarize import Recipe, read_recipe
from nutgraf.articles import clean
from nutgraf.inference import generate, stream
from nutgraf.model import choose_device, identity, load_base, load_tokenizer, with_adapters
from nutgraf.problems import UserError
from nutgraf.prompts import Prompt, Renderer
from nutgraf.systems import BUILT_IN

DEFAULT = "best"
_BASE = "zero_shot"
_LEAD = "lead3"


@dataclass(frozen=True)
class Written:
    """A whole summary. An extract has no prompt and the finish reason `extract`."""

    text: str
    finish_reason: str
    prompt_tokens: int | None = None
    trimmed_tokens: int = 0
    new_tokens: int = 0


class Models:
    """Writes summaries by every system there is. One thread at a time may use it."""

    def __init__(
        self, recipe: Recipe, adapters: Sequence[str], use: Callable[[str | None], PreTrainedModel]
    ) -> None:
        self.base = recipe.model.base
        self.settings = recipe.generate
        self.systems = {name: BUILT_IN[name] for name in (*adapters, _BASE, _LEAD)}
        self._tokenizer = load_tokenizer(recipe.model)
        self._device = choose_device(recipe.model)
        self._renderer = Renderer(self._tokenizer, recipe.prompt)
        self._use = use

    def batch(self, system: str, articles: Sequence[str]) -> list[Written]:
        """Summaries of `articles`, in order, decoded together."""
        if system == _LEAD:
            return [Written(extracts.lead3(clean(text)), "extract") for text in articles]
        prompts = [self._renderer.prompt(article) for article in articles]
        together = self.settings.model_copy(update={"batch_size": len(articles)})
        ids = [prompt.ids for prompt in prompts]
        model = self._model(system)
        found = dict(generate(model, self._tokenizer, ids, together, self._device))
        return [
            self._written(prompt, found[i].ids, found[i].finish_reason)
            for i, prompt in enumerate(prompts)
        ]

    def stream(self, system: str, article: str) -> Iterator[str | Written]:
        """Pieces of a summary as they are decoded, and last of all the whole.

        Between two pieces the model may write for somebody else. Beams are known at their end only,
        so where the study decodes with beams there is one piece, as there is of an extract.
        """
        if system == _LEAD or self.settings.num_beams > 1:
            (written,) = self.batch(system, [article])
            yield written.text
            yield written
            return
        prompt = self._renderer.prompt(article)
        model = self._model(system)
        tokens = stream(model, self._tokenizer, prompt.ids, self.settings, self._device)
        ids: list[int] = []
        shown = ""
        while (token := next(tokens, None)) is not None:
            ids.append(token)
            text = self._renderer.text(ids)
            # The first bytes of a character wait for the others.
            if text.startswith(shown) and text != shown and not text.endswith("\ufffd"):
                yield text[len(shown) :]
                shown = text
                self._model(system)
        cut = len(ids) == self.settings.max_new_tokens
        yield self._written(prompt, ids, "length" if cut else "stop")

    def _model(self, system: str) -> PreTrainedModel:
        return self._use(None if system == _BASE else system)

    def _written(self, prompt: Prompt, ids: list[int], reason: str) -> Written:
        text = self._renderer.text(ids)
        return Written(text, reason, len(prompt.ids), prompt.trimmed_tokens, len(ids))


@contextlib.contextmanager
def loaded(folder: Path) -> Iterator[Models]:
    """The models of a run folder, or of its final_best_model alone.

    Raises UserError as `read_recipe` and `with_adapters` do, and for a baseline of another base.
    """
    recipe = read_recipe(folder)
    adapters = _adapters(folder, recipe)
    with with_adapters(load_base(recipe.model), adapters) as use:
        yield Models(recipe, list(adapters), use)


def _adapters(folder: Path, recipe: Recipe) -> Mapping[str, Path]:
    """Folders by system: the best, and beside it the baseline of a run folder."""
    baseline = folder / "models" / "baseline"
    if recipe.folder == folder or not baseline.is_dir():
        return {DEFAULT: recipe.folder}
    trained_on = json.loads((baseline / "train.json").read_text(encoding="utf-8"))["base"]
    if trained_on != identity(recipe.model):
        raise UserError(
            f"{baseline} was trained on base {trained_on} and {recipe.folder} on another: make "
            "both again with `nutgraf run`, or give final_best_model alone"
        )
    return {DEFAULT: recipe.folder, "baseline": baseline}
