"""Render the report: records of a study to one offline HTML page and the same in Markdown.

Everything that comes from outside (articles, summaries, ids, names, errors, settings) is escaped
on both pages; only our own figures go in as they are. The pages ask no host for anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from markupsafe import Markup

from nutgraf.data.data_card import all_english
from nutgraf.evaluation.error_rates import (
    group_rates,
    mean_indicators,
    system_rates,
    wilson_interval,
)
from nutgraf.evaluation.indicators import COPIED, FAULTS
from nutgraf.evaluation.published import BART, TEST_ARTICLES, why_not_comparable
from nutgraf.evaluation.significance import ALPHA
from nutgraf.planning.outcome import elapsed_seconds
from nutgraf.report.formatting import (
    as_markdown,
    inline_svg,
    interval,
    load_template,
    number,
    setting,
    signed,
)
from nutgraf.search.trial import describe_proposals

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Study:
    """Collect what a report shows, as plain records. ROUGE is F1 on 0 to 100, loss in nats a token.

    Rows of tables have None if a cell is empty.
    """

    run: str  # the run folder
    final: str  # the system to take away, which verdict and examples are about
    command: str  # what makes this study again
    data: str  # the articles, in words
    decoding: str  # how models wrote their summaries, in words
    candidates: str  # how one of several was chosen, in words; empty if there was one
    choice: Record | None  # choice.json, if the weights of the choice were fitted
    seconds: Mapping[str, float]  # a summary, by system; of models whose time is known
    timing: str  # what these seconds are, in words; empty if there are none
    cuts: str  # what cuts at sentences do to the comparison; empty if there are none
    caution: str  # stands wherever scores do; may be empty
    table: Sequence[Record]  # model_comparison_results.csv
    seeds: Sequence[str]  # lines on the spread over seeds
    systems: Mapping[str, str]  # what each measured system is, in words
    differences: Sequence[Record]  # analysis/differences.csv
    trials: Sequence[Record]  # search/trials.csv
    searched: Sequence[str]  # the dotted settings among the columns of the trials
    models: Mapping[str, Record]  # train.json by model
    published: Sequence[Record]  # fields of evaluation.published.Published
    errors: pd.DataFrame  # analysis/errors.csv; the references are the system `reference`
    meanings: Mapping[str, str]  # a sentence an indicator
    examples: Sequence[Record]  # analysis/examples.jsonl
    error_examples: Sequence[Record]  # analysis/error_examples.jsonl
    validated_on: Record  # validation articles behind `loss` and, in the search, `rouge`
    card: Record  # data/card.json
    figures: Mapping[str, str]  # SVG by name
    signature: Record  # how ROUGE was computed
    prompt: str  # of the study's models, `{article}` in place of an article
    configuration: str  # every setting, as YAML
    planned: Sequence[Record]  # what, planned, measured, unit, range; empty without a plan
    artefacts: Sequence[Record]  # manifests, in the order in which they were made
    versions: Record
    machine: str
    steered: Sequence[tuple[str, str]] = ()  # when, and what people changed in the search
    facts: Sequence[Record] = ()  # analysis/facts.csv: what the base doubts; may be empty
    judged: Sequence[Record] = ()  # of each pair of systems that people judged: judging.standing


def render(study: Study) -> tuple[str, str]:
    """Return the report as (HTML, Markdown)."""
    measured = [row for row in study.table if row["source"] == "measured"]
    articles = study.errors["id"].nunique()
    values = {
        "study": study,
        "measured": measured,
        "test": {row["system"]: row for row in measured},
        "verdict": list(verdict(study)),
        "caveat": caveat(study),
        "searched": [[setting(trial[name]) for name in study.searched] for trial in study.trials],
        "proposals": describe_proposals([trial["proposed_by"] for trial in study.trials]),
        "fitted": {name: model["validation_loss"] for name, model in study.models.items()},
        "chosen_rouge": [trial["rougeLsum"] for trial in study.trials if trial["chosen"]],
        "peaks": {f"models/{name}": m["peak_memory_bytes"] for name, m in study.models.items()},
        "seconds": elapsed_seconds(study.artefacts),
        "published_note": published_note(study.data, _best(study)["n"], study.signature["stemmer"]),
        "share": share_of_published(study),
        "rates": system_rates(study.errors).map(lambda rate: rate_in_words(rate, articles)),
        "signed": signed,
        "facts": [facts_in_words(row) for row in study.facts],
        "crosstab": list(crosstab(study.errors)),
        "trimmed": study.errors.loc[study.errors["trimmed_tokens"] > 0, "id"].nunique(),
        "averages": mean_indicators(study.errors),
        "error_examples": {
            kind: [row for row in study.error_examples if row["kind"] == kind] for kind in FAULTS
        },
        "articles": articles,
        "figures": {name: Markup(inline_svg(svg)) for name, svg in study.figures.items()},
        "copied": COPIED,
        "english": all_english(study.card["splits"]),
    }
    page = load_template("report.html", autoescape=True)
    plain = load_template("report.md", autoescape=True, finalize=as_markdown)
    return page.render(values), plain.render(values)


def verdict(study: Study) -> Iterator[str]:
    """Yield the study in a few sentences, from the figures alone: score, comparison, errors."""
    best = _best(study)
    name = "the best model" + (f" ({study.final})" if study.final != "best" else "")
    yield (
        f"On {best['n']:,} test articles of {study.data}, {name} reaches ROUGE-Lsum "
        f"{number(best['rougeLsum'])} (95% interval "
        f"{interval(best['rougeLsum_low'], best['rougeLsum_high'])})."
    )
    if compared := _compared(study, study.final):
        yield (
            f"By ROUGE-Lsum on the same articles the best model is {compared} (points with paired "
            f"95% intervals, p below {ALPHA} after correction for {len(study.differences)} "
            "comparisons wherever it says better or worse)."
        )
    yield from _rounds(study)
    yield from _chosen(study)
    for pair in study.judged:
        yield f"By people who did not know which was which, {pair['words']}"
    share = 100 * _unsupported(study.errors).groupby(study.errors["system"]).mean()
    yield (
        f"An indicator finds a name or number that the article does not support in "
        f"{share[study.final]:.0f}% of the best model's summaries and in "
        f"{share['reference']:.0f}% of the references."
    )


def _compared(study: Study, system: str) -> str:
    """Return in words how a system compares with all others by ROUGE-Lsum."""
    phrases = {"better": "better than", "worse": "worse than"}
    others: dict[str, list[str]] = {}
    for row in study.differences:
        if (row["metric"], row["system"]) == ("rougeLsum", system):
            points = f"{signed(row['difference'])}, {interval(row['low'], row['high'], signed)}"
            # Undecided verdicts say how many articles would be needed: one for each system.
            words, _, needed = row["verdict"].partition("; ")
            phrase = phrases.get(words, "not significantly different from")
            others.setdefault(phrase, []).append(
                f"{row['other']} ({points}{needed and '; '}{needed})"
            )
    return "; ".join(f"{phrase} {_and(names)}" for phrase, names in others.items())


def _rounds(study: Study) -> Iterator[str]:
    """Yield what a training on preferences changed beside ROUGE, and may have spoilt."""
    if study.final == "best":
        return
    errors = study.errors
    marks = pd.DataFrame(
        {
            "words a summary": errors["words"],
            "percent of pairs of words that the article lacks": 100 * errors["novel_2grams"],
            "percent of summaries with an unsupported name or number": 100 * _unsupported(errors),
            "percent with a repeated sentence": 100.0 * (errors["repeated_sentences"] > 0),
        }
    )
    means = marks.groupby(errors["system"]).mean()
    final, best = means.loc[study.final], means.loc["best"]
    changes = [
        f"{number(after, 0)} {what} in place of {number(before, 0)}"
        for what, after, before in zip(marks, final, best, strict=True)
    ]
    yield (
        f"{study.final} was trained to prefer the better of two summaries that it wrote of a "
        f"training article. Beside ROUGE that changed, against best: {'; '.join(changes)}."
    )


def _unsupported(errors: pd.DataFrame) -> pd.Series:
    """Return whether a summary has a name or number that its article does not support."""
    return errors[["unsupported_numbers", "unsupported_names"]].gt(0).any(axis=1)


def _chosen(study: Study) -> Iterator[str]:
    """Yield what the choice among candidates brings, if there were several."""
    for row in study.table:
        if row["system"] == "best_chosen":
            compared = _compared(study, "best_chosen")
            yield (
                "If one of several candidates is chosen, as the model to take away does, "
                f"ROUGE-Lsum is {number(row['rougeLsum'])}"
                + (f": {compared}." if compared else ".")
            )
    if study.choice:
        rivals = {"greedy": "the greedy candidate", "consensus": "consensus"}
        gains = [
            f"{signed(gain['mean'])} ({interval(gain['low'], gain['high'], signed)}) against "
            f"{rivals[name]}"
            for name, gain in study.choice["gains"].items()
        ]
        yield (
            "The weights of the choice were fitted on candidates of "
            f"{study.choice['articles']:,} training articles. On those held out it gains "
            f"{' and '.join(gains)}, in points of mean ROUGE-1, -2 and -Lsum."
        )


def caveat(study: Study) -> str:
    """Return what the verdict rests on."""
    seeds = " ".join(line if line.endswith(":") else f"{line}." for line in study.seeds)
    return (
        f"The winner of the search was chosen among {len(study.trials)} trials on validation "
        "articles and measured on test articles that no choice has seen. "
        f"{seeds[:1].upper()}{seeds[1:]}"
    )


def share_of_published(study: Study) -> str:
    """Return the best model's ROUGE-Lsum in percent of BART-large's, or why none is given."""
    if why := why_not_comparable(study.data, study.signature["stemmer"]):
        return f"No share of {BART.system}'s ROUGE-Lsum is given: it is of {why}."
    best = _best(study)

    def share(score: float) -> str:
        return f"{100 * score / BART.rougeLsum:.1f}%"

    return (
        f"The best model's ROUGE-Lsum of {number(best['rougeLsum'])} is "
        f"{share(best['rougeLsum'])} of the {number(BART.rougeLsum)} published for {BART.system} "
        f"(95% interval {interval(best['rougeLsum_low'], best['rougeLsum_high'], share)}, from the "
        "articles sampled here)."
    )


def published_note(data: str, n: int, stemmed: bool) -> str:
    """Return whether published figures compare with those of `n` articles of `data` (in words)."""
    if why := why_not_comparable(data, stemmed):
        return (
            f"{why.capitalize()}: the published figures are of CNN/DailyMail, on stemmed English "
            f"words, those measured here of {data}. They cannot be compared."
        )
    return f"Same data set, {n:,} of its {TEST_ARTICLES:,} test articles here: mind the interval."


def rate_in_words(rate: float, n: int) -> str:
    """Return a percentage of `n` summaries with its 95% interval."""
    return "{} ({} to {})".format(*(number(x, 1) for x in (rate, *wilson_interval(rate, n))))


def facts_in_words(row: Record) -> list[str]:
    """Return what the base says of a system's sentences, as cells of the report's table."""
    wrong = "not known of this base"
    if row["wrong"] is not None:
        ends = (number(row[end], 0) for end in ("wrong", "low", "high"))
        wrong = "{} ({} to {})".format(*ends)
    return [row["system"], number(row["sentences"]), number(row["doubted"], 1), wrong]


def crosstab(errors: pd.DataFrame) -> Iterator[tuple[str, list[tuple[str, int, list[float]]]]]:
    """Yield each kind of error with its groups of articles: name, n, percent by system."""
    for kind, rates in group_rates(errors).groupby("kind", sort=False):
        groups = rates.groupby("group", sort=False)
        yield str(kind), [(str(g), int(r["n"].iloc[0]), list(r["rate"])) for g, r in groups]


def _and(names: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _best(study: Study) -> Record:
    return next(row for row in study.table if row["system"] == study.final)
