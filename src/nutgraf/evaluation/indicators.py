"""What is wrong with a summary, from the texts alone: indicators, not verdicts.

References themselves show some of what is counted here (spelling variants, facts that the article
lacks), so a rate means something only beside the references' own. Extraction, coverage, density
and compression follow Grusky et al. (2018), "Newsroom: A Dataset of 1.3 Million Summaries with
Diverse Extractive Strategies".
"""

from __future__ import annotations

import itertools
import re
from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence

from nutgraf.data.sentences import sentence_spans, split_tokens, token_spans
from nutgraf.evaluation.facts import FUNCTION_WORDS, Facts
from nutgraf.parallel.process_pool import MapRows, map_rows

# Every key that `indicators` gives, with what it means.
MEANINGS: dict[str, str] = {
    "words": "Words of the summary, punctuation not counted.",
    "length_ratio": "Words of the summary for each word of the reference.",
    "unfinished": "1 where the summary was cut at the length limit or ends without a full stop.",
    "repeated_trigrams": "Share of the summary's three-word sequences seen before in it, 0 to 1.",
    "repeated_sentences": "Sentences of the summary that stand in it before.",
    "numbers": "Numbers in the summary, in figures or words (from two on).",
    "unsupported_numbers": "Numbers in the summary whose value the article does not have.",
    "cased": "1 where the summary capitalizes names, 0 where it is lower-cased and hides them.",
    "names": "Capitalized names in the summary; none are found in lower-cased text.",
    "unsupported_names": "Names in the summary that the article does not have.",
    "key_facts": "Different names and numbers of the reference that the article has.",
    "missing_key_facts": "Key facts of the reference that the summary lacks.",
    "coverage": "Share of the summary's tokens inside fragments copied from the article, 0 to 1.",
    "density": "Mean length, over the summary's tokens, of the copied fragment around each.",
    "copied_from": "Mean place in the article of the copied tokens, 0 its start to 1 its end.",
    "least_support": "Lowest share of a sentence's content words that stand close in the article.",
    "compression": "Tokens of the article for each token of the summary.",
    "novel_1grams": "Share of the summary's tokens that the article does not have, 0 to 1.",
    "novel_2grams": "Share of its two-token sequences that the article does not have, 0 to 1.",
    "novel_3grams": "Share of its three-token sequences that the article does not have, 0 to 1.",
    "novel_4grams": "Share of its four-token sequences that the article does not have, 0 to 1.",
}

# Indicators of which one is enough to call a summary faulty; the others are read as averages.
FAULTS = (
    "unfinished",
    "repeated_trigrams",
    "repeated_sentences",
    "unsupported_numbers",
    "unsupported_names",
    "missing_key_facts",
)
_FINISHED = re.compile(r"[.!?…][\s\"'`’”)\]]*$")

# Tokens that have to stand together in the article to be shown as copied: a phrase, no idiom.
COPIED = 4

# Tokens of an article, two or three sentences, that a summary's sentence may draw on as one.
_CLOSE = 80
# A start of a process takes as long as this many rows.
_ROWS_PER_PROCESS = 200

Span = tuple[int, int, str]
Places = Mapping[str, Sequence[int]]
# article, reference, summary, finish reason
Row = tuple[str, str, str, str | None]


def extractive_fragments(
    article: Sequence[str], summary: Sequence[str], places: Places | None = None
) -> list[tuple[int, int, int]]:
    """Copied fragments F(A, S): start in the summary, start in the article, length, in tokens.

    Grusky et al. (2018), figure 3: from left to right, at each token the longest sequence that
    the article has too, its first occurrence where there are several. `places` are those of the
    article's tokens, if they are at hand.
    """
    places = _places(article) if places is None else places
    found = []
    at = 0
    while at < len(summary):
        length, source = 0, 0
        for place in places.get(summary[at], ()):
            if at + length == len(summary):
                break  # nothing can be longer
            if (
                article[place + length : place + length + 1]
                != summary[at + length : at + length + 1]
            ):
                continue  # nor can this one
            shared = 1
            while (
                at + shared < len(summary)
                and place + shared < len(article)
                and summary[at + shared] == article[place + shared]
            ):
                shared += 1
            if shared > length:
                length, source = shared, place
        if length:
            found.append((at, source, length))
        at += max(length, 1)
    return found


class Judge:
    """An article and its reference, looked through once for all summaries of the article."""

    def __init__(self, article: str, reference: str) -> None:
        self._source = split_tokens(article)
        self._places = _places(self._source)
        self._grams = {n: set(_grams(self._source, n)) for n in (1, 2, 3, 4)}
        starts = range(0, max(len(self._source) - _CLOSE // 2, 1), _CLOSE // 2)
        self._stretches = [set(self._source[start : start + _CLOSE]) for start in starts]
        self._known = Facts(article)
        self._key = self._known.shared(Facts(reference, self._known))
        self._reference_words = _words(split_tokens(reference))

    def indicators(self, summary: str, finish_reason: str | None = None) -> dict[str, float]:
        """Return the numbers that `MEANINGS` explains, for one summary.

        With A the article's tokens, S the summary's and F(A, S) the copied fragments f:
        coverage = (sum of |f|) / |S|, density = (sum of |f|^2) / |S|, compression = |A| / |S|.
        Shares and ratios of an empty summary are 0; copied_from is 0.5, the middle, if nothing is
        copied. `finish_reason` is `length` if generation was stopped at the limit.
        """
        source, written, known = self._source, split_tokens(summary), self._known
        copied = extractive_fragments(source, written, self._places)
        lengths = [length for _, _, length in copied]
        words = _words(written)
        told = Facts(summary, known)
        trigrams = _grams(written, 3)
        told_sentences = [words for words, _, _ in sentence_spans(summary)]
        found: dict[str, float] = {
            "words": words,
            "length_ratio": _ratio(words, self._reference_words),
            "unfinished": int(_unfinished(summary, finish_reason)),
            "repeated_trigrams": _ratio(len(_repeated(trigrams)), len(trigrams)),
            "repeated_sentences": len(_repeated(told_sentences)),
            "numbers": len(told.numbers),
            "unsupported_numbers": sum(not known.supports(n) for n in told.numbers),
            "cased": int(told.cased),
            "names": len(told.names),
            "unsupported_names": sum(not known.supports(n) for n in told.names),
            "key_facts": len(self._key),
            "missing_key_facts": sum(not told.mentions(fact) for fact in self._key),
            "coverage": _ratio(sum(lengths), len(written)),
            "density": _ratio(sum(n * n for n in lengths), len(written)),
            "copied_from": _copied_from(copied, len(source)),
            "least_support": _least_support(self._stretches, told_sentences),
            "compression": _ratio(len(source), len(written)),
        }
        for n, had in self._grams.items():
            grams = _grams(written, n)
            found[f"novel_{n}grams"] = _ratio(sum(g not in had for g in grams), len(grams))
        return found


def indicators(
    article: str, reference: str, summary: str, finish_reason: str | None = None
) -> dict[str, float]:
    """Return what `Judge.indicators` does, for the only summary of an article."""
    return Judge(article, reference).indicators(summary, finish_reason)


def indicators_many(
    rows: Sequence[Row], progress: str | None = None, over: MapRows = map_rows
) -> list[dict[str, float]]:
    """`indicators` of each row, in order, over all cores as `cores.spread`, or over a cluster."""
    return over(_of_row, rows, rows_per_process=_ROWS_PER_PROCESS, progress=progress)


def _of_row(row: Row) -> dict[str, float]:
    return indicators(*row)


def flagged_spans(article: str, summary: str, finish_reason: str | None = None) -> list[Span]:
    """Where the summary goes wrong: start, end (characters) and kind, in order; they may overlap.

    Kinds are those of `KINDS`, but for what the summary lacks, which has no place in it: `missed`.
    Of an unfinished summary the last token is meant.
    """
    known = Facts(article)
    told = Facts(summary, known)
    found = [(n.start, n.end, "unsupported_numbers") for n in told.numbers if not known.supports(n)]
    found += [(n.start, n.end, "unsupported_names") for n in told.names if not known.supports(n)]
    told_sentences = list(sentence_spans(summary))
    for at in _repeated([words for words, _, _ in told_sentences]):
        _, start, end = told_sentences[at]
        found.append((start, end, "repeated_sentences"))
    placed = token_spans(summary)
    trigrams = _grams([token for token, _, _ in placed], 3)
    covered = sorted({at + i for at in _repeated(trigrams) for i in range(3)})
    for first, last in _stretches(covered):
        found.append((placed[first][1], placed[last][2], "repeated_trigrams"))
    if placed and _unfinished(summary, finish_reason):
        found.append((*placed[-1][1:], "unfinished"))
    return sorted(found)


def missed_key_facts(article: str, reference: str, summary: str) -> list[Span]:
    """Where the reference has the key facts that the summary lacks, of kind missing_key_facts."""
    known = Facts(article)
    told = Facts(summary, known)
    lacking = [f for f in known.shared(Facts(reference, known)) if not told.mentions(f)]
    return sorted((fact.start, fact.end, "missing_key_facts") for fact in lacking)


def copied_spans(article: str, summary: str, shortest: int = COPIED) -> list[Span]:
    """Where the summary has fragments of at least `shortest` tokens of the article; kind copied."""
    placed = token_spans(summary)
    found = extractive_fragments(split_tokens(article), [token for token, _, _ in placed])
    return [
        (placed[at][1], placed[at + length - 1][2], "copied")
        for at, _, length in found
        if length >= shortest
    ]


def _unfinished(summary: str, finish_reason: str | None) -> bool:
    return finish_reason == "length" or not _FINISHED.search(summary)


def _copied_from(copied: Sequence[tuple[int, int, int]], of: int) -> float:
    """Mean place of the copied tokens among the article's `of` tokens, 0 the first, 1 the last."""
    places = [source + i for _, source, length in copied for i in range(length)]
    return sum(places) / len(places) / max(of - 1, 1) if places else 0.5


def _places(article: Sequence[str]) -> Places:
    """Where each token stands in the article, by token."""
    places = defaultdict(list)
    for place, token in enumerate(article):
        places[token].append(place)
    return places


def _least_support(stretches: Sequence[set[str]], told: Sequence[Sequence[str]]) -> float:
    """For each sentence the largest share of its content words in one stretch; the lowest of all.

    A sentence made of pieces from far apart, or of words the article lacks, has little support.
    `stretches` are the words of all stretches of the article, half over each other.
    """
    contents = [content for words in told if (content := set(words) - FUNCTION_WORDS)]
    return min(
        (max(len(content & had) for had in stretches) / len(content) for content in contents),
        default=0.0,
    )


def _words(found: Sequence[str]) -> int:
    return sum(token[0].isalnum() for token in found)


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def _grams(found: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(found[at : at + n]) for at in range(len(found) - n + 1)]


def _repeated(found: Sequence[Hashable]) -> list[int]:
    """Indices of the elements that stand before already."""
    first: dict[Hashable, int] = {}
    return [at for at, element in enumerate(found) if first.setdefault(element, at) != at]


def _stretches(indices: Sequence[int]) -> Iterator[tuple[int, int]]:
    """First and last of each run of consecutive indices."""
    for _, group in itertools.groupby(enumerate(indices), lambda pair: pair[1] - pair[0]):
        run = [index for _, index in group]
        yield run[0], run[-1]
