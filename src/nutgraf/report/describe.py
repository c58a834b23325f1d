"""Describe a study's data in words, for tables, pages and model cards."""

from __future__ import annotations

from nutgraf.config import Config

SYNTHETIC = (
    "These scores are of a synthetic newswire, made by nutgraf's own generator: they say nothing "
    "about CNN/DailyMail or any other real news."
)


def describe_data(config: Config) -> str:
    """Return what the data set is: its name, the embedded newswire, or local files."""
    if config.data.test:
        return f"local files ({config.data.test})"
    if is_synthetic(config):
        return "the embedded synthetic newswire"
    return " ".join(p for p in (config.data.source, config.data.name, config.data.revision) if p)


def is_synthetic(config: Config) -> bool:
    """Return whether the scores are of the embedded newswire."""
    return config.data.source == "newswire" and not config.data.test
