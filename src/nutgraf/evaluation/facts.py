"""Find the names and numbers of a text, and check whether another text has them.

Rules without a model, so that anybody can check them by eye. A number is compared by its value
(2,500 = 2500 = 2.5 thousand), a name by its words: `Mr Smith` is supported by `John Smith`, but
`John Smith` not by `John Brown` and `Alan Smith`.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from re import Match

from nutgraf.data.sentences import TYPOGRAPHIC

_UNITS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
    "fifteen sixteen seventeen eighteen nineteen"
)
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_ORDINALS = "first second third fourth fifth sixth seventh eighth ninth tenth"
_SMALL = {word: value for value, word in enumerate(_UNITS.split())}
_SMALL |= {word: 10 * value for value, word in enumerate(_TENS.split(), 2)}
_SCALES = {"dozen": 12, "hundred": 100, "thousand": 10**3, "million": 10**6}
_SCALES |= {"billion": 10**9, "trillion": 10**12}
_SHORT_SCALES = {"k": 10**3, "m": 10**6, "mn": 10**6, "bn": 10**9, "tn": 10**12}
# Evidence for a number in an article, but too often something else to count as one.
_LOOSE = {"one": 1, "once": 1, "twice": 2, "pair": 2, "couple": 2}
_LOOSE |= {word: value for value, word in enumerate(_ORDINALS.split(), 1)}
# Limits for texts that are no news, which would take time or memory without bound: of a number its
# digits and words, of a name its words. Title case over a whole page is many names.
_DIGITS, _WORDS, _NAME_WORDS = 100, 20, 20
_NUMBER_WORD = "|".join([*_SMALL, *_SCALES])
_NUMBER = re.compile(
    r"(?<![^\W_])(?<!\d[.,])(?P<figures>\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?)"
    rf"(?:[\s-]?(?P<scale>{'|'.join(_SCALES)})s?\b|\s?(?P<short>bn|mn|tn|[mk])\b)?"
    rf"|\b(?P<loose>{'|'.join(_LOOSE)})\b(?![\s-]+(?:{'|'.join(_SCALES)})\b)"
    rf"|\b(?P<words>(?:{_NUMBER_WORD})(?:(?:-|\s+(?:and\s+)?)(?:{_NUMBER_WORD})){{0,{_WORDS}}})\b",
    re.IGNORECASE,
)

# `U.S.`, `U.S`, `O'Neill`, `Smith's`; a hyphen parts words.
_WORD = re.compile(r"(?:[^\W\d_]\.){2,}|(?:[^\W\d_]\.)+[^\W\d_]\b|[^\W_]+(?:'[^\W_]+)*")
_TITLES = set(
    "mr mrs ms miss mister sir dame lord lady dr prof professor rev st sgt capt lt col gen maj "
    "cpl pc det insp supt hon sen rep gov president prime minister chancellor king queen prince "
    "princess duke duchess pope captain general colonel judge justice senator governor secretary "
    "mayor chief".split()
)
# Capitals of grammar, not of a name.
FUNCTION_WORDS = set(
    "a an the this that these those i i'm i've i'd i'll he she it we you they his her its our your "
    "their my me him us them who whom whose which what when where why how if then but and or nor "
    "so yet as at by for from in into of off on onto out over to up upon with within without under "
    "until unless since while although though because before after about above across against "
    "along among around behind below between beyond during except inside like near per through "
    "throughout toward towards than there here no not yes all any both each every few many more "
    "most much none other others several some such same another is are was were be been being am "
    "do does did done has have had can could may might must shall should will would let now also "
    "just only even still too very never ever however meanwhile".split()
)
# `Federal Bureau of Investigation`, of which an acronym may be made.
_LONG_NAME = re.compile(r"(?<!\w)[A-Z]\w+(?: (?:(?:of|for|and|the|on) )*[A-Z]\w+)+")
_SINGLE = re.compile(r"[^\W\d_]")


@dataclass(frozen=True)
class Number:
    """A number from `start` to `end` (characters), with the values that it may mean."""

    start: int
    end: int
    values: frozenset[Decimal]


@dataclass(frozen=True)
class Name:
    """A name from `start` to `end` (characters), as normal forms of its words."""

    start: int
    end: int
    words: tuple[str, ...]


Fact = Number | Name


class Facts:
    """The names and numbers of one text, in order of appearance.

    Without `article` every capitalized word may be of a name. With it (for a summary), the first
    word of a sentence counts as a name only if the article has it capitalized inside a sentence, or
    has another first name before the surname that follows: a lone `Obama` that the article lacks
    looks like `Blaze`. Lower-cased text has numbers, but no names. `cased` is False for it, and for
    text that has most of the article's names in lower case.
    """

    def __init__(self, text: str, article: Facts | None = None) -> None:
        plain = text.translate(TYPOGRAPHIC)
        words = [match for match in _WORD.finditer(plain) if not match[0].isdigit()]
        runs = list(_runs(plain, words))
        self.cased = text != text.lower()
        self._lower = {match[0] for match in words if match[0].islower()}
        capitalized = itertools.chain.from_iterable(runs)
        self._inner = {_normal(m[0]) for m in capitalized if not _opens_sentence(plain, m)}
        self._words = {_normal(match[0]) for match in words}
        self._runs = {name.words for run in runs if (name := _name(run))}
        self._parts = {part for run in self._runs for part in _parts(run)}
        self._singles = self._lower | _TITLES | {run[-1] for run in self._runs}
        self._acronyms = {_acronym(match[0]) for match in _LONG_NAME.finditer(plain)}
        if article:
            hidden = self._lower & (article._inner - article._lower)
            self.cased = self.cased and len(hidden) <= len(self._inner & article._inner)
            runs = [_without_opening(plain, run, self, article) for run in runs]
        self.names = [name for run in runs if (name := _name(run))]
        numbers = [(match, _values(match)) for match in _NUMBER.finditer(plain)]
        self._values = {value for _, values in numbers for value in values}
        self.numbers = [Number(*m.span(), values) for m, values in numbers if not m["loose"]]

    def supports(self, fact: Fact) -> bool:
        """Return whether this text has a value of the number, or all words of the name.

        The words of a longer name are together here, or fall into pieces that are, or that are
        surnames or common words here: the first name of one person and the surname of another do
        not support a third.
        """
        if isinstance(fact, Number):
            return not self._values.isdisjoint(fact.values)
        words = fact.words
        if len(words) == 1:
            return words[0] in self._acronyms or any(w in self._words for w in _variants(words[0]))
        if _acronym(" ".join(words).title()) in self._words:
            return True
        reached = {0}
        for end in range(1, len(words) + 1):
            if any(at in reached and self._has_piece(words[at:end]) for at in range(end)):
                reached.add(end)
        return len(words) in reached

    def mentions(self, fact: Fact) -> bool:
        """Return whether this text has the fact or a shorter name: `Smith` for `John Smith`.

        In text that hides its names the last word of one is enough.
        """
        if self.supports(fact):
            return True
        if isinstance(fact, Number):
            return False
        if not self.cased:
            return fact.words[-1] in self._words
        return any(words in self._runs for words in _parts(fact.words, shortest=1))

    def shared(self, other: Facts) -> list[Fact]:
        """Return the different facts of `other` that this text supports, names in longest form."""
        numbers = {n.values: n for n in other.numbers if self.supports(n)}
        names: list[Name] = []
        for name in sorted(other.names, key=lambda n: -len(n.words)):
            covered = {part for n in names for part in _parts(n.words, shortest=1)}
            if name.words not in covered and self.supports(name):
                names.append(name)
        return [*numbers.values(), *names]

    def _has_piece(self, words: tuple[str, ...]) -> bool:
        return words in self._parts or (len(words) == 1 and words[0] in self._singles)


def _runs(plain: str, words: list[Match[str]]) -> Iterator[list[Match[str]]]:
    """Yield capitalized words that are together; words of grammar and possessives end a run."""
    run: list[Match[str]] = []
    for match in words:
        word = match[0]
        capitalized = word != word.lower() and _normal(word) not in FUNCTION_WORDS
        goes_on = capitalized and len(run) < _NAME_WORDS
        if run and not (goes_on and _continues(run[-1], plain[run[-1].end() : match.start()])):
            yield run
            run = []
        if capitalized:
            run.append(match)
    if run:
        yield run


def _continues(last: Match[str], gap: str) -> bool:
    """Return whether a capitalized word after `gap` is of the same name as the last one."""
    word = last[0]
    if word.endswith(("'s", "'")):
        return False
    abbreviated = _normal(word) in _TITLES or _SINGLE.fullmatch(word)
    return gap in (" ", "-", " & ") or (gap == ". " and bool(abbreviated))


def _name(run: list[Match[str]]) -> Name | None:
    """Return the name in a run, without titles before it; single letters do not count."""
    while run and _normal(run[0][0]) in _TITLES:
        run = run[1:]
    words = tuple(_normal(match[0]) for match in run if not _SINGLE.fullmatch(match[0]))
    if not words:
        return None
    end = run[-1].start() + len(run[-1][0].removesuffix("'s"))
    return Name(run[0].start(), end, words)


def _without_opening(
    plain: str, run: list[Match[str]], own: Facts, article: Facts
) -> list[Match[str]]:
    """Return the run without a first word that is capitalized only for opening a sentence."""
    first = _normal(run[0][0])
    if first in _TITLES or first in article._inner or not _opens_sentence(plain, run[0]):
        return run
    if first in article._lower or first in own._lower:
        return run[1:]
    rest = _name(run[1:])
    if not rest:
        return []
    surname = any(len(words) > 1 and words[-1:] == rest.words for words in article._runs)
    return run if surname or not article.supports(rest) else run[1:]


def _opens_sentence(plain: str, match: Match[str]) -> bool:
    before = plain[max(0, match.start() - 8) : match.start()]
    if before.endswith(('"', "'", "`", "`` ", "' ")):
        return True
    before = before.rstrip(" ([")
    return not before or before[-1] in ".!?:;\n\u2022|" or before.endswith("--")


def _parts(words: tuple[str, ...], shortest: int = 2) -> Iterator[tuple[str, ...]]:
    """Yield the name and every sequence of at least `shortest` of its words."""
    yield words
    for start in range(len(words)):
        for end in range(start + shortest, len(words) + 1):
            yield words[start:end]


@functools.lru_cache(maxsize=2**16)
def _normal(word: str) -> str:
    """Return a word in lower case, without dots and possessive; `US` is not the pronoun."""
    bare = word.removesuffix("'s").rstrip("'").replace(".", "")
    return "US" if bare == "US" or (bare == "us" and "." in word) else bare.lower()


def _acronym(name: str) -> str:
    """Return `US` for United States, `fbi` for Federal Bureau of Investigation."""
    return _normal("".join(word[0] for word in name.split() if word[0].isupper()))


def _variants(word: str) -> Iterator[str]:
    """Yield a word, its singular and plural, and forms as Iraqi of Iraq, American of America."""
    yield word
    for ending in ("s", "n", "an", "ian", "i"):
        if len(word) > 3:
            yield word + ending
        if word.endswith(ending) and len(word) > len(ending) + 3:
            yield word.removesuffix(ending)


def _values(match: Match[str]) -> frozenset[Decimal]:
    """Return what a number may mean: `50m` is fifty million or fifty metres."""
    if match["loose"]:
        return frozenset({Decimal(_LOOSE[match["loose"].lower()])})
    if match["words"]:
        return frozenset({Decimal(_from_words(match["words"].lower()))})
    plain = Decimal(match["figures"].replace(",", "")[:_DIGITS])
    if match["scale"]:
        return frozenset({plain * _SCALES[match["scale"].lower()]})
    if match["short"]:
        scaled = plain * _SHORT_SCALES[match["short"].lower()]
        return frozenset({scaled, plain} if len(match["short"]) == 1 else {scaled})
    return frozenset({plain})


def _from_words(words: str) -> int:
    """Return the value of words: `two thousand five hundred` is 2500; a scale alone counts once."""
    total = current = 0
    for word in re.findall(r"[a-z]+", words):
        if word in _SMALL:
            current += _SMALL[word]
        elif word in _SCALES and _SCALES[word] < 1000:
            current = max(current, 1) * _SCALES[word]
        elif word in _SCALES:
            total += max(current, 1) * _SCALES[word]
            current = 0
    return total + current
