"""The report: records of a study -> one offline HTML page and the same in Markdown.

Everything that comes from outside (articles, summaries, ids, names, errors, settings) is escaped
on both pages; only our own figures go in as they are. The pages ask no host for anything.
"""

from __future__ import annotations

import html
import itertools
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from nutgraf.published import TEST_ARTICLES

Record = Mapping[str, Any]

# Indicators of which one is enough to call a summary faulty; the others are shown as averages.
KINDS = (
    "unfinished",
    "repeated_trigrams",
    "repeated_sentences",
    "unsupported_numbers",
    "unsupported_names",
    "missing_key_facts",
)
SYSTEMS = {
    "lead3": "the article's first three sentences, no model",
    "zero_shot": "the base model as it came, untrained",
    "baseline": "the base with an adapter trained with the given settings",
    "best": "the base with an adapter trained with the settings that the search chose",
}


@dataclass(frozen=True)
class Study:
    """What a report shows, as plain records. ROUGE is F1 on 0 to 100, loss in nats a token."""

    run: str
    """The run folder."""
    command: str
    """What makes this study again."""
    data: str
    """The articles, in words: `the embedded synthetic newswire`."""
    caution: str
    """What has to be said wherever scores appear; empty where nothing has."""
    table: Sequence[Record]
    """Rows of model_comparison_results.csv, None where a cell is empty."""
    differences: Sequence[Record]
    """Rows of analysis/differences.csv: best against every other system, on the same articles."""
    trials: Sequence[Record]
    """Rows of search/trials.csv."""
    searched: Sequence[str]
    """The dotted settings among the columns of the trials."""
    models: Mapping[str, Record]
    """train.json by model."""
    published: Sequence[Record]
    """system, rouge1, rouge2, rougeLsum, n, variant, citation."""
    errors: pd.DataFrame
    """analysis/errors.csv: id, system, indicators; the references are the system `reference`."""
    meanings: Mapping[str, str]
    """A sentence an indicator."""
    examples: Sequence[Record]
    """id, article, reference, summaries and flags by system, why; a flag is start, end, kind."""
    card: Record
    """data/card.json: warnings, and counts by split."""
    figures: Mapping[str, str]
    """SVG by name."""
    signature: Record
    """How ROUGE was computed."""
    configuration: str
    """Every setting, as YAML."""
    artefacts: Sequence[Record]
    """artefact, seconds, digest, in the order in which they were made."""
    versions: Record
    machine: str


def render(study: Study) -> tuple[str, str]:
    """The report as (HTML, Markdown)."""
    shown = {
        "study": study,
        "measured": [row for row in study.table if row["source"] == "measured"],
        "systems": SYSTEMS,
        "verdict": list(verdict(study)),
        "fitted": {name: model["validation_loss"] for name, model in study.models.items()},
        "published_note": published_note(study.data, _best(study)["n"]),
        "rates": rates(study.errors),
        "averages": averages(study.errors),
        "articles": study.errors["id"].nunique(),
        "figures": {name: Markup(inline(svg)) for name, svg in study.figures.items()},
        "marked": marked,
    }
    page = _environment().get_template("report.html")
    plain = _environment(finalize=as_markdown).get_template("report.md")
    return page.render(shown), plain.render(shown)


def verdict(study: Study) -> Iterator[str]:
    """The study in a few sentences, from the figures alone."""
    best = _best(study)
    yield (
        f"On {best['n']:,} test articles of {study.data}, the best model reaches ROUGE-Lsum "
        f"{number(best['rougeLsum'])}{_interval(best['rougeLsum_low'], best['rougeLsum_high'])}."
    )
    for row in study.differences:
        if row["metric"] == "rougeLsum":
            yield (
                f"The best model against {row['other']}: {row['verdict']} "
                f"({signed(row['difference'])} points, paired 95% interval {signed(row['low'])} to "
                f"{signed(row['high'])}, {probability(row['p_holm'])} corrected for "
                f"{len(study.differences)} comparisons)."
            )
    flagged = study.errors[["unsupported_numbers", "unsupported_names"]].gt(0).any(axis=1)
    share = 100 * flagged.groupby(study.errors["system"]).mean()
    yield (
        f"An indicator finds a name or number that the article does not support in "
        f"{share['best']:.0f}% of the best model's summaries and in {share['reference']:.0f}% of "
        f"the references."
    )
    yield (
        "The winner was chosen on validation articles and measured on test articles (the table has "
        "both losses); each training ran once, with one seed, so the spread between seeds is not "
        "known."
    )


def published_note(data: str, n: int) -> str:
    """Whether figures published for CNN/DailyMail compare with those of n articles of `data`."""
    if "cnn_dailymail" not in data:
        return (
            f"Other data: the published figures are of CNN/DailyMail, those measured here of "
            f"{data}. They cannot be compared."
        )
    return f"Same data set, {n:,} of its {TEST_ARTICLES:,} test articles here: mind the interval."


def rates(errors: pd.DataFrame) -> pd.DataFrame:
    """Percent of summaries with at least one error, a row a kind, a column a system."""
    found = 100 * errors[list(KINDS)].gt(0).groupby(errors["system"], sort=False).mean().T
    return found[["reference", *(name for name in found if name != "reference")]]


def averages(errors: pd.DataFrame) -> pd.DataFrame:
    """Means of the other indicators over articles, a row an indicator, a column a system."""
    others = [name for name in errors if name not in ("id", "system", *KINDS)]
    means = errors.groupby("system", sort=False)[others].mean().T
    return means[["reference", *(name for name in means if name != "reference")]]


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


def as_markdown(value: Any) -> Markup:
    """Text that Markdown shows as it is: no markup, no tags, on one line."""
    if isinstance(value, Markup):
        return value
    text = html.escape(" ".join(str(value).split()), quote=False)
    return Markup(re.sub(r"([\\`*_\[\]|~#])", r"\\\1", text))


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


def memory(size: int) -> str:
    """Bytes as MB or GB."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def code(text: str) -> Markup:
    """An indented block, which Markdown shows letter by letter."""
    return Markup("\n".join(f"    {line}" for line in str(text).splitlines()))


def _interval(low: float | None, high: float | None) -> str:
    if low is None or high is None:
        return " (no interval measured)"
    return f" (95% interval {number(low)} to {number(high)})"


def _best(study: Study) -> Record:
    return next(row for row in study.table if row["system"] == "best")


def _environment(finalize: Callable[[Any], Any] | None = None) -> Environment:
    environment = Environment(
        loader=PackageLoader("nutgraf"),
        autoescape=True,
        finalize=finalize,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    for show in (number, signed, probability, setting, memory, code):
        environment.filters[show.__name__] = show
    return environment
