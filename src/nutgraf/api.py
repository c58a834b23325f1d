"""Run a study, summarize with its model and score summaries from Python.

`import nutgraf` has these names; what they need is imported when they are first used.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, overload

from nutgraf.config import load
from nutgraf.config.evaluation import RougeTokenizer
from nutgraf.config.systems import EngineName
from nutgraf.core.environment import ignore_launchers
from nutgraf.core.errors import Failure, UserError
from nutgraf.core.fast_import import fast_imports
from nutgraf.data.text import TextError, usable_text

if TYPE_CHECKING:
    from nutgraf.evaluation.scores import Scores
    from nutgraf.generation import summarizer
    from nutgraf.generation.summarizer import SummaryResult


__all__ = ["Failure", "Summarizer", "UserError", "run", "score", "suggest_config"]


def run(
    config: str | Path | None = None,
    /,
    *,
    stages: Sequence[str] | None = None,
    force: bool = False,
    watch: bool = False,
    **overrides: Any,
) -> Path:
    """Run or continue a study, and return its run folder.

    A script calls this under `if __name__ == "__main__":`, because the processes of a study import
    the script that started them.

    Args:
        config: A YAML file, or a configuration of the package (`pocket`, `smollm2`,
            `tinyllama-cnndm`, `original-notebook`). If None, the settings saved in the run folder
            `run`, or the pocket study's.
        stages: Those to run, in the order of a study; all if None.
        force: Run stages that are finished again.
        watch: Show the study in the output cell of a notebook while it runs.
        **overrides: Settings, with a double underscore between section and field as in
            scikit-learn: `train__learning_rate=1e-3`, `run="runs/mine"`. Values are Python's.

    Raises:
        UserError: A setting or an input cannot be used.
        Failure: Something that should have worked did not; the same call continues the study.
    """
    from nutgraf.pipeline import runner

    ignore_launchers()
    names = tuple(runner.STAGES) if stages is None else tuple(stages)
    if unknown := [name for name in names if name not in runner.STAGES]:
        raise UserError(f"{unknown[0]!r} is no stage: there are {', '.join(runner.STAGES)}")
    values = {name.replace("__", "."): value for name, value in overrides.items()}
    path = load.find_config(None if config is None else Path(config), values.get("run"))
    settings = load.load_config_values(path, values)
    page: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
    if watch:
        from nutgraf.serving.notebook_view import shown

        page = shown(Path(settings.run))
    with page:
        runner.run_study(settings, names, force=force)
    return Path(settings.run)


def suggest_config(data: Iterable[str] = ()) -> str:
    """Return the name of the configuration of the package that suits this machine.

    It is `tinyllama-cnndm` with a CUDA GPU. Without one it is `smollm2` if model and articles are
    at hand, each in files or on the Hub, and else `pocket`, which needs neither.

    Args:
        data: Settings that name files of articles, such as `data.train`; none for those of the Hub.
    """
    import torch

    from nutgraf.core.hub import connection_error
    from nutgraf.modeling.base_files import has_smollm2_wheel

    if torch.cuda.is_available():
        return "tinyllama-cnndm"
    has_articles = any(name.startswith("data.") for name in data)
    if (has_articles and has_smollm2_wheel()) or connection_error() is None:
        return "smollm2"
    return "pocket"


class Summarizer(contextlib.AbstractContextManager["Summarizer"]):
    """Summarizes news articles with a trained model.

    The model is loaded once and stays in memory until `close()`, or the end of a `with` block.

    Args:
        model: A run folder, its `final_best_model`, an exported model, or a Hub id.
        engine: What writes; `auto` is llama.cpp for a GGUF file on a CPU without bf16, if it is
            installed.

    Raises:
        UserError: There is no model, its base is not the one that it was trained on, or the engine
            cannot write its summaries.
    """

    def __init__(self, model: str | Path, engine: EngineName = "auto") -> None:
        ignore_launchers()
        with fast_imports():
            from nutgraf.generation import summarizer
            from nutgraf.modeling import saved_model
            from nutgraf.modeling.load import load_base

        self._stack = contextlib.ExitStack()
        saved = saved_model.read_saved_model(str(model))
        self._loaded: summarizer.Summarizer | None = self._stack.enter_context(
            summarizer.load_summarizer(saved, engine)
        )
        load_base.cache_clear()  # the cached base has this adapter: no other may use it

    @overload
    def summarize(  # type: ignore[overload-overlap]  # a str is a Sequence[str] too
        self, text: str, *, sentences: int | None = None
    ) -> SummaryResult: ...

    @overload
    def summarize(
        self, text: Sequence[str], *, sentences: int | None = None
    ) -> list[SummaryResult]: ...

    def summarize(
        self, text: str | Sequence[str], *, sentences: int | None = None
    ) -> SummaryResult | list[SummaryResult]:
        """Return the summary of an article, or those of several, decoded in batches.

        `str()` of a result is its text. It also has the number of tokens of the article that were
        not read (`trimmed_tokens`), and whether the summary was cut (`finish_reason`).

        Args:
            text: An article, or a sequence of articles.
            sentences: Sentences of a summary at most; as many as in the study if None.

        Raises:
            UserError: A text is empty, `sentences` is below 1, or `close` was called.
        """
        _check(sentences)
        articles = [text] if isinstance(text, str) else text
        clean = [_clean(article, f"article {n}") for n, article in enumerate(articles, 1)]
        summaries = list(self._summarizer.summarize(clean, sentences))
        return summaries[0] if isinstance(text, str) else summaries

    def stream(self, text: str, *, sentences: int | None = None) -> Iterator[str]:
        """Yield the pieces of one summary as they are written; together they are all of it.

        Raises:
            UserError: The text is empty, `sentences` is below 1, `close` was called, or the model
                decodes with beams or chooses among candidates, which show no summary from its
                beginning.
        """
        _check(sentences)
        if not self._summarizer.can_stream:
            raise UserError(
                "this model decodes with several beams (generate.num_beams) or candidates "
                "(generate.candidates): use summarize()"
            )
        pieces = self._summarizer.stream(_clean(text, "the article"), sentences)
        return (piece for piece in pieces if isinstance(piece, str))

    @property
    def _summarizer(self) -> summarizer.Summarizer:
        if self._loaded is None:
            raise UserError("this Summarizer is closed: make another one")
        return self._loaded

    def close(self) -> None:
        """Release the model; there are no summaries after it."""
        self._loaded = None
        self._stack.close()

    def __exit__(self, *_: object) -> None:
        self.close()


def score(
    summaries: Sequence[str],
    references: Sequence[str] | Sequence[Sequence[str]],
    articles: Sequence[str] | None = None,
    *,
    tokenizer: RougeTokenizer = "rouge-score",
    flags: bool = False,
    processes: int = 1,
) -> Scores:
    """Return ROUGE of summaries with 95% bootstrap intervals and, with articles, indicators.

    Args:
        summaries: One for each reference; an empty one scores 0.
        references: The reference summaries, each a text or a sequence of several, of which the
            best counts.
        articles: The articles; without them there are no indicators.
        tokenizer: `rouge-score`, as published figures are, or `unicode` for other languages.
        flags: Whether each of `rows` lists the flagged spans of its summary; needs articles.
        processes: More than one is faster from some hundred rows on. A script then calls this under
            `if __name__ == "__main__":`.

    Raises:
        UserError: Lengths differ, there is no row, a reference or an article has no text, there are
            flags without articles, or the tokenizer counts too few letters of the references.
    """
    from nutgraf.evaluation.scores import clean_row, score_rows

    if flags and articles is None:
        raise UserError("flags is True and there are no articles: give them, or leave flags out")
    if tokenizer not in get_args(RougeTokenizer):
        choices = " or ".join(map(repr, get_args(RougeTokenizer)))
        raise UserError(f"tokenizer is {tokenizer!r}: give {choices}")
    texts = {
        "summary": _texts(summaries, "summaries"),
        "reference": _texts(references, "references"),
    }
    if articles is not None:
        texts["article"] = _texts(articles, "articles")
    names = ("summaries", "references", "articles")
    lengths = {name: len(texts_of) for name, texts_of in zip(names, texts.values(), strict=False)}
    if len(set(lengths.values())) > 1 or not lengths["summaries"]:
        counts = ", ".join(f"{n} {what}" for what, n in lengths.items())
        raise UserError(f"{counts}: give equally many, at least one")
    rows = [
        clean_row(f"row {number}", dict(zip(texts, row, strict=True)))
        for number, row in enumerate(zip(*texts.values(), strict=True), 1)
    ]
    return score_rows(
        rows,
        tokenizer,
        what="references",
        knob="tokenizer='unicode'",
        flags=flags,
        processes=processes,
    )


def _texts(texts: Any, name: str) -> list[Any]:
    """Return texts in order as a list. Raise UserError if they are a table, a mapping or a text."""
    if isinstance(texts, str | bytes):
        raise UserError(f"{name} is one text, {texts[:40]!r}: give a list of texts")
    unordered = isinstance(texts, Mapping | Set) or hasattr(texts, "columns")
    if unordered or not isinstance(texts, Iterable):
        raise UserError(f"{name} is a {type(texts).__name__}: give a list of texts")
    return texts.tolist() if hasattr(texts, "tolist") else [*texts]


def _clean(text: str, name: str) -> str:
    try:
        return usable_text(text)
    except TextError as error:
        raise UserError(f"{name} is {error}: give its text") from None


def _check(sentences: int | None) -> None:
    if sentences is not None and sentences < 1:
        raise UserError(f"sentences is {sentences}: give 1 or more, or None")
