"""Score summaries with ROUGE.

ROUGE (Lin 2004, "ROUGE: A Package for Automatic Evaluation of Summaries") is computed by
`rouge_score`, which reproduces the original Perl script. rougeL takes a summary as one sentence,
rougeLsum sentence by sentence: papers print the latter as "R-L". All ROUGE figures are F-measures,
0 to 100, unless a name says precision or recall.
"""

from __future__ import annotations

import functools
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from importlib import metadata
from typing import TYPE_CHECKING, NamedTuple

from nutgraf.config.evaluation import RougeTokenizer
from nutgraf.core.errors import UserError
from nutgraf.data.rouge_tokens import has_rouge_tokens, rouge_tokenizer, rouge_tokens
from nutgraf.data.sentences import split_sentences
from nutgraf.parallel.process_pool import map_rows

if TYPE_CHECKING:
    from rouge_score.rouge_scorer import RougeScorer

ROUGE_TYPES = ("rouge1", "rouge2", "rougeL", "rougeLsum")

# Starting a process and its imports costs as much as scoring about this many pairs.
_PAIRS_PER_PROCESS = 500


class Match(NamedTuple):
    """Precision, recall and F-measure of one summary against one reference, 0 to 100."""

    precision: float
    recall: float
    fmeasure: float


@functools.cache
def _scorer(tokenizer: RougeTokenizer) -> RougeScorer:
    from rouge_score.rouge_scorer import RougeScorer  # brings scipy, which takes a second

    types = [kind for kind in ROUGE_TYPES if kind != "rougeL"]
    return RougeScorer(types, tokenizer=rouge_tokenizer(tokenizer))


def match(
    reference: str, summary: str, tokenizer: RougeTokenizer = "rouge-score"
) -> dict[str, Match]:
    """Return how a summary matches a reference, by ROUGE type.

    An empty summary scores 0. Raises UserError if the reference has no word to compare with, since
    0 would blame the summary.
    """
    reference, summary = ("\n".join(split_sentences(text)) for text in (reference, summary))
    if not has_rouge_tokens(reference, tokenizer):
        counted = " (a-z, 0-9)" if tokenizer == "rouge-score" else ""
        raise UserError(
            f"reference {reference[:40]!r} has no word that ROUGE counts{counted}: "
            "leave the row out or give it a reference"
        )
    scores = _scorer(tokenizer).score(reference, summary)
    matches = {kind: Match(*(100.0 * value for value in scores[kind])) for kind in scores}
    words = (rouge_tokens(text, tokenizer) for text in (reference, summary))
    return {kind: matches.get(kind) or _longest_common(*words) for kind in ROUGE_TYPES}


def _longest_common(reference: Sequence[str], summary: Sequence[str]) -> Match:
    """Return rougeL of the words of two texts, the same to the last bit as rouge_score's.

    Its table of all pairs of words takes gigabytes for two texts of 20,000. Here a bit stands for
    a word of the reference (Hyyrö 2004, "Bit-parallel LCS-length Computation Revisited").
    """
    places: dict[str, int] = defaultdict(int)
    for at, word in enumerate(reference):
        places[word] |= 1 << at
    every = missing = (1 << len(reference)) - 1
    for word in summary:
        matches = missing & places[word]
        missing = ((missing + matches) | (missing - matches)) & every
    shared = len(reference) - missing.bit_count()
    if not shared:
        return Match(0.0, 0.0, 0.0)
    precision, recall = shared / len(summary), shared / len(reference)
    fmeasure = 2 * precision * recall / (precision + recall)
    return Match(100 * precision, 100 * recall, 100 * fmeasure)


def score_rouge(
    reference: str, summary: str, tokenizer: RougeTokenizer = "rouge-score"
) -> dict[str, float]:
    """Return the F-measures of `match`."""
    return {kind: m.fmeasure for kind, m in match(reference, summary, tokenizer).items()}


def score_rouge_many(
    references: Sequence[str],
    summaries: Sequence[str],
    processes: int | None = None,
    tokenizer: RougeTokenizer = "rouge-score",
) -> list[dict[str, float]]:
    """Return `score_rouge` of each pair, in order.

    Args:
        references: The reference summaries.
        summaries: As many summaries, in the same order.
        processes: How many processes share the work; all cores by default.
        tokenizer: What is a word.

    Raises:
        UserError: A reference has no word; its row is named.
        ValueError: The lengths are unequal.
    """
    if len(references) != len(summaries):
        raise ValueError(f"{len(references)} references, {len(summaries)} summaries")
    rows = [
        (number, *pair, tokenizer)
        for number, pair in enumerate(zip(references, summaries, strict=True), 1)
    ]
    return map_rows(_score_row, rows, rows_per_process=_PAIRS_PER_PROCESS, processes=processes)


def _score_row(row: tuple[int, str, str, RougeTokenizer]) -> dict[str, float]:
    number, reference, summary, tokenizer = row
    try:
        return score_rouge(reference, summary, tokenizer)
    except UserError as error:
        raise UserError(f"row {number}: {error}") from None


def rouge_signature(
    seed: int, resamples: int, tokenizer: RougeTokenizer = "rouge-score"
) -> dict[str, str | int | bool]:
    """Return what a ROUGE figure and its interval depend on, to be stored with them."""
    stemmed = tokenizer == "rouge-score"
    unicode = "" if stemmed else f" {unicodedata.unidata_version}"
    return {
        "package": "rouge-score",
        "version": metadata.version("rouge-score"),
        "tokenizer": tokenizer + unicode,
        "stemmer": stemmed,
        "splitter": f"lines, else sentencex {metadata.version('sentencex')}, in quotes too",
        "bootstrap_seed": seed,
        "bootstrap_resamples": resamples,
    }
