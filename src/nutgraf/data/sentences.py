"""Split texts into sentences and tokens, with their places in the text."""

from __future__ import annotations

import bisect
import functools
import itertools
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence

import sentencex

# A full stop that stands alone, as tokenized text has it (`it ended . '' he left`), ends a
# sentence even if no capital follows; closing quotes belong to what they close. French has a space
# before `! »` too, and is not tokenized.
_TOKENIZED_STOP = re.compile(r"(?<=\s[.!?])(?!\s*»)(\s+''|\s+”)?\s+(?=\S)")
_WORD = re.compile(r"\w")
# The splitter takes a quoted or bracketed passage for one sentence: it does not see these marks.
_MARK = re.compile(r"(?<!\w)['’]|['’](?!\w)|[\"‘“”„‚«»‹›`()\[\]{}「」『』（）]")
_CLOSING = re.compile(rf"(?:(?:{_MARK.pattern})*(?!\S)|[”»›)\]}}]*)(?:\s+[”»›)\]}}])*")
# Full stops that the splitter takes for ends: `5 p.m. Monday`, `Ms. Hunt`.
_TIME = (
    "(?:Mon|Tues?|Wed(?:nes)?|Thu(?:rs?)?|Fri|Sat(?:ur)?|Sun)(?:day)?|Jan(?:uary)?|Feb(?:ruary)?|"
    "March|April|May|June|July|Aug(?:ust)?|Sept?(?:ember)?|Oct(?:ober)?|Nov(?:ember)?|"
    "Dec(?:ember)?|[A-Z]{1,3}T|UTC|Eastern|Central|Mountain|Pacific|Greenwich|[Ll]ocal|[Ss]harp|"
    "Christmas|New Year"
)
_NO_STOP = re.compile(
    rf"\b(?:[AaPp]\.[Mm]|Mon|Tues?|Wed|Thurs?|Fri|Sat|Sun)\.\s+(?:(?:{_TIME})\b|\(\d)"
    r"|\b(?:Ms|Mx|Govs|Amb|Atty|Pte|Cdr|Const|Lieut|Snr|Sra|Srta|approx)\.\s+(?=\w)"
    # `5 lbs. and`, `Boston, Mass. on`, `Ex-U.S.`, and the number of a line of a list.
    r"|\b(?:[b-df-hj-np-tv-xz]{2,4}|[A-Z][a-z]{1,4})\.\s+(?=[a-z])|[A-Z]\.[A-Z]\."
    r"|^\d{1,2}\.\s(?=\w)"
)
# The splitter takes the square of a line's length; longer lines are cut at a space before this one.
_LONGEST_LINE = 20_000


def split_sentences(text: str) -> list[str]:
    """Return the sentences of a text: its lines if it has several, else as the splitter cuts it.

    The splitter is sentencex (Wikimedia): offline, rule-based, aware of abbreviations, initials
    and decimal numbers. Cased and lower-cased, plain and tokenized text all work.
    """
    if "\n" in text.strip():
        return [line.strip() for line in text.splitlines() if line.strip()]
    return list(_cut(text))


def _cut(line: str) -> Iterator[str]:
    """Yield the sentences of one line. Lone punctuation joins the sentence before it."""
    sentence = ""
    stops = _TOKENIZED_STOP.sub(lambda stop: (stop.group(1) or "") + "\n", line).split("\n")
    for piece in itertools.chain.from_iterable(map(_pieces, stops)):
        for part in _segments(piece):
            if sentence and (_WORD.search(part) or len(sentence) > _LONGEST_LINE):
                yield sentence
                sentence = ""
            sentence = f"{sentence} {part.strip()}".strip()
    if sentence:
        yield sentence


def _segments(text: str) -> Iterator[str]:
    """Yield the sentences of a line, those inside quotes and brackets too."""
    cased, start, at = text != text.lower(), 0, 0
    # How far into the text that the splitter sees each mark would be.
    marks = [match.start() - n for n, match in enumerate(_MARK.finditer(text))]
    for part in sentencex.segment("en", _MARK.sub("", text).replace("…", ".")):
        stop = at + max(len(part.rstrip()), 1) - 1
        stop += bisect.bisect_right(marks, stop)
        at += len(part)
        closing = _CLOSING.match(text, stop + 1)
        end = closing.end() if closing else stop + 1
        # `"Why?" she asked`: what is said is no sentence of its own.
        goes_on = (
            cased and text[end - 1] in "\"'’”»)…" and text[end : end + 9].lstrip()[:1].islower()
        )
        no_stop = _NO_STOP.search(text, max(stop - 8, 0), stop + 16)
        if not (goes_on or (no_stop and no_stop.start() <= stop < no_stop.end() - 1)):
            yield text[start:end]
            start = end
    if start < len(text):
        yield text[start:]


def _pieces(line: str) -> Iterator[str]:
    while len(line) > _LONGEST_LINE:
        end = line.rfind(" ", 1, _LONGEST_LINE)
        end = _LONGEST_LINE if end < 0 else end + 1
        yield line[:end]
        line = line[end:]
    yield line


def article_sentences(article: str) -> list[str]:
    """Return the sentences of an article, whose lines are paragraphs and end a sentence too."""
    return [sentence for line in article.splitlines() for sentence in _cut(line)]


# Words without their vowel before another, as in `l'État`, `d'Orly`, `qu'il` and `c'est`: not what
# belongs to a name, as in `N'Golo` and `Brett D'Oliveira`.
ELISION = (
    r"(?<![^\W_])(?:(?:[ld]|(?<![^\W_] )[LD]|[Qq]u|[Jj]usqu|[Ll]orsqu|[Pp]uisqu)'(?=[^\W\d_])"
    r"|[CcJjMmNnSsTt]'(?=[a-z]{2}|[ay]\b))"
)
# Clitics are tokens of their own, as tokenized corpora have them, so that `don't` and `do n't`
# are the same; so are elided words and punctuation marks.
_CLITIC = r"'(?:s|re|ve|ll|d|m)\b"
_TOKEN = re.compile(
    rf"``|''|(?-i:{ELISION})|[^\W_]+(?=n't\b)|n't\b|{_CLITIC}|[^\W_]+(?:(?!{_CLITIC})[.,:/'-][^\W_]+)*|[^\w\s]",
    re.I,
)
# One character for one character, so that offsets stay.
TYPOGRAPHIC = str.maketrans("’‘“”", "''\"\"")


_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
# Letters that no decomposition makes plain.
_PLAIN = dict(zip("øØłŁđĐıŋ", "oOlLdDin", strict=True))
_PLAIN |= {"ß": "ss", "æ": "ae", "Æ": "AE", "œ": "oe", "Œ": "OE", "þ": "th", "Þ": "Th"}


def folded(text: str) -> tuple[str, Sequence[int]]:
    """Return a text as it is compared, and the place in `text` of each of its characters.

    Quotes are ASCII, Latin letters have no accents, digits and letters are of normal width, and
    what is not seen (format characters, byte order marks, controls) is gone.
    """
    plain = text.translate(TYPOGRAPHIC)
    if plain.isascii() and not _CONTROL.search(plain):
        return plain, range(len(text) + 1)
    pieces = [_folded(character) for character in plain]
    places = [at for at, piece in enumerate(pieces) for _ in piece]
    return "".join(pieces), [*places, len(text)]


@functools.lru_cache(maxsize=2**12)
def _folded(character: str) -> str:
    category = unicodedata.category(character)
    if category in ("Cf", "Cc", "Mn") and character not in "\n\t\r":
        hidden = category != "Mn" or "\u0300" <= character <= "\u036f"
        return "" if hidden else character
    if category[0] == "L" or category == "Nd":
        bare = unicodedata.normalize("NFKD", character)
        bare = "".join(c for c in bare if not unicodedata.combining(c))
        return bare if bare.isascii() else _PLAIN.get(character, character)
    return character


def split_tokens(text: str) -> list[str]:
    """Return lower-cased tokens with punctuation, the same for plain and tokenized text."""
    return [token for token, _, _ in token_spans(text)]


def token_spans(text: str) -> list[tuple[str, int, int]]:
    """Return `split_tokens`, each with its start and end in the text (characters)."""
    plain, places = folded(text)
    return [
        ('"' if m[0] in ("``", "''") else m[0].lower(), places[m.start()], places[m.end() - 1] + 1)
        for m in _TOKEN.finditer(plain)
    ]


def sentence_spans(
    text: str, cut: Callable[[str], Sequence[str]] = split_sentences
) -> Iterator[tuple[tuple[str, ...], int, int]]:
    """Yield the words of each sentence that `cut` returns, with its start and end in the text."""
    end = 0
    for sentence in cut(text):
        # The splitter changes white space only.
        start = text.index(sentence.split(maxsplit=1)[0], end)
        for piece in sentence.split():
            end = text.index(piece, end) + len(piece)
        words = tuple(token for token in split_tokens(sentence) if token[0].isalnum())
        if words:
            yield words, start, end
