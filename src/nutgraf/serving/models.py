"""The systems of a model in one memory: the base, its adapters, the first sentences."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from transformers import PreTrainedModel

from nutgraf.config.systems import BUILT_IN_SYSTEMS
from nutgraf.core.errors import UserError
from nutgraf.data.text import clean_text
from nutgraf.generation import extractive
from nutgraf.generation.summarizer import Summarizer, Written
from nutgraf.modeling import saved_model
from nutgraf.modeling.adapters import with_adapters
from nutgraf.modeling.load import choose_device, load_base, load_tokenizer
from nutgraf.modeling.saved_model import SavedModel

DEFAULT = "best"
_BASE = "zero_shot"
_LEAD = "lead3"

# Gives the model with the adapter of a name in use, or without one for None.
Use = Callable[[str | None], PreTrainedModel]


class Models:
    """Writes summaries by every system there is. One thread at a time may use it.

    `systems` are those with a model, by name, each with its adapter's name, None for the base as
    it is; lead-3 comes beside them.
    """

    def __init__(self, found: SavedModel, systems: Mapping[str, str | None], use: Use) -> None:
        self.base = str(found.about["base"].get("base", found.model.base))
        self.batch_size = found.generate.batch_size
        self.systems = {name: BUILT_IN_SYSTEMS[name] for name in (*systems, _LEAD)}
        self._adapters, self._use = systems, use
        tokenizer, device = load_tokenizer(found.model), choose_device(found.model)
        self._summarizer = Summarizer(use(systems[DEFAULT]), tokenizer, device, found)

    def batch(self, system: str, articles: Sequence[str]) -> list[Written]:
        """Summaries of up to `batch_size` articles, in order, decoded together."""
        if system == _LEAD:
            return [_lead(article) for article in articles]
        self._use(self._adapters[system])
        return list(self._summarizer.write(articles))

    def stream(self, system: str, article: str) -> Iterator[str | Written]:
        """Pieces of a summary as they are decoded, and last of all the whole.

        Between two pieces the model may write for somebody else. Beams are known at their end only,
        so where the study decodes with beams there is one piece, as there is of an extract.
        """
        if system == _LEAD or not self._summarizer.streams:
            (written,) = self.batch(system, [article])
            yield written.summary
            yield written
            return
        pieces = self._summarizer.stream(article)
        while True:
            self._use(self._adapters[system])
            piece = next(pieces, None)
            if piece is None:
                return
            yield piece


def _lead(article: str) -> Written:
    return Written(extractive.lead3(clean_text(article)), 0, 0, 0, "extract", 0.0)


@contextlib.contextmanager
def loaded(model: str, batch_size: int | None = None) -> Iterator[Models]:
    """The systems of a run folder, or of any other model that `recipe.find` knows, alone.

    `batch_size` summaries are decoded together, without it as many as in the study. Raises
    UserError as `recipe.read` and `with_adapters` do, and for a baseline of another base.
    """
    found = saved_model.read_saved_model(model)
    if batch_size:
        decoding = found.generate.model_copy(update={"batch_size": batch_size})
        found = dataclasses.replace(found, generate=decoding)
    base = load_base(found.model)
    if found.adapter is None:  # a whole model
        yield Models(found, {DEFAULT: None}, lambda _: base)
        return
    adapters = {DEFAULT: found.adapter, **_baseline(Path(model), found)}
    with with_adapters(base, adapters) as use:
        yield Models(found, {**{name: name for name in adapters}, _BASE: None}, use)


def _baseline(folder: Path, best: SavedModel) -> dict[str, Path]:
    """The baseline's adapter, which lies in a run folder beside the best."""
    baseline = folder / "models" / "baseline"
    if best.folder == folder or not baseline.is_dir():
        return {}
    try:
        record = json.loads((baseline / "train.json").read_text(encoding="utf-8"))
        trained_on = dict(record["base"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(
            f"{baseline} is damaged ({type(error).__name__}: {error}): make it again with "
            "`nutgraf train --force`, or give final_best_model alone"
        ) from None
    saved_model.check_base(baseline, trained_on, best.model)
    return {"baseline": baseline}
