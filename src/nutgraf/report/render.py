"""The report: records of a study -> one offline HTML page and the same in Markdown.

Everything that comes from outside (articles, summaries, ids, names, errors, settings) is escaped
on both pages; only our own figures go in as they are. The pages ask no host for anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from nutgraf.core.units import memory
from nutgraf.evaluation.error_rates import averages, by_group, rates_by_group, wilson
from nutgraf.evaluation.indicators import COPIED, FAULTS
from nutgraf.evaluation.published import BART, TEST_ARTICLES, comparable
from nutgraf.evaluation.significance import ALPHA
from nutgraf.planning.duration import elapsed_seconds
from nutgraf.report.formatting import (
    as_markdown,
    code,
    inline,
    mark_class,
    marked,
    number,
    probability,
    setting,
    shortened,
    signed,
    with_marks,
)
from nutgraf.search.trial import describe_proposals

Record = Mapping[str, Any]


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
    seeds: Sequence[str]
    """Lines on the spread of the trained models over seeds, or that there is one seed."""
    systems: Mapping[str, str]
    """What each measured system is, in words."""
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
    """analysis/errors.csv: id, system, article_words, trimmed_tokens, indicators; the references
    are the system `reference`."""
    meanings: Mapping[str, str]
    """A sentence an indicator."""
    examples: Sequence[Record]
    """id, article, reference, summaries by system, flags by system and for `reference`, why; a flag
    is start, end, kind."""
    error_examples: Sequence[Record]
    """Rows of analysis/error_examples.jsonl, by kind of error, as `examples.of_each_kind` says."""
    validated_on: Record
    """How many validation articles were behind `loss` and, in the search, behind `rouge`."""
    card: Record
    """data/card.json: warnings, and counts by split."""
    figures: Mapping[str, str]
    """SVG by name."""
    signature: Record
    """How ROUGE was computed."""
    configuration: str
    """Every setting, as YAML."""
    planned: Sequence[Record]
    """Rows of what, planned, measured, unit; empty where there was no plan."""
    artefacts: Sequence[Record]
    """artefact, created, seconds, digest, in the order in which they were made."""
    versions: Record
    machine: str


def render(study: Study) -> tuple[str, str]:
    """The report as (HTML, Markdown)."""
    shown = {
        "study": study,
        "measured": [row for row in study.table if row["source"] == "measured"],
        "systems": study.systems,
        "verdict": list(verdict(study)),
        "caveat": caveat(study),
        "proposals": describe_proposals([trial["proposed_by"] for trial in study.trials]),
        "fitted": {name: model["validation_loss"] for name, model in study.models.items()},
        "validation": list(validation_beside_test(study)),
        "peaks": {f"models/{name}": m["peak_memory_bytes"] for name, m in study.models.items()},
        "seconds": elapsed_seconds(study.artefacts),
        "published_note": published_note(study.data, _best(study)["n"]),
        "share": share_of_published(study),
        "rates": rates_by_group(study.errors),
        "wilson": wilson,
        "crosstab": list(crosstab(study.errors)),
        "trimmed": study.errors.loc[study.errors["trimmed_tokens"] > 0, "id"].nunique(),
        "averages": averages(study.errors),
        "error_examples": _by_kind(study.error_examples),
        "articles": study.errors["id"].nunique(),
        "figures": {name: Markup(inline(svg)) for name, svg in study.figures.items()},
        "marked": marked,
        "copied": COPIED,
    }
    page = _environment().get_template("report.html")
    plain = _environment(finalize=as_markdown).get_template("report.md")
    return page.render(shown), plain.render(shown)


def verdict(study: Study) -> Iterator[str]:
    """The study in three sentences, from the figures alone: score, comparison, errors."""
    best = _best(study)
    yield (
        f"On {best['n']:,} test articles of {study.data}, the best model reaches ROUGE-Lsum "
        f"{number(best['rougeLsum'])}{_interval(best['rougeLsum_low'], best['rougeLsum_high'])}."
    )
    compared: dict[str, list[str]] = {}
    for row in study.differences:
        if row["metric"] == "rougeLsum":
            points = f"{signed(row['difference'])}, {signed(row['low'])} to {signed(row['high'])}"
            # Undecided verdicts say how many articles would be needed: one for each system.
            words, _, needed = row["verdict"].partition("; ")
            named = f"{row['other']} ({points}{needed and '; '}{needed})"
            compared.setdefault(_than(words), []).append(named)
    if compared:
        said = "; ".join(f"{words} {_and(named)}" for words, named in compared.items())
        yield (
            f"By ROUGE-Lsum on the same articles the best model is {said} (points with paired 95% "
            f"intervals, p below {ALPHA} after correction for {len(study.differences)} comparisons "
            "wherever it says better or worse)."
        )
    flagged = study.errors[["unsupported_numbers", "unsupported_names"]].gt(0).any(axis=1)
    share = 100 * flagged.groupby(study.errors["system"]).mean()
    yield (
        f"An indicator finds a name or number that the article does not support in "
        f"{share['best']:.0f}% of the best model's summaries and in {share['reference']:.0f}% of "
        f"the references."
    )


def caveat(study: Study) -> str:
    """What the verdict rests on."""
    return (
        f"The winner of the search was chosen among {len(study.trials)} trials on validation "
        f"articles and measured on test articles that no choice has seen. {_lines(study.seeds)}"
    )


def validation_beside_test(study: Study) -> Iterator[Record]:
    """Rows of model, loss and ROUGE-Lsum on validation and on test, None where not measured.

    The search measures ROUGE on validation for its trials only, so the best model has it and the
    baseline has not.
    """
    measured = {row["system"]: row for row in study.table if row["source"] == "measured"}
    chosen = next((trial["rougeLsum"] for trial in study.trials if trial["chosen"]), None)
    for name, model in study.models.items():
        if test := measured.get(name):
            yield {
                "model": name,
                "validation_loss": model["validation_loss"],
                "test_loss": test["loss"],
                "validation_rouge": chosen if name == "best" else None,
                "test_rouge": test["rougeLsum"],
                "test_low": test["rougeLsum_low"],
                "test_high": test["rougeLsum_high"],
            }


def share_of_published(study: Study) -> str:
    """The best model's ROUGE-Lsum in percent of BART-large's, with its interval, or why not."""
    if not comparable(study.data):
        return f"No share of {BART.system}'s ROUGE-Lsum is given: it is of other data."
    assert BART.rougeLsum is not None
    best = _best(study)
    share, low, high = (
        100 * best[name] / BART.rougeLsum
        for name in ("rougeLsum", "rougeLsum_low", "rougeLsum_high")
    )
    return (
        f"The best model's ROUGE-Lsum of {number(best['rougeLsum'])} is {share:.1f}% of the "
        f"{number(BART.rougeLsum)} published for {BART.system} (95% interval {low:.1f}% to "
        f"{high:.1f}%, from the articles sampled here)."
    )


def published_note(data: str, n: int) -> str:
    """Whether figures published for CNN/DailyMail compare with those of n articles of `data`."""
    if not comparable(data):
        return (
            f"Other data: the published figures are of CNN/DailyMail, those measured here of "
            f"{data}. They cannot be compared."
        )
    return f"Same data set, {n:,} of its {TEST_ARTICLES:,} test articles here: mind the interval."


def crosstab(errors: pd.DataFrame) -> Iterator[tuple[str, list[tuple[str, int, list[float]]]]]:
    """For each kind of error, by group of articles: its name, n, and the rates in the order of
    `rates`, in percent."""
    found = by_group(errors)
    for kind, inside in found.groupby("kind", sort=False):
        rows = inside.groupby("group", sort=False)
        yield str(kind), [(str(g), int(r["n"].iloc[0]), list(r["rate"])) for g, r in rows]


def _by_kind(examples: Sequence[Record]) -> dict[str, list[Record]]:
    return {kind: [row for row in examples if row["kind"] == kind] for kind in FAULTS}


def _lines(said: Sequence[str]) -> str:
    text = " ".join(line if line.endswith(":") else f"{line}." for line in said)
    return text[:1].upper() + text[1:]


def _interval(low: float | None, high: float | None) -> str:
    if low is None or high is None:
        return " (no interval measured)"
    return f" (95% interval {number(low)} to {number(high)})"


def _than(verdict: str) -> str:
    words = {"better": "better than", "worse": "worse than"}
    return words.get(verdict, "not significantly different from")


def _and(names: Sequence[str]) -> str:
    return " and ".join([*([", ".join(names[:-1])] if names[1:] else []), names[-1]])


def _best(study: Study) -> Record:
    return next(row for row in study.table if row["system"] == "best")


def _environment(finalize: Callable[[Any], Any] | None = None) -> Environment:
    environment = Environment(
        loader=PackageLoader("nutgraf.report"),
        autoescape=True,
        finalize=finalize,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    filters = (
        number,
        signed,
        probability,
        setting,
        memory,
        code,
        mark_class,
        shortened,
        with_marks,
    )
    for show in filters:
        environment.filters[show.__name__] = show
    return environment
