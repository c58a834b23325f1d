"""Describe a study's data and decoding in words, for tables, pages and model cards."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nutgraf.config import Config, GenerateConfig

_CHOICES = {
    "consensus": "consensus",
    "support": "support",
    "fitted": "weights that were fitted on candidates of training articles",
}
SYNTHETIC = (
    "These scores are of a synthetic newswire, made by nutgraf's own generator: they say nothing "
    "about CNN/DailyMail or any other real news."
)


def describe_data(config: Config) -> str:
    """Return what the data set is: its name, the embedded newswire, or names of local files.

    Of a path it is the last part: reports and model cards are given to others.
    """
    if config.data.test:
        return f"local files ({Path(config.data.test).name})"
    if config.data.is_newswire:
        return "the embedded synthetic newswire"
    if Path(config.data.source).is_absolute():
        return f"local files ({Path(config.data.source).name})"
    return " ".join(p for p in (config.data.source, config.data.name, config.data.revision) if p)


def describe_decoding(generate: GenerateConfig) -> str:
    """Return how models write summaries: `greedily, at most 96 tokens`."""
    parts = ["greedily"]
    if generate.num_beams > 1:
        parts = [f"with {generate.num_beams} beams, length penalty {generate.length_penalty:g}"]
    least = f"at least {generate.min_new_tokens} and " if generate.min_new_tokens else ""
    parts.append(f"{least}at most {generate.max_new_tokens} tokens")
    if n := generate.max_sentences:
        parts.append(f"at most {n} sentence{'s' if n > 1 else ''}")
    if generate.whole_sentences:
        parts.append("cut after the last whole sentence at the limit of tokens")
    if n := generate.no_repeat_ngram:
        parts.append(f"no {n} words in a row twice in a summary" if n > 1 else "no word twice")
    return ", ".join(parts)


def describe_candidates(generate: GenerateConfig) -> str:
    """Return how one of several summaries is chosen, as a clause; empty if one is written."""
    if generate.candidates == 1:
        return ""
    return (
        f"{generate.candidates} summaries are written of each article, the first greedily, the "
        f"others drawn at temperature {generate.temperature:g} and top-p {generate.top_p:g}, and "
        f"one is taken by {_CHOICES[generate.choose]}"
    )


def describe_timing(measured: Mapping[str, Any], machine: str, candidates: int) -> str:
    """Return what the seconds a summary are, in sentences.

    Args:
        measured: What the manifest of a model's summaries says of them.
        machine: Where they were written, in words.
        candidates: Summaries that the final model wrote of each article.
    """
    several = (
        f" For best_chosen and best_oracle they are those of all {candidates} candidates; the "
        "greedy summary of the final model was not written alone, and would take about as long as "
        "baseline's."
    )
    return (
        f"Seconds a summary are wall time of writing ({machine}, {measured['device']}; batches of "
        f"{measured['batch_size']} articles).{several if candidates > 1 else ''}"
    )


def describe_cuts(generate: GenerateConfig) -> str:
    """Return what cuts at sentences do to a comparison of models, in a sentence; empty if none."""
    if not (generate.max_sentences or generate.whole_sentences):
        return ""
    return (
        "Cuts at sentences can raise the scores of a base that seldom ends a summary by itself "
        "more than those of trained models, so training seems to bring less."
    )
