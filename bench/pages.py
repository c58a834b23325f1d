"""How much of an article is taken out of its page, and whether a warning says so if it is half.

Pages with their articles as people marked them are in the repository
github.com/scrapinghub/article-extraction-benchmark (`html/*.html.gz` and `ground-truth.json`, 181
pages of 2019); any folder of that form will do. Words are compared as multisets: recall is the
share of the article's words that were taken, precision the share of the words taken that are the
article's. nutgraf is trafilatura without comments and tables, behind its own checks.

    python bench/pages.py ~/article-extraction-benchmark
"""

from __future__ import annotations

import argparse
import gzip
import json
import logging
import re
import statistics
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import lxml.html
import readability
import trafilatura
from trafilatura.utils import decode_file

from nutgraf.core.errors import UserError
from nutgraf.data import web_page

HALF = 0.7  # a page with less recall has given up a part


def plain(page: str) -> str:
    """Return what trafilatura takes by default."""
    return trafilatura.extract(page) or ""


def by_readability(page: str) -> str:
    """Return what readability-lxml takes."""
    try:
        return lxml.html.fromstring(readability.Document(page).summary()).text_content()
    except readability.readability.Unparseable:
        return ""


def by_nutgraf(page: str) -> str:
    """Return what nutgraf takes; nothing if it refuses the page."""
    try:
        return web_page.extract_article(page, "page")
    except UserError:
        return ""


class _Warnings(logging.Handler):
    """Counts the warnings of a page by what they say first."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the kind of a warning."""
        self.said.append(re.sub(r"[\d,]+", "N", record.getMessage().removeprefix("page: ")))


def words(text: str) -> Counter[str]:
    """Return the words of a text, with how often each is there."""
    return Counter(re.findall(r"\w+", text))


def main() -> None:
    """Print a table of the extractors, and of the warnings."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("pages", type=Path, help="a folder with html/ and ground-truth.json")
    folder = parser.parse_args().pages
    articles = json.loads((folder / "ground-truth.json").read_text("utf-8"))
    handler = _Warnings()
    logging.getLogger("nutgraf").handlers[:] = [handler]
    extractors: dict[str, Callable[[str], str]] = {
        "nutgraf": by_nutgraf, "trafilatura": plain, "readability-lxml": by_readability,
    }  # fmt: skip
    scores: dict[str, list[tuple[float, float, float]]] = {name: [] for name in extractors}
    warned: dict[str, list[str]] = {}
    for page_id, article in articles.items():
        page = decode_file(gzip.decompress((folder / "html" / f"{page_id}.html.gz").read_bytes()))
        gold = words(article["articleBody"])
        for name, extract in extractors.items():
            started = time.perf_counter()
            taken = words(extract(page))
            seconds = time.perf_counter() - started
            both = (taken & gold).total()
            recall, precision = both / max(1, gold.total()), both / max(1, taken.total())
            scores[name].append((recall, precision, seconds))
        warned[page_id], handler.said = handler.said, []
    print(
        f"{'n = ' + str(len(articles)):<18}{'recall':>8}{'precision':>11}{'below 70%':>11}{'ms':>6}"
    )
    for name, rows in scores.items():
        recall, precision, seconds = map(statistics.fmean, zip(*rows, strict=True))
        half = sum(row[0] < HALF for row in rows)
        print(f"{name:<18}{recall:8.1%}{precision:11.1%}{half:11}{1000 * seconds:6.0f}")
    halves = [row[0] < HALF for row in scores["nutgraf"]]
    for said in sorted({said for all_said in warned.values() for said in all_said}):
        flags = [said in all_said for all_said in warned.values()]
        caught = sum(flag and half for flag, half in zip(flags, halves, strict=True))
        print(f"{said}: {sum(flags)} pages, {caught} of the {sum(halves)} below {HALF:.0%}")


if __name__ == "__main__":
    main()
