"""Compute indicators of what may be wrong with a summary, from the texts alone.

References themselves show some of what is counted here (spelling variants, facts that the article
lacks), so a rate means something only beside the references' own. Extraction, coverage, density
and compression follow Grusky et al. (2018), "Newsroom: A Dataset of 1.3 Million Summaries with
Diverse Extractive Strategies".
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence

from nutgraf.data.sentences import sentence_spans, split_tokens, token_spans
from nutgraf.evaluation.facts import Facts
from nutgraf.evaluation.name_words import FUNCTION_WORDS
from nutgraf.parallel.process_pool import map_rows

# Every key that `indicators` gives, with what it means.
MEANINGS: dict[str, str] = {
    "words": "Words of the summary, punctuation not counted.",
    "length_ratio": "Words of the summary for each word of the reference.",
    "unfinished": "1 if the summary was cut at the length limit, or ends in no stop or in `...`.",
    "repeated_trigrams": "Share of the summary's three-word sequences seen before in it, 0 to 1.",
    "repeated_sentences": "Sentences of the summary that repeat an earlier one.",
    "numbers": "Numbers in the summary, in figures or words (from two on).",
    "unsupported_numbers": "Numbers in the summary whose value, with its unit, the article lacks.",
    "cased": "1 if the summary capitalizes names, 0 if its case hides them.",
    "names": "Capitalized names in the summary; none are found in lower-cased text.",
    "unsupported_names": "Names in the summary that the article does not have.",
    "key_facts": "Different names and numbers of the reference that the article has.",
    "missing_key_facts": "Key facts of the reference that the summary lacks.",
    "coverage": "Share of the summary's tokens inside fragments copied from the article, 0 to 1.",
    "density": "Mean length, over the summary's tokens, of the copied fragment around each.",
    "copied_from": "Mean place in the article of the copied tokens, 0 its start to 1 its end.",
    "least_support": "Lowest share of a sentence's content words that are close in the article.",
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
# Stops of all scripts (Unicode's Sentence_Terminal), and what may stand behind one: quotes and
# brackets of any language, notes (`[1]`), emphasis. An ellipsis breaks off.
_STOPS = tuple(".!?։؟۔܀܁܂߹।॥၊။།༎።፧፨᙮។៕᠃᠉᥄᥅᪨᪩᪪᪫᭚᭛᭞᭟᰻᰼᱾᱿‼‽⁇⁈⁉⸮。꓿꘎꘏꛳꛷꡶꡷꣎꣏꤯꧈꧉꩝꩞꩟꫰꫱꯫﹒﹖﹗！．？｡")
_BEHIND = re.compile(
    r"(?:[\[(]\d{1,3}[\])]|[\s\"'`*_¹²³⁰-⁹†‡^|~#]|(?<=[?!])[.…]+|(?<=\s)[:;]-?[)(D])+$"
)
_CLOSERS = ("Pe", "Pf", "Pi", "Ps", "Cf", "Mn", "Sk", "So")
_BROKEN_OFF = re.compile(r"(?:\.\s?){2}\.$")

# Consecutive tokens of the article that are shown as copied: a phrase, no idiom.
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
    """Return copied fragments F(A, S): start in the summary, start in the article, length.

    Grusky et al. (2018), figure 3: from left to right, at each token the longest sequence that
    the article has too, its first occurrence if there are several. All counts are in tokens.

    Args:
        article: Tokens of the article.
        summary: Tokens of the summary.
        places: Where the article has each token, if that is known.
    """
    places = _places(article) if places is None else places
    fragments = []
    at = 0
    while at < len(summary):
        length, source = 0, 0
        for place in places.get(summary[at], ()):
            longest = min(len(summary) - at, len(article) - place)
            # A longer fragment than the longest so far has the same token behind that length.
            if length >= longest or article[place + length] != summary[at + length]:
                continue
            shared = 1
            while shared < longest and summary[at + shared] == article[place + shared]:
                shared += 1
            if shared > length:
                length, source = shared, place
        if length:
            fragments.append((at, source, length))
        at += max(length, 1)
    return fragments


class SummaryJudge:
    """Computes indicators for all summaries of an article; reads article and reference once."""

    def __init__(self, article: str, reference: str) -> None:
        self._tokens = split_tokens(article)
        self._places = _places(self._tokens)
        self._grams = {n: set(_grams(self._tokens, n)) for n in (1, 2, 3, 4)}
        starts = range(0, max(len(self._tokens) - _CLOSE // 2, 1), _CLOSE // 2)
        self._windows = [set(self._tokens[start : start + _CLOSE]) for start in starts]
        self._facts = Facts(article)
        self._key_facts = self._facts.shared(Facts(reference, self._facts))
        self._reference_words = _count_words(split_tokens(reference))

    def indicators(self, summary: str, finish_reason: str | None = None) -> dict[str, float]:
        """Return the numbers that `MEANINGS` explains, for one summary.

        With A the article's tokens, S the summary's and F(A, S) the copied fragments f:
        coverage = (sum of |f|) / |S|, density = (sum of |f|^2) / |S|, compression = |A| / |S|.
        Shares and ratios of an empty summary are 0; copied_from is 0.5, the middle, if nothing is
        copied. `finish_reason` is `length` if generation was stopped at the limit.
        """
        tokens, known = split_tokens(summary), self._facts
        copied = extractive_fragments(self._tokens, tokens, self._places)
        lengths = [length for _, _, length in copied]
        words = _count_words(tokens)
        facts = Facts(summary, known)
        trigrams = _grams(tokens, 3)
        sentences = [words for words, _, _ in sentence_spans(summary)]
        return {
            "words": words,
            "length_ratio": _ratio(words, self._reference_words),
            "unfinished": int(_unfinished(summary, finish_reason)),
            "repeated_trigrams": _ratio(len(_repeated(trigrams)), len(trigrams)),
            "repeated_sentences": len(_repeated(sentences)),
            "numbers": len(facts.numbers),
            "unsupported_numbers": sum(not known.supports(n) for n in facts.numbers),
            "cased": int(facts.cased),
            "names": len(facts.names),
            "unsupported_names": sum(not known.supports(n) for n in facts.names),
            "key_facts": len(self._key_facts),
            "missing_key_facts": sum(not facts.mentions(fact) for fact in self._key_facts),
            "coverage": _ratio(sum(lengths), len(tokens)),
            "density": _ratio(sum(n * n for n in lengths), len(tokens)),
            "copied_from": _copied_from(copied, len(self._tokens)),
            "least_support": _least_support(self._windows, sentences),
            "compression": _ratio(len(self._tokens), len(tokens)),
            **{
                f"novel_{n}grams": _ratio(sum(g not in known_grams for g in grams), len(grams))
                for n, known_grams in self._grams.items()
                for grams in [_grams(tokens, n)]
            },
        }


def indicators(
    article: str, reference: str, summary: str, finish_reason: str | None = None
) -> dict[str, float]:
    """Return what `SummaryJudge.indicators` does, for the only summary of an article."""
    return SummaryJudge(article, reference).indicators(summary, finish_reason)


def indicators_many(rows: Sequence[Row], progress: str | None = None) -> list[dict[str, float]]:
    """Return `indicators` of each row, in order, over all cores; `progress` labels a bar."""
    return map_rows(_of_row, rows, rows_per_process=_ROWS_PER_PROCESS, progress=progress)


def _of_row(row: Row) -> dict[str, float]:
    return indicators(*row)


def flagged_spans(article: str, summary: str, finish_reason: str | None = None) -> list[Span]:
    """Return where a summary goes wrong: start, end (characters) and kind, in order.

    Spans may overlap. Kinds are those of `FAULTS`, except missing_key_facts, which has no place in
    the summary. An unfinished summary has its last token marked.
    """
    known = Facts(article)
    facts = Facts(summary, known)
    spans = [
        (fact.start, fact.end, kind)
        for kind, of_kind in (
            ("unsupported_numbers", facts.numbers),
            ("unsupported_names", facts.names),
        )
        for fact in of_kind
        if not known.supports(fact)
    ]
    sentences = list(sentence_spans(summary))
    for at in _repeated([words for words, _, _ in sentences]):
        _, start, end = sentences[at]
        spans.append((start, end, "repeated_sentences"))
    tokens = token_spans(summary)
    trigrams = _grams([token for token, _, _ in tokens], 3)
    repeated = sorted({at + i for at in _repeated(trigrams) for i in range(3)})
    for first, last in _runs(repeated):
        spans.append((tokens[first][1], tokens[last][2], "repeated_trigrams"))
    if tokens and _unfinished(summary, finish_reason):
        spans.append((*tokens[-1][1:], "unfinished"))
    return sorted(spans)


def missed_key_facts(article: str, reference: str, summary: str) -> list[Span]:
    """Return where the reference has key facts that the summary lacks: start, end and kind."""
    known = Facts(article)
    facts = Facts(summary, known)
    missing = [f for f in known.shared(Facts(reference, known)) if not facts.mentions(f)]
    return sorted((fact.start, fact.end, "missing_key_facts") for fact in missing)


def copied_spans(article: str, summary: str) -> list[Span]:
    """Return where the summary has fragments of at least `COPIED` tokens of the article."""
    tokens = token_spans(summary)
    fragments = extractive_fragments(split_tokens(article), [token for token, _, _ in tokens])
    return [
        (tokens[at][1], tokens[at + length - 1][2], "copied")
        for at, _, length in fragments
        if length >= COPIED
    ]


def _unfinished(summary: str, finish_reason: str | None) -> bool:
    return finish_reason == "length" or not _ends_in_a_stop(summary)


def _ends_in_a_stop(text: str) -> bool:
    end, longer = text[-200:], ""
    while end != longer:
        longer, end = end, _BEHIND.sub("", end)
        if end and unicodedata.category(end[-1]) in _CLOSERS:
            end = end[:-1]
    return end.endswith(_STOPS) and not _BROKEN_OFF.search(end)


def _copied_from(copied: Sequence[tuple[int, int, int]], of: int) -> float:
    """Return the mean place of copied tokens among the article's `of`, 0 the first, 1 the last."""
    places = [source + i for _, source, length in copied for i in range(length)]
    return sum(places) / len(places) / max(of - 1, 1) if places else 0.5


def _places(article: Sequence[str]) -> Places:
    places = defaultdict(list)
    for place, token in enumerate(article):
        places[token].append(place)
    return places


def _least_support(windows: Sequence[set[str]], sentences: Sequence[Sequence[str]]) -> float:
    """Return the lowest support of a sentence: the share of its content words in one window.

    A sentence made of pieces from far apart, or of words the article lacks, has little support.
    The windows cover the article, each overlapping half of the next.
    """
    contents = [content for words in sentences if (content := set(words) - FUNCTION_WORDS)]
    return min(
        (max(len(content & window) for window in windows) / len(content) for content in contents),
        default=0.0,
    )


def _count_words(tokens: Sequence[str]) -> int:
    return sum(token[0].isalnum() for token in tokens)


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def _grams(tokens: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(tokens[at : at + n]) for at in range(len(tokens) - n + 1)]


def _repeated(elements: Sequence[Hashable]) -> list[int]:
    """Return the indices of elements that repeat an earlier one."""
    first: dict[Hashable, int] = {}
    return [at for at, element in enumerate(elements) if first.setdefault(element, at) != at]


def _runs(indices: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield first and last of each run of consecutive indices."""
    for _, group in itertools.groupby(enumerate(indices), lambda pair: pair[1] - pair[0]):
        run = [index for _, index in group]
        yield run[0], run[-1]
