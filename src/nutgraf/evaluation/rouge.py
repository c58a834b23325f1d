"""Score summaries with ROUGE.

ROUGE (Lin 2004, "ROUGE: A Package for Automatic Evaluation of Summaries") is computed by
`rouge_score`, which reproduces the original Perl script. rougeL takes a summary as one sentence,
rougeLsum sentence by sentence: papers print the latter as "R-L". All ROUGE figures are F-measures,
0 to 100.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from importlib import metadata
from typing import TYPE_CHECKING

from nutgraf.core.errors import UserError
from nutgraf.data.sentences import has_rouge_tokens, rouge_tokenizer, split_sentences
from nutgraf.parallel.process_pool import map_rows

if TYPE_CHECKING:
    from rouge_score.rouge_scorer import RougeScorer

ROUGE_TYPES = ("rouge1", "rouge2", "rougeL", "rougeLsum")

# Starting a process and its imports costs as much as scoring about this many pairs.
_PAIRS_PER_PROCESS = 500


@functools.cache
def _scorer() -> RougeScorer:
    from rouge_score.rouge_scorer import RougeScorer  # brings scipy, which takes a second

    return RougeScorer(list(ROUGE_TYPES), tokenizer=rouge_tokenizer())


def score_rouge(reference: str, summary: str) -> dict[str, float]:
    """Return rouge1, rouge2, rougeL and rougeLsum of one summary: F-measures, 0 to 100, stemmed.

    An empty summary scores 0. Raises UserError if the reference has no word to compare with
    (rouge_score counts the letters a-z and digits only), since 0 would blame the summary.
    """
    reference, summary = ("\n".join(split_sentences(text)) for text in (reference, summary))
    if not has_rouge_tokens(reference):
        raise UserError(
            f"reference {reference[:40]!r} has no word that ROUGE counts (a-z, 0-9): "
            "leave the row out or give it a reference"
        )
    scores = _scorer().score(reference, summary)
    return {kind: 100 * scores[kind].fmeasure for kind in ROUGE_TYPES}


def score_rouge_many(
    references: Sequence[str], summaries: Sequence[str], processes: int | None = None
) -> list[dict[str, float]]:
    """Return `score_rouge` of each pair, in order.

    Args:
        references: The reference summaries.
        summaries: As many summaries, in the same order.
        processes: How many processes share the work; all cores by default.

    Raises:
        UserError: A reference has no word; its row is named.
        ValueError: The lengths are unequal.
    """
    if len(references) != len(summaries):
        raise ValueError(f"{len(references)} references, {len(summaries)} summaries")
    rows = list(zip(range(1, len(references) + 1), references, summaries, strict=True))
    return map_rows(_score_row, rows, rows_per_process=_PAIRS_PER_PROCESS, processes=processes)


def _score_row(row: tuple[int, str, str]) -> dict[str, float]:
    number, reference, summary = row
    try:
        return score_rouge(reference, summary)
    except UserError as error:
        raise UserError(f"row {number}: {error}") from None


def rouge_signature(seed: int, resamples: int) -> dict[str, str | int | bool]:
    """Return what a ROUGE figure and its interval depend on, to be stored with them."""
    return {
        "package": "rouge-score",
        "version": metadata.version("rouge-score"),
        "stemmer": True,
        "splitter": f"lines, else sentencex {metadata.version('sentencex')}, in quotes too",
        "bootstrap_seed": seed,
        "bootstrap_resamples": resamples,
    }
