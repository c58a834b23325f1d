"""Split a text into the tokens that ROUGE compares, and count the letters that stay.

Two tokenizers: rouge-score's own, which keeps a-z and 0-9 and stems as English does, and one for
every script. Where words are not spaced, its tokens are characters, as in the ROUGE of LCSTS (Hu et
al. 2015, "LCSTS: A Large Scale Chinese Short Text Summarization Dataset"); else they are what
stands between spaces and punctuation, unstemmed, as in that of XL-Sum (Hasan et al. 2021) for
languages without a stemmer.
"""

from __future__ import annotations

import functools
import re
import string
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Protocol

import regex
from rouge_score import tokenize as rouge_tokenize

from nutgraf.config.evaluation import RougeTokenizer
from nutgraf.core.errors import UserError

# Below this share of the letters of an average reference, rouge-score compares pieces of words.
# French has 96%, Polish 94, Turkish 89, Czech 80, Vietnamese 70.
MIN_LETTERS = 0.8
_LETTER = regex.compile(r"\p{L}\p{M}*")
# Scripts that put no spaces between words, and the mark of a long vowel that two of them share.
_UNSPACED = "ー" + "".join(
    rf"\p{{Script={script}}}"
    for script in "Han Hiragana Katakana Bopomofo Thai Lao Khmer Myanmar Tai_Le New_Tai_Lue "
    "Tai_Tham Tai_Viet Javanese Balinese".split()
)
_WORD = r"\p{L}\p{N}"
_TOKEN = regex.compile(
    rf"[[{_WORD}]&&[{_UNSPACED}]]\p{{M}}*|[[{_WORD}]--[{_UNSPACED}]][[{_WORD}\p{{M}}]--[{_UNSPACED}]]*",
    regex.V1,
)
_COUNTED = frozenset(string.ascii_lowercase)
_LATIN = re.compile("[a-z0-9]")
_OTHER_DIGIT = re.compile(r"[^\D0-9]")
# What writers put or leave out in the same word: joiners and soft hyphens, Arabic vowel signs and
# stretched lines, Hebrew points.
_OPTIONAL = regex.compile(
    r"[\p{Cf}\u0640\u064B-\u0652\u0670\u0591-\u05BD\u05BF\u05C1\u05C2\u05C4\u05C5\u05C7]+"
)
# A Turkish i has a dot in both cases or in none; an apostrophe may be a letter of its own kind.
_FOLDED = {"i\u0307": "i", "ı": "i", "\u02bc": "'"}


class Tokenizer(Protocol):
    """Split texts, for rouge_score."""

    def tokenize(self, text: str) -> list[str]:
        """Return the tokens of a text as ROUGE compares them."""


class _RougeScore:
    """Split as rouge_score does; stems are remembered, for stemming takes most of the time."""

    def __init__(self) -> None:
        # Loaded here, for it brings scipy: a second, in every process of a study.
        from nltk.stem.porter import PorterStemmer

        self.stem = functools.lru_cache(maxsize=2**16)(PorterStemmer().stem)

    def tokenize(self, text: str) -> list[str]:
        return rouge_tokenize.tokenize(text, self)


class _Unicode:
    """Split into words that are equal whatever their case, composition or width."""

    def tokenize(self, text: str) -> list[str]:
        text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
        for written, folded in _FOLDED.items():
            text = text.replace(written, folded)
        text = _OTHER_DIGIT.sub(lambda digit: str(unicodedata.decimal(digit[0])), text)
        return _TOKEN.findall(_OPTIONAL.sub("", text))


@functools.cache  # one a process
def rouge_tokenizer(name: RougeTokenizer = "rouge-score") -> Tokenizer:
    """Return the tokenizer of this name."""
    return _Unicode() if name == "unicode" else _RougeScore()


def rouge_tokens(text: str, name: RougeTokenizer = "rouge-score") -> list[str]:
    """Return the tokens that ROUGE compares."""
    return rouge_tokenizer(name).tokenize(text)


def ngrams(tokens: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    """Return how often each sequence of `n` tokens occurs."""
    return Counter(zip(*(tokens[i:] for i in range(n)), strict=False))


def ngram_fmeasure(one: Counter[tuple[str, ...]], other: Counter[tuple[str, ...]]) -> float:
    """Return the F-measure of ROUGE-n of two texts' n-grams, 0 to 1; 0 if neither has any."""
    total = one.total() + other.total()
    return 2 * (one & other).total() / total if total else 0.0


def has_rouge_tokens(text: str, name: RougeTokenizer = "rouge-score") -> bool:
    """Return whether a text has a token: for rouge-score a letter a-z or a digit 0-9."""
    return bool(rouge_tokens(text, name) if name == "unicode" else _LATIN.search(text.lower()))


def letters_counted(text: str) -> float:
    """Return which share of a text's letters rouge-score counts, 0 to 1; 1 if it has no letter.

    A letter with its marks is one, and counts if it is one of a-z.
    """
    if text.isascii():
        return 1.0
    letters = _LETTER.findall(text.lower())
    return sum(map(_COUNTED.__contains__, letters)) / len(letters) if letters else 1.0


def check_letters(shares: Iterable[float], what: str, knob: str) -> float:
    """Return the mean of `letters_counted` of references. Raise UserError if it is too low.

    A row of which nothing counts weighs as much in a mean of ROUGE as any other, so it does here.
    `what` names the references, `knob` what takes the other tokenizer.
    """
    values = list(shares)
    share = sum(values) / len(values) if values else 1.0
    if share < MIN_LETTERS:
        raise UserError(
            f"{what}: rouge-score counts only the letters a-z, {100 * share:.1f}% of the "
            f"references' letters ({100 * MIN_LETTERS:.0f}% at least): set {knob}"
        )
    return share
