"""Hold the words and patterns by which `numbers` reads a text, in lower case but for `ROMAN`."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable

_UNITS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
    "fifteen sixteen seventeen eighteen nineteen"
).split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
ORDINALS = (
    "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth "
    "fourteenth fifteenth sixteenth seventeenth eighteenth nineteenth twentieth"
).split()
SMALL = {word: value for value, word in enumerate(_UNITS)}
SMALL |= {word: 10 * value for value, word in enumerate(_TENS, 2)}
SCALES = {"dozen": 12, "hundred": 100, "thousand": 10**3, "lakh": 10**5, "million": 10**6}
SCALES |= {"crore": 10**7, "billion": 10**9, "milliard": 10**9, "trillion": 10**12}
SHORT_SCALES = {"k": 10**3, "m": 10**6, "b": 10**9, "mn": 10**6, "bn": 10**9, "tn": 10**12}
SHORT_SCALES |= {"mrd": 10**9, "mio": 10**6, "mln": 10**6, "bln": 10**9, "trn": 10**12}
PERIODS = {"decade": 10, "century": 100, "centurie": 100}
PARTS = {"half": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "sixth": 6, "seventh": 7}
PARTS |= {"eighth": 8, "ninth": 9, "tenth": 10}
# Evidence for a number in an article, but too often something else to count as one.
LOOSE = {"one": 1, "single": 1, "once": 1, "twice": 2, "pair": 2, "couple": 2, "duo": 2, "both": 2}
LOOSE |= {"twins": 2, "brace": 2, "thrice": 3, "trio": 3, "triplets": 3, "hat-trick": 3}
LOOSE |= {"hat trick": 3, "quartet": 4, "quadruplets": 4, "nil": 0, "no": 0, "none": 0}
LOOSE |= {"goalless": 0, "fortnight": 2} | PERIODS | {word: n for n, word in enumerate(ORDINALS, 1)}
LOOSE |= {f"{word[:-1]}ies": 1900 + 10 * n for n, word in enumerate(_TENS, 2)}
# French ones that are no English words.
_FRENCH = "deux trois quatre cinq huit neuf onze douze treize quatorze quinze seize vingt".split()
LOOSE |= dict(zip(_FRENCH, (2, 3, 4, 5, 8, 9, 11, 12, 13, 14, 15, 16, 20), strict=True))
LOOSE |= {"trente": 30, "quarante": 40, "cinquante": 50, "soixante": 60, "quinzaine": 15}
HOURS = {"noon": 720, "midday": 720, "midnight": 0}
MONEY = {"dollar": "$", "buck": "$", "euro": "€", "pound": "£", "quid": "£", "yen": "¥"}
MONEY |= {"rupee": "₹", "rouble": "₽", "ruble": "₽", "pence": "£", "p": "£", "cent": "$"}
CODES = {"usd": "$", "eur": "€", "gbp": "£", "inr": "₹", "rs": "₹", "jpy": "¥"}
SIGNS = "$£€¥₹₽"
# Limits for texts that are no news, which would take time or memory without bound: digits, words.
DIGITS, _WORDS = 100, 20


def _any(words: Iterable[str]) -> str:
    return "|".join(sorted(words, key=len, reverse=True))


_S, _UNIT, _TEN, _PART = _any(SCALES), _any(_UNITS), _any(_TENS), _any(PARTS)
_BELOW = rf"(?:(?:{_TEN})(?:[\s-](?:{_any(_UNITS[1:10])})\b)?|(?:{_UNIT}))(?:\b|(?=fold))"
_GROUP = rf"{_BELOW}(?:[\s-]+(?:{_S})\b)+"
_IN_WORDS = (
    rf"(?:eighteen|nineteen|twenty)[\s-](?:(?:{_TEN})(?:[\s-](?:{_UNIT}))?|\w+teen)\b"
    rf"|(?:{_GROUP}|(?:{_S})(?:\b|(?=fold)))(?:\s+(?:and\s+)?{_GROUP}){{0,{_WORDS}}}(?:\s+(?:and\s+)?{_BELOW})?"
    rf"|{_BELOW}"
)
# Thousands as 1,234, 12,34,567, 1.234.567, 1'234 and 1 234; a decimal comma only before what is
# counted.
_FIGURES = (
    r"(?<=[$£€])\d+(?:(?:, \d{3})+(?!\d)|(?: \.|\. )\d+)"
    r"|\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d{1,2}(?:,\d\d)+,\d{3}|\d{1,3}(?:\.\d{3}){2,}(?!\d)"
    r"|[1-9]\d{0,2}(?:[ \u00a0\u2009\u202f']\d{3})+(?:,\d{1,2}(?=\s?[%€a-z])|(?!\d))"
    r"|\d+,\d{1,2}(?=\s?[%€a-z])|\d+(?:\.\d+)?"
)
_COUNTED = (
    r"(?P<unit>\s?[%€£]|\s?\$(?!\s?\d)|[\s-]per\s?cent(?:age)?\b|[\s-](?:pct|pour\scent|prozent)\b"
    rf"|[\s-](?:d'|(?:us|hong\skong|new\szealand|[a-z]\w+n)\s)?(?:{_any(MONEY)})s?\b"
    rf"|\s(?:{_any(CODES)})\b|(?<=\d)p\b)?"
)
NUMBER = re.compile(
    rf"(?<![^\W_])(?<!\d[.,])(?:(?P<figures>{_FIGURES})|(?P<words>\b(?:{_IN_WORDS}))|(?=[½¼¾⅓⅔⅛]))"
    r"(?:[ -]?(?P<sign>[½¼¾⅓⅔⅛])|[ -](?P<mixed>\d/(?:10|[2-9]))(?![\d/])"
    rf"|[\s-]and[\s-](?P<n>an?|one|two|three)[\s-](?P<part>{_PART})s?\b)?"
    rf"(?:[\s-]?(?P<scale>{_S}|{_any(PERIODS)}|million|milliard)(?:s|e|n|en)?\b"
    rf"|\s?(?P<short>{_any(SHORT_SCALES)})\b)?(?P<ordinal>st\b|nd\b|rd\b|th\b)?{_COUNTED}"
)
# `# 400` is how tokenized text has £400.
BEFORE = re.compile(rf"(?:(?:\b[a-z]{{1,3}})?([{SIGNS}])|(#)(?=\s)|\b({_any(CODES)})\.?)\s?$")
SHARE = re.compile(
    r"\b(?=[\daefhnoqst])(?:"
    rf"\b(?<!and[\s-])(?P<n>an?|{_any(_UNITS[1:10])})[\s-](?P<part>{_PART})s?\b"
    rf"(?:\s(?:of\s)?an?(?:\s(?P<whole>{_S})\b|(?=\s(?:per\s?cent|{_any(MONEY)}))){_COUNTED})?"
    rf"|\b(?P<some>half|quarter)(?<!and a half)(?:[\s-](?:of\s)?(?:an?\s)?(?P<of>{_S})\b"
    rf"|\sa(?=\s(?:per\s?cent|{_any(MONEY)}))){_COUNTED.replace('unit', 'counted')}"
    r"|\ban?\s(?!hundred|thousand|[mb]illion)[a-z]+\sand\sa\s(?P<more>half|quarter)\b"
    r"|(?<![\w/.,])(?<!\d[ -])(?P<over>\d)/(?P<under>10|[2-9])(?![\d/]))"
)
RATIO = re.compile(
    rf"\b(?P<n>\d{{1,2}}|{_any(_UNITS)})[\s-](?:in|out\sof)[\s-](?:every\s)?(?P<of>[1-9]\d{{0,2}}|{_any(_UNITS[2:])})\b"
)
CLOCK = re.compile(
    r"\b(?=[\defhmnoqstz])(?:"  # what these begin with, for speed
    rf"(?<![\w.,:])(?P<hour>[01]?\d|2[0-3]|{_any(_UNITS[1:13])})(?:[:.](?P<minute>[0-5]\d)(?::\d\d)?)?"
    r"(?:\s?(?P<half>[ap])\.?m\b|\so'clock\b|\s(?:in\sthe\s(?:morning|afternoon|evening)|at\snight)\b)"
    rf"|\b(?:(?P<past>half|quarter|twenty|{_any(_UNITS)}|\d\d?)[\s-]past|(?P<to>quarter)\sto)"
    rf"\s(?P<whole>1[0-2]|[1-9]|{_any(_UNITS[1:13])})\b"
    r"|(?<![\w.,:])(?P<hours>[01]?\d|2[0-3])(?::|\s?h\s?)(?P<minutes>[0-5]\d)(?![\d:])"
    r"|\b(?P<plain>[01]\d[0-5]\d|2[0-3][0-5]\d)(?=\s?(?:gmt|bst|cet|[ecp][sd]t|hours|hrs)\b)"
    rf"|\b(?P<word>{_any(HOURS)})\b)"
)
PHONE = re.compile(
    r"(?<![\w.,/:-])(?:\+|\(?0)\d[\d ().-]{7,16}\d(?!\w)|\b(?:1-)?\d{3}[ .-]\d{3}-\d{4}\b"
)
DECADE = re.compile(r"(?<!\w)'?(?P<decade>[2-9]0|(?:1[5-9]|20)\d0)s\b")
LOOSELY = re.compile(rf"\b(?P<loose>{_any(LOOSE)}|half|quarter)\b(?![\s-]+(?:{_S})\b)")
ORDINAL = re.compile(
    rf"\b(?P<ten>{_TEN})(?:-(?=second\b)|[\s-](?!second\b))(?P<loose>{_any(ORDINALS[:9])})\b"
)
ROMAN = re.compile(r"(?<=[A-Za-z] )(?=[IVX]{2})(X{0,3}(?:IX|IV|V?I{0,3})|XL(?:IX|IV|V?I{0,3}))\b")
_MONTH = (
    r"(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|"
    r"sept?(?:ember)?|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)\b\.?"
)
AFTER_MONTH = re.compile(rf"\b{_MONTH}\s(?:the\s)?$")
AT = re.compile(r"\b(?:at|until|till)\s$")
# No word for what is counted, which an earlier number may have: `7 percent, not 2.`
BARE = re.compile(r"\s?(?:[.,;:!?)](?!\d)|$)")
BEFORE_MONTH = re.compile(rf"(?:\sof)?\s{_MONTH}|/")
# A rounded number is supported by one that it is rounded from: `over 13,000` by 13,624.
HEDGE = re.compile(
    r"\b(?:(?P<down>(?:more|greater) than|over|above|at least|upwards of|exceed\w*|surpass\w*"
    r"|plus de|au moins)"
    r"|(?P<up>almost|nearly|(?:less|fewer) than|under|below|up to|close to|approaching"
    r"|pres de|presque|moins de)"
    r"|(?P<both>about|around|some|roughly|approximately|approx\.?|circa|estimated|environ|quelque))"
    r"\s(?:an?\s)?$"
)
RANGE = re.compile(r"\s?(?P<to>-|–|—|/|to)\s?|\s(?:and|or)\s")


def from_words(words: str) -> int:
    """Return the value of words: `two thousand five hundred` is 2500; a scale alone counts once."""
    total = current = 0
    for word in re.findall(r"[a-z]+", words):
        if word in SMALL:
            # `nineteen eighty-four`
            current = current * (100 if 10 <= current < 21 and SMALL[word] >= 10 else 1)
            current += SMALL[word]
        elif word in SCALES and SCALES[word] < 1000:
            current = max(current, 1) * SCALES[word]
        elif word in SCALES:
            total += max(current, 1) * SCALES[word]
            current = 0
    return total + current


def as_figures(word: str) -> str:
    """Return `2` for `two` and `ii`; other words, `i` and `v` stay."""
    value = SMALL.get(word) or (roman_value(word.upper()) if len(word) > 1 else 0)
    return str(value) if value else word


def roman_value(numeral: str) -> int:
    """Return the value of a Roman numeral below 50, 0 for another word."""
    if not re.fullmatch(r"(?:XL|X{0,3})(?:IX|IV|V?I{0,3})", numeral):
        return 0
    digits = [{"I": 1, "V": 5, "X": 10, "L": 50}[letter] for letter in numeral]
    return sum(-a if a < b else a for a, b in itertools.pairwise([*digits, 0]))
