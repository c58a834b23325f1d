"""Describe a study's data in words, for tables, pages and model cards."""

from __future__ import annotations

from pathlib import Path

from nutgraf.config import Config

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
    if is_synthetic(config):
        return "the embedded synthetic newswire"
    if Path(config.data.source).is_absolute():
        return f"local files ({Path(config.data.source).name})"
    return " ".join(p for p in (config.data.source, config.data.name, config.data.revision) if p)


def is_synthetic(config: Config) -> bool:
    """Return whether the scores are of the embedded newswire."""
    return config.data.source == "newswire" and not config.data.test
