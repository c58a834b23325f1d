"""How a report writes numbers and texts, in HTML and in Markdown.

Text from outside is escaped by the templates in HTML, and here in Markdown.
"""

from __future__ import annotations

import html
import itertools
import math
import re
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

# Characters of an article that a page shows; what is cut off is said.
LONGEST = 8_000


def marked(text: str, spans: Sequence[Sequence[Any]]) -> list[tuple[str, str]]:
    """`text` in pieces with the kinds of the spans over each, comma-separated, empty for none.

    `spans`: (start, end, kind), characters, which may overlap.
    """
    cuts = sorted({0, len(text), *(min(cut, len(text)) for s in spans for cut in s[:2])})
    return [
        (text[a:b], ", ".join(dict.fromkeys(k for start, end, k in spans if start <= a < end)))
        for a, b in itertools.pairwise(cuts)
    ]


def inline(svg: str) -> str:
    """A figure as an element of an HTML page: no prologue, metadata, namespaces or style sheet."""
    svg = re.sub(r"^.*?(?=<svg)|<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.S)
    title = re.search(r"<title>(.*?)</title>", svg)
    label = f' role="img" aria-label="{title[1]}"' if title else ""
    return re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg).replace("<svg", f"<svg{label}", 1)


def mark_class(kinds: str) -> str:
    """How to show a piece with these kinds: copied, repeated, lacking, wrong, or several."""
    looks = {"repeated_trigrams": "repeated", "repeated_sentences": "repeated"}
    looks |= {"copied": "copied", "missing_key_facts": "lacking"}
    return " ".join(sorted({looks.get(kind, "wrong") for kind in kinds.split(", ")}))


def shortened(text: str) -> str:
    """The text, or its beginning and how much more there is."""
    if len(text) <= LONGEST:
        return text
    return f"{text[:LONGEST]} … ({len(text) - LONGEST:,} characters more)"


def as_markdown(value: Any) -> Markup:
    """Text that Markdown shows as it is: no markup, no tags, on one line."""
    if isinstance(value, Markup):
        return value
    return _escaped(str(value))


def with_marks(text: str, spans: Sequence[Sequence[Any]]) -> Markup:
    """Text for Markdown, underlined where copied, bold where anything else is marked."""
    shown = Markup("")
    for piece, kinds in marked(text.rstrip(), spans):
        names = mark_class(kinds).split() if kinds else []
        inner = _escaped(piece)
        if set(names) - {"copied"}:
            inner = Markup("<b>") + inner + Markup("</b>")
        shown += Markup("<ins>") + inner + Markup("</ins>") if "copied" in names else inner
    return shown


def _escaped(text: str) -> Markup:
    plain = html.escape(re.sub(r"\s+", " ", text), quote=False)
    return Markup(re.sub(r"([\\`*_\[\]|~#])", r"\\\1", plain))


def number(value: float | None, digits: int = 2) -> str:
    """1,234 or 12.34; a dash where nothing was measured."""
    if value is None or math.isnan(value):
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.{digits}f}"


def signed(value: float) -> str:
    """+1.23 or −1.23."""
    return f"{value:+.2f}".replace("-", "−")


def probability(p: float) -> str:
    """p < 0.001 or p = 0.012."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def setting(value: Any) -> str:
    """A setting as a person writes it: 0.00213."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def code(text: str) -> Markup:
    """An indented block, which Markdown shows letter by letter."""
    return Markup("\n".join(f"    {line}" for line in str(text).splitlines()))
