"""ROUGE for each article, what it means over all of them, and perplexity.

ROUGE (Lin 2004, "ROUGE: A Package for Automatic Evaluation of Summaries") is computed by
`rouge_score`, which reproduces the original Perl script; this is the only module that uses it.
rougeL takes a summary as one sentence, rougeLsum sentence by sentence: papers print the latter
as "R-L". All ROUGE figures are F-measures on 0-100.
"""

from __future__ import annotations

import functools
import itertools
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING

import numpy as np
import sentencex

from nutgraf.cores import Spread, spread
from nutgraf.problems import Failure, UserError

try:
    from rouge_score import tokenize
except ModuleNotFoundError as error:
    raise Failure(f"{error.name} is not installed: pip install rouge-score") from error

if TYPE_CHECKING:
    from rouge_score.rouge_scorer import RougeScorer

ROUGE_TYPES = ("rouge1", "rouge2", "rougeL", "rougeLsum")

# A full stop that stands alone, as tokenized text has it (`it ended . '' he left`), ends a
# sentence even where no capital follows; closing quotes belong to what they close.
_TOKENIZED_STOP = re.compile(r"(?<=\s[.!?])(\s+''|\s+”)?\s+(?=\S)")
_WORD = re.compile(r"\w")

# Starting a process and its imports costs as much as scoring about this many pairs.
_PAIRS_PER_PROCESS = 500
# The splitter takes the square of a line's length; longer lines are cut at a space before this one.
_LONGEST_LINE = 20_000
# Draws of one chunk of resamples: 2**22 indices of 4 bytes are 16 MB.
_DRAWS = 2**22


def sentences(text: str) -> list[str]:
    """The sentences of a text: its lines where it has several, else as the splitter cuts it.

    The splitter is sentencex (Wikimedia): offline, rule-based, aware of abbreviations, initials,
    decimal numbers and quotes. Cased and lower-cased, plain and tokenized text all work.
    """
    if "\n" in text.strip():
        return [line.strip() for line in text.splitlines() if line.strip()]
    return list(_cut(text))


def _cut(line: str) -> Iterator[str]:
    """Sentences of one line. Punctuation that stands alone joins the sentence before it."""
    sentence = ""
    stops = _TOKENIZED_STOP.sub(lambda stop: (stop.group(1) or "") + "\n", line).split("\n")
    for piece in itertools.chain.from_iterable(map(_pieces, stops)):
        for part in sentencex.segment("en", piece):
            if sentence and (_WORD.search(part) or len(sentence) > _LONGEST_LINE):
                yield sentence
                sentence = ""
            sentence = f"{sentence} {part.strip()}".strip()
    if sentence:
        yield sentence


def _pieces(line: str) -> Iterator[str]:
    while len(line) > _LONGEST_LINE:
        end = line.rfind(" ", 1, _LONGEST_LINE)
        end = _LONGEST_LINE if end < 0 else end + 1
        yield line[:end]
        line = line[end:]
    yield line


def article_sentences(article: str) -> list[str]:
    """The sentences of an article. Its lines are paragraphs, which end a sentence too."""
    return [sentence for line in article.splitlines() for sentence in _cut(line)]


class _Tokenizer:
    """rouge_score's own tokenizer; stems are kept, for stemming takes most of the time."""

    def __init__(self) -> None:
        # Loaded here, for it brings scipy: a second, in every process of a study.
        from nltk.stem.porter import PorterStemmer

        self.stem = functools.lru_cache(maxsize=2**16)(PorterStemmer().stem)

    def tokenize(self, text: str) -> list[str]:
        return tokenize.tokenize(text, self)


@functools.cache
def _tokenizer() -> _Tokenizer:
    return _Tokenizer()


@functools.cache
def _scorer() -> RougeScorer:
    from rouge_score.rouge_scorer import RougeScorer  # as above

    return RougeScorer(list(ROUGE_TYPES), tokenizer=_tokenizer())


def stems(text: str) -> list[str]:
    """The tokens of a text as ROUGE compares them: lower-cased, stemmed, a-z and 0-9 only."""
    return _tokenizer().tokenize(text)


def counts_words(text: str) -> bool:
    """Whether the text has a word that rouge_score counts: letters a-z and digits only."""
    return bool(tokenize.tokenize(text, None))


def rouge(reference: str, summary: str) -> dict[str, float]:
    """rouge1, rouge2, rougeL and rougeLsum of one summary: F-measures on 0-100, stemmed.

    An empty summary scores 0. Raises UserError where the reference has no word to compare with
    (rouge_score counts the letters a-z and digits only), since 0 would blame the summary.
    """
    reference, summary = ("\n".join(sentences(text)) for text in (reference, summary))
    if not counts_words(reference):
        raise UserError(
            f"reference {reference[:40]!r} has no word that ROUGE counts (a-z, 0-9): "
            "leave the row out or give it a reference"
        )
    scores = _scorer().score(reference, summary)
    return {kind: 100 * scores[kind].fmeasure for kind in ROUGE_TYPES}


def rouge_many(
    references: Sequence[str],
    summaries: Sequence[str],
    processes: int | None = None,
    progress: str | None = None,
    over: Spread = spread,
) -> list[dict[str, float]]:
    """`rouge` of each pair, in order, over all cores (or `processes`), as `cores.spread` does it.
    With another `over`, over a cluster.

    Raises UserError naming the row of an empty reference, ValueError for unequal lengths.
    """
    if len(references) != len(summaries):
        raise ValueError(f"{len(references)} references, {len(summaries)} summaries")
    pairs = list(zip(range(1, len(references) + 1), references, summaries, strict=True))
    return over(
        _score_row,
        pairs,
        rows_per_process=_PAIRS_PER_PROCESS,
        processes=processes,
        progress=progress,
    )


def _score_row(row: tuple[int, str, str]) -> dict[str, float]:
    number, reference, summary = row
    try:
        return rouge(reference, summary)
    except UserError as error:
        raise UserError(f"row {number}: {error}") from None


def signature(seed: int, resamples: int) -> dict[str, str | int | bool]:
    """What a ROUGE figure and its interval depend on, to be stored beside them."""
    return {
        "package": "rouge-score",
        "version": metadata.version("rouge-score"),
        "stemmer": True,
        "splitter": f"lines, else sentencex {metadata.version('sentencex')}",
        "bootstrap_seed": seed,
        "bootstrap_resamples": resamples,
    }


@dataclass(frozen=True)
class Interval:
    """A mean over articles with its 95% interval."""

    mean: float
    low: float
    high: float


def bootstrap(values: Sequence[float] | np.ndarray, resamples: int, seed: int) -> Interval:
    """Mean of `values`, one an article, with its 95% percentile bootstrap interval.

    Efron & Tibshirani (1993), "An Introduction to the Bootstrap", chapter 13. The generator is
    its own, so equal seeds and lengths resample the same articles. One article gives an interval
    without width, which says nothing. Raises ValueError for no values or values not finite.
    """
    low, high = np.percentile(resampled_means(values, resamples, seed), [2.5, 97.5])
    return Interval(float(np.mean(values)), float(low), float(high))


def resampled_means(values: Sequence[float] | np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Means of `resamples` draws of all articles with replacement, shape [resamples].

    Raises ValueError for no values or values not finite.
    """
    sample = np.asarray(values, dtype=np.float64)
    if sample.ndim != 1 or not sample.size or not np.isfinite(sample).all():
        raise ValueError(f"need one finite number an article, got shape {sample.shape}")
    rng = np.random.default_rng(seed)
    n, rows = len(sample), max(1, _DRAWS // len(sample))
    return np.concatenate(
        [
            sample[rng.integers(0, n, (min(rows, resamples - done), n), dtype=np.int32)].mean(1)
            for done in range(0, resamples, rows)
        ]
    )


def perplexity(total_nll: float, tokens: int) -> float:
    """exp of the mean negative log-likelihood (in nats) over `tokens` tokens."""
    if tokens < 1:
        raise ValueError(f"perplexity over {tokens} tokens is undefined")
    return math.exp(total_nll / tokens)
