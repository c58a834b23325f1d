"""Hold the systems of a model in one memory: the base, its adapters, the first sentences."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from nutgraf.config.systems import BUILT_IN_SYSTEMS, EngineName
from nutgraf.core.errors import UserError
from nutgraf.core.files import read_json
from nutgraf.core.paths import expand
from nutgraf.data.text import clean_text
from nutgraf.evaluation.support import worth
from nutgraf.generation import extractive
from nutgraf.generation.engine import Transformers
from nutgraf.generation.llama_cpp import uses_llama_cpp
from nutgraf.generation.reading import Reader, check_base_apart
from nutgraf.generation.result import SummaryResult
from nutgraf.generation.summarizer import Summarizer, load_summarizer
from nutgraf.modeling import saved_model
from nutgraf.modeling.adapters import with_adapters
from nutgraf.modeling.load import choose_device, load_base, load_tokenizer
from nutgraf.modeling.saved_model import SavedModel

DEFAULT = "best"
_BASE = "zero_shot"
_LEAD = "lead3"

Activate = Callable[[str | None], object]  # the adapter of that name, or none for None


class Models:
    """Writes summaries by every system. Not thread-safe."""

    def __init__(
        self,
        saved: SavedModel,
        summarizer: Summarizer,
        adapters: Mapping[str, str | None],
        activate: Activate,
        reader: Reader | None = None,
    ) -> None:
        """List the systems.

        Args:
            saved: The best model.
            summarizer: Writes by the adapter that is active.
            adapters: The adapter of each system with a model, None for the base as it is.
            activate: Changes the adapter.
            reader: The base of the summarizer, which reads summaries without an adapter.
        """
        self.facts = worth(saved.model) if reader else None  # in words
        self._reader = reader
        self.base = str(saved.about["base"].get("base", saved.model.base))
        self.batch_size, self.decoding = saved.generate.batch_size, saved.generate
        self.systems = {name: BUILT_IN_SYSTEMS[name] for name in (*adapters, _LEAD)}
        self._adapters, self._activate = adapters, activate
        self._summarizer = summarizer

    def write(
        self,
        system: str,
        articles: Sequence[str],
        streamed: Sequence[bool],
        on_event: Callable[[int, str | SummaryResult], bool],
        candidates: int = 1,
        max_new_tokens: int | None = None,
        checked: Sequence[bool] = (),
    ) -> None:
        """Write summaries of up to `batch_size` articles together, as `Summarizer.write` does.

        With several beams or candidates, or for an extract, a streamed summary is one piece. Those
        that are to be `checked`, extracts excepted, are whole when all are written and the base has
        read them, if there is a reader.
        """
        if system == _LEAD:
            for i, article in enumerate(articles):
                lead = extractive.lead3(clean_text(article))
                if streamed[i]:
                    on_event(i, lead)
                on_event(i, SummaryResult(lead, 0, 0, 0, "extract", 0.0))
            return
        written: dict[int, SummaryResult] = {}

        def hold(i: int, event: str | SummaryResult) -> bool:
            if isinstance(event, str) or self._reader is None or not checked or not checked[i]:
                return on_event(i, event)
            written[i] = event
            return on_event(i, "")

        self._activate(self._adapters[system])
        self._summarizer.write(articles, streamed, hold, candidates, max_new_tokens)
        if self._reader and written:
            self._activate(None)
            for i, result in written.items():
                if on_event(i, ""):  # somebody still wants it
                    (facts,) = self._reader.check(articles[i], [result.summary])
                    on_event(i, dataclasses.replace(result, facts=facts))


@contextlib.contextmanager
def loaded(
    model: str,
    batch_size: int | None = None,
    engine: EngineName = "auto",
    check_facts: bool = False,
) -> Iterator[Models]:
    """Load the systems of a run folder, or any other saved model alone.

    `batch_size` summaries are decoded together; if it is None, as many as in the study. The base in
    memory also reads summaries if it is to `check_facts`. Raises UserError as `read_saved_model`,
    `check_base_apart`, `uses_llama_cpp` and `with_adapters`, and for a baseline of another base.
    """
    saved = saved_model.read_saved_model(model)
    if check_facts:
        check_base_apart(saved)
    if batch_size:
        generate = saved.generate.model_copy(update={"batch_size": batch_size})
        saved = dataclasses.replace(saved, generate=generate)
    if saved.adapter is None:  # a whole model
        with load_summarizer(saved, engine, saved.generate.batch_size) as summarizer:
            yield Models(saved, summarizer, {DEFAULT: None}, lambda _: None)
        return
    uses_llama_cpp(saved, engine)  # which has no adapters
    base, tokenizer = load_base(saved.model), load_tokenizer(saved.model, saved.tokenizer)
    paths = {DEFAULT: saved.adapter, **_baseline(expand(model), saved)}
    with with_adapters(base, paths) as activate:
        device = choose_device(saved.model)
        best = Transformers(activate(DEFAULT), tokenizer, device, saved.ends)
        adapters = {**{name: name for name in paths}, _BASE: None}
        reader = None
        if check_facts:  # it takes over the layers without an adapter
            reader = Reader(activate(None), load_tokenizer(saved.model), device)
        yield Models(saved, Summarizer(best, tokenizer, saved), adapters, activate, reader)


def _baseline(folder: Path, best: SavedModel) -> dict[str, Path]:
    """Return the adapter of the baseline, which a run folder has beside the best."""
    baseline = folder / "models" / "baseline"
    if best.folder == folder or not baseline.is_dir():
        return {}
    try:
        trained_on = dict(read_json(baseline / "train.json")["base"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(
            f"{baseline} is damaged ({type(error).__name__}: {error}): make it again with "
            "`nutgraf train --force`, or give final_best_model alone"
        ) from None
    saved_model.check_base(baseline, trained_on, best.model)
    return {"baseline": baseline}
