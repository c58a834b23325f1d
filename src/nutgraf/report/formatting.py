"""Write numbers and texts as the pages show them, and fill in the templates.

Text from outside is escaped by the templates in HTML, and here in Markdown.
"""

from __future__ import annotations

import html
import itertools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from nutgraf.core.units import memory
from nutgraf.evaluation.bootstrap import MIN_VALUES
from nutgraf.evaluation.rouge import ROUGE_TYPES

ROUGE_NAMES = {kind: kind.replace("rouge", "ROUGE-") for kind in ROUGE_TYPES}
MAX_CHARACTERS = 8_000  # of an article that a page shows


def load_template(
    name: str, autoescape: bool = False, finalize: Callable[[Any], Any] | None = None
) -> Template:
    """Return the template `templates/name`, in which a missing value is an error.

    `autoescape` escapes values for HTML; `finalize` is applied to each before it is written.
    """
    environment = Environment(
        loader=PackageLoader("nutgraf.report"),
        autoescape=autoescape,
        finalize=finalize,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    for function in (
        number, signed, interval, probability, setting, in_words, memory, mark_class,
        shortened, split_by_marks, with_marks,
    ):  # fmt: skip
        environment.filters[function.__name__] = function
    return environment.get_template(name)


def table_records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows as plain dictionaries, None if a cell is empty."""
    filled = table.astype(object).where(table.notna(), None)
    return [{str(name): value for name, value in row.items()} for row in filled.to_dict("records")]


def split_by_marks(text: str, spans: Sequence[Sequence[Any]]) -> list[tuple[str, str]]:
    """Return `text` in pieces, each with the kinds of the spans over it, separated by commas.

    `spans` are (start, end, kind) in characters and may overlap.
    """
    cuts = sorted({0, len(text), *(min(cut, len(text)) for s in spans for cut in s[:2])})
    return [
        (text[a:b], ", ".join(dict.fromkeys(k for start, end, k in spans if start <= a < end)))
        for a, b in itertools.pairwise(cuts)
    ]


def inline_svg(svg: str) -> str:
    """Return a figure as an element of an HTML page, without prologue, metadata or style sheet."""
    svg = re.sub(r"^.*?(?=<svg)|<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.S)
    title = re.search(r"<title>(.*?)</title>", svg)
    label = f' role="img" aria-label="{title[1]}"' if title else ""
    return re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg).replace("<svg", f"<svg{label}", 1)


def mark_class(kinds: str) -> str:
    """Return how to show a piece of these kinds: copied, repeated, lacking, wrong, or several."""
    classes = {"repeated_trigrams": "repeated", "repeated_sentences": "repeated"}
    classes |= {"copied": "copied", "missing_key_facts": "lacking"}
    return " ".join(sorted({classes.get(kind, "wrong") for kind in kinds.split(", ")}))


def shortened(text: str) -> str:
    """Return the text, or its beginning and how much more there is."""
    if len(text) <= MAX_CHARACTERS:
        return text
    return f"{text[:MAX_CHARACTERS]} … ({len(text) - MAX_CHARACTERS:,} characters more)"


def as_markdown(value: Any) -> Markup:
    """Return text that Markdown shows as it is: no markup, no tags, on one line."""
    if isinstance(value, Markup):
        return value
    plain = html.escape(re.sub(r"\s+", " ", str(value)), quote=False)
    return Markup(re.sub(r"([\\`*_\[\]|~#])", r"\\\1", plain))


def with_marks(text: str, spans: Sequence[Sequence[Any]]) -> Markup:
    """Return text for Markdown, underlined if copied, bold if anything else is marked."""
    pieces = []
    for piece, kinds in split_by_marks(text.rstrip(), spans):
        classes = mark_class(kinds).split() if kinds else []
        escaped = as_markdown(piece)
        if set(classes) - {"copied"}:
            escaped = Markup("<b>{}</b>").format(escaped)
        pieces.append(Markup("<ins>{}</ins>").format(escaped) if "copied" in classes else escaped)
    return Markup("").join(pieces)


def number(value: float | None, digits: int = 2) -> str:
    """Return 1,234 or 12.34; a dash if nothing was measured."""
    if value is None or math.isnan(value):
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.{digits}f}"


def interval(low: float | None, high: float | None, write: Callable[[float], str] = number) -> str:
    """Return 1.20 to 3.40, or that there are too few articles for an interval."""
    if low is None or high is None or math.isnan(low):
        return f"not given below {MIN_VALUES} articles"
    return f"{write(low)} to {write(high)}"


def signed(value: float) -> str:
    """Return +1.23 or −1.23."""
    return f"{value:+.2f}".replace("-", "−")


def probability(p: float) -> str:
    """Return p < 0.001 or p = 0.012."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def setting(value: Any) -> str:
    """Return a setting as a person writes it: 0.00213."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def in_words(value: Any) -> str:
    """Return a fact of the data card: a number, some text, or counts by name."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {number(n)}" for name, n in value.items()) or "none"
    return value if isinstance(value, str) else number(value, 1)
