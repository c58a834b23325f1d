"""nutgraf from Python: run a study, summarize with its model, score summaries.

`import nutgraf` gives these names; what they need is imported when they are first used.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, overload

from nutgraf.config import Config, load
from nutgraf.core.errors import Failure, UserError
from nutgraf.core.fast_import import fast_imports
from nutgraf.data.text import UnusableText, usable_text

if TYPE_CHECKING:
    from nutgraf.cli.score_file import Scores
    from nutgraf.generation.summarizer import Written


__all__ = ["Failure", "Summarizer", "UserError", "run", "score"]


def run(
    config: str | Path | None = None,
    /,
    *,
    stages: Sequence[str] | None = None,
    force: bool = False,
    **overrides: Any,
) -> Path:
    """Run a study, or go on with it, and return its run folder.

    A script calls this under `if __name__ == "__main__":`, since the processes of a study import
    the script that started them.

    Args:
        config: A YAML file, or a configuration that nutgraf comes with (`pocket`,
            `tinyllama-cnndm`, `original-notebook`). Without it the settings are those saved in the
            run folder `run`, or the pocket study's.
        stages: Those to run, in the order of a study; all if None.
        force: Do again what is done.
        **overrides: Settings, a double underscore between section and field as in scikit-learn:
            `train__learning_rate=1e-3`, `run="runs/mine"`. Values are Python's.

    Raises:
        UserError: A setting or an input cannot be used.
        Failure: Something that should have worked has not; the same call goes on.
    """
    from nutgraf.pipeline.runner import STAGES

    wanted = tuple(STAGES) if stages is None else tuple(stages)
    if unknown := [name for name in wanted if name not in STAGES]:
        raise UserError(f"{unknown[0]!r} is no stage: there are {', '.join(STAGES)}")
    values = {name.replace("__", "."): value for name, value in overrides.items()}
    path = load.find_config(None if config is None else Path(config), values.get("run"))
    settings = load.load_config_values(path, values)
    start(settings, wanted, force)
    return Path(settings.run)


def start(config: Config, stages: Sequence[str], force: bool = False) -> bool:
    """Run the named stages, here or from outside a cluster; return whether anything was made."""
    if (config.ray.address or "").startswith("ray://"):
        from nutgraf.pipeline import remote

        return remote.run(config, stages, force=force)
    from nutgraf.pipeline import runner

    return runner.run_study(config, stages, force=force)


class Summarizer:
    """Summarizes news articles with a trained model.

    The model is loaded once and stays in memory until `close()`, or the end of a `with` block.

    Args:
        model: A run folder, its `final_best_model`, an exported model, or a Hub id.

    Raises:
        UserError: There is no model, or its base is not the one that it was trained on.
    """

    def __init__(self, model: str | Path) -> None:
        with fast_imports():
            from nutgraf.generation import summarizer
            from nutgraf.modeling import saved_model
            from nutgraf.modeling.load import load_base

        self._open = contextlib.ExitStack()
        self._summarizer = self._open.enter_context(
            summarizer.opened(saved_model.read_saved_model(str(model)))
        )
        load_base.cache_clear()  # it has this one's adapter: nobody else is given it

    @overload
    def summarize(  # type: ignore[overload-overlap]  # a str is a Sequence[str] too
        self, text: str, *, sentences: int | None = None
    ) -> Written: ...

    @overload
    def summarize(self, text: Sequence[str], *, sentences: int | None = None) -> list[Written]: ...

    def summarize(
        self, text: str | Sequence[str], *, sentences: int | None = None
    ) -> Written | list[Written]:
        """Return the summary of an article, or those of several, decoded in batches.

        `str()` of a result is its text; it also says how many tokens of the article were not read
        (`trimmed_tokens`) and whether the summary was cut (`finish_reason`).

        Args:
            text: An article, or a sequence of articles.
            sentences: Sentences of a summary at most; the model's own end if None.

        Raises:
            UserError: A text is empty, or `sentences` is below 1.
        """
        _check(sentences)
        articles = [text] if isinstance(text, str) else list(text)
        clean = [_text(article, number) for number, article in enumerate(articles, 1)]
        found = list(self._summarizer.write(clean, sentences))
        return found[0] if isinstance(text, str) else found

    def stream(self, text: str, *, sentences: int | None = None) -> Iterator[str]:
        """Yield the pieces of one summary as they are written; together they are all of it.

        Raises:
            UserError: The text is empty, `sentences` is below 1, or the model decodes with beams,
                which write no summary from its beginning.
        """
        _check(sentences)
        if not self._summarizer.streams:
            raise UserError(
                "this model decodes with several beams (generate.num_beams): use summarize()"
            )
        return (p for p in self._summarizer.stream(_text(text), sentences) if isinstance(p, str))

    def close(self) -> None:
        """Let go of the model."""
        self._open.close()

    def __enter__(self) -> Summarizer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def score(
    summaries: Sequence[str],
    references: Sequence[str],
    articles: Sequence[str] | None = None,
    *,
    processes: int = 1,
) -> Scores:
    """Return ROUGE of summaries with 95% bootstrap intervals and, with articles, indicators.

    Args:
        summaries: One a reference; an empty one scores 0.
        references: What they are compared with.
        articles: What they are summaries of; without them there are no indicators.
        processes: More than one is worth its start from some hundred rows on. A script then calls
            this under `if __name__ == "__main__":`.

    Raises:
        UserError: Lengths differ, there is no row, or a reference or an article has no text.
    """
    from nutgraf.cli import score_file

    return score_file.score(summaries, references, articles, processes)


def _text(value: str, number: int | None = None) -> str:
    try:
        return usable_text(value)
    except UnusableText as error:
        which = "the article" if number is None else f"article {number}"
        raise UserError(f"{which} is {error}: give its text") from None


def _check(sentences: int | None) -> None:
    if sentences is not None and sentences < 1:
        raise UserError(f"sentences is {sentences}: give 1 or more, or None")
