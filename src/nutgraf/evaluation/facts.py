"""Find the names and numbers of a text, and check whether another text has them.

Rules without a model, so that anybody can check them by eye. A number is compared by value and unit
(2,500 = 2.5 thousand, but not £2,500), a name by its words: `Mr Smith` is supported by `John
Smith`, but `John Smith` not by `John Brown` and `Alan Smith`.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from re import Match
from typing import Any

from nutgraf.data.sentences import ELISION, folded
from nutgraf.evaluation import numbers
from nutgraf.evaluation.name_words import FUNCTION_WORDS, NATIONS, OPENERS, TITLES
from nutgraf.evaluation.number_patterns import as_figures
from nutgraf.evaluation.numbers import Number

# A limit for texts that are no news: title case over a whole page is many names.
_NAME_WORDS = 20

# `U.S.`, `U.S`, `J. K.`, `O'Neill`, `Smith's`; a hyphen parts words, and `d'` is of no name.
_WORD = re.compile(
    rf"{ELISION}|(?:[^\W\d_]\. ?){{2,}}(?<! )|(?:[^\W\d_]\.)+[^\W\d_]\b|[^\W_]+(?:'[^\W_]+)*"
)
# `Federal Bureau of Investigation`, of which an acronym may be made.
_LONG_NAME = re.compile(r"(?<!\w)(?!The\b)[A-Z]\w+(?: (?:(?:of|for|and|the|on) )*[A-Z]\w+)+")
_SINGLE = re.compile(r"[^\W\d_]")
# `FBI`, `U.N.`; a word among others in capitals is of a headline.
_ACRONYM = re.compile(r"(?:[A-Z]\.?){2,6}")


@dataclass(frozen=True)
class Name:
    """A name from `start` to `end` (characters), as normal forms of its words.

    `acronyms` are those of them that are written as one: `FBI`, not `Fbi`.
    """

    start: int
    end: int
    words: tuple[str, ...]
    acronyms: frozenset[str] = frozenset()


Fact = Number | Name


class Facts:
    """The names and numbers of one text, in order of appearance.

    Without `article` every capitalized word may be of a name. With it (for a summary), the first
    word of a sentence counts as a name only if the article has it capitalized inside a sentence, or
    has another first name before the surname that follows: a lone `Obama` that the article lacks
    looks like `Blaze`. Text in one case has numbers, but no names. `cased` is False for it, and for
    text that has most of the article's names in lower case.
    """

    def __init__(self, text: str, article: Facts | None = None) -> None:
        plain, places = folded(text)
        words = [m for m in _WORD.finditer(plain) if not (m[0].isdigit() or m[0].endswith("'"))]
        runs = [] if text.isupper() else list(_runs(plain, words))
        self.cased = text not in (text.lower(), text.upper())
        normal = [_normal(match[0]) for match in words]
        self._lower = {match[0] for match in words if match[0].islower()}
        capitalized = itertools.chain.from_iterable(runs)
        self._inner = {_normal(m[0]) for m in capitalized if not _opens_sentence(plain, m)}
        self._words = set(normal)
        self._together = set(itertools.pairwise(normal))
        self._initials = set(_acronyms(words))
        if article:
            hidden = self._lower & (article._inner - article._lower)
            self.cased = self.cased and len(hidden) <= len(self._inner & article._inner)
            runs = [_without_opening(plain, run, self, article) for run in runs]
        else:
            runs = [_without_opener(plain, run) for run in runs]
        read = numbers.find_numbers(plain)
        counted = [number for number in read if not number.loose]
        names = [name for run in runs if (name := _name(run))]
        # `Millionen`, `5 US dollars`
        names = [n for n in names if not any(x.start <= n.start < n.end <= x.end for x in counted)]
        self._runs = {name.words for name in names}
        self._capitals = {word for run in self._runs for word in run}
        self._parts = {part for run in self._runs for part in _parts(run)}
        self._singles = self._lower | TITLES | {run[-1] for run in self._runs}
        self._acronyms = {_acronym(match[0]) for match in _LONG_NAME.finditer(plain)}
        self._values = {value for number in read for value in number.values}
        self.names = [_in_text(name, places) for name in names]
        self.numbers = [_in_text(number, places) for number in counted]

    def supports(self, fact: Fact) -> bool:
        """Return whether this text has a value of the number, or all words of the name.

        The words of a longer name are together here, or fall into pieces that are, or that are
        surnames or common words here: the first name of one person and the surname of another do
        not support a third. Initials count as written (`FBI`), and common words alone do if they
        are together.
        """
        if isinstance(fact, Number):
            return numbers.supports(self._values, fact)
        words = fact.words
        if len(words) == 1:
            return self._has_word(fact)
        if _acronym(" ".join(words).title()) in self._initials:
            return True
        reached = {0}
        for end in range(1, len(words) + 1):
            if any(at in reached and self._has_piece(fact, at, end) for at in range(end)):
                reached.add(end)
        own = self._capitals - TITLES
        together = all(pair in self._together for pair in itertools.pairwise(words))
        return len(words) in reached and (together or not own.isdisjoint(words))

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
        known = [number for number in other.numbers if self.supports(number)]
        by_value = {frozenset(v for v in number.values if v[0] != "?"): number for number in known}
        names: list[Name] = []
        for name in sorted(other.names, key=lambda n: -len(n.words)):
            covered = {part for n in names for part in _parts(n.words, shortest=1)}
            if name.words not in covered and self.supports(name):
                names.append(name)
        return [*by_value.values(), *names]

    def _has_word(self, name: Name) -> bool:
        (word,) = name.words
        if name.acronyms and word in self._acronyms:
            return True
        known = self._capitals if self.cased else self._words
        return word in self._words or any(form in known for form in _variants(word))

    def _has_piece(self, name: Name, start: int, end: int) -> bool:
        words = name.words[start:end]
        if len(words) > 1:
            return words in self._parts
        (word,) = words
        if word.isdigit():
            return ("", Decimal(word)) in self._values
        return word in self._singles or (word in name.acronyms and word in self._acronyms)


def _runs(plain: str, words: list[Match[str]]) -> Iterator[list[Match[str]]]:
    """Yield capitalized words that are together; words of grammar and possessives end a run."""
    run: list[Match[str]] = []
    for match in words:
        word = match[0]
        capitalized = (
            not (word.islower() or word[0].isdigit()) and _normal(word) not in FUNCTION_WORDS
        )
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
    abbreviated = _normal(word) in TITLES or _SINGLE.fullmatch(word)
    return gap in (" ", "-", " & ") or (gap == ". " and bool(abbreviated))


def _name(run: list[Match[str]]) -> Name | None:
    """Return the name in a run, without titles before it; single letters do not count."""
    while run and _normal(run[0][0]) in TITLES:
        run = run[1:]
    words = tuple(_normal(match[0]) for match in run if not _SINGLE.fullmatch(match[0]))
    if not words:
        return None
    if len(words) > 1:  # `World War Two` and `World War II`
        words = tuple(as_figures(word) for word in words)
    end = run[-1].start() + len(run[-1][0].removesuffix("'s"))
    return Name(run[0].start(), end, words, frozenset(_acronyms(run)))


def _acronyms(words: list[Match[str]]) -> Iterator[str]:
    """Yield words that are written as acronyms and do not stand in a headline in capitals."""
    for at, match in enumerate(words):
        word = match[0].removesuffix("'s")
        if not (word[:2].isupper() and _ACRONYM.fullmatch(word)):
            continue
        around = [other[0] for other in words[max(0, at - 1) : at + 2] if other is not match]
        headline = around and all(len(near) > 1 and near.isupper() for near in around)
        if not headline and _normal(word) not in FUNCTION_WORDS:
            yield _normal(word)


def _in_text(fact: Fact, places: Sequence[int]) -> Any:
    """Return a fact of a folded text with its places in the text itself."""
    return replace(fact, start=places[fact.start], end=places[fact.end - 1] + 1)


def _without_opener(plain: str, run: list[Match[str]]) -> list[Match[str]]:
    opens = _normal(run[0][0]) in OPENERS and _opens_sentence(plain, run[0])
    return run[1:] if opens else run


def _without_opening(
    plain: str, run: list[Match[str]], own: Facts, article: Facts
) -> list[Match[str]]:
    """Return the run without a first word that is capitalized only for opening a sentence."""
    run = _without_opener(plain, run)
    if not run:
        return run
    first = _normal(run[0][0])
    if first in TITLES or first in article._inner or not _opens_sentence(plain, run[0]):
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
        return not (before[-1] == "'" and before[-2:-1].isalpha())  # `L'Espagne`
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
    """Return a word in lower case, without dots, possessive and `d'`; `US` is not the pronoun."""
    bare = word.removesuffix("'s").rstrip("'").replace(".", "").replace(" ", "")
    us = bare in ("US", "USA") or (bare == "us" and "." in word)
    return "US" if us else bare.lower().removeprefix("l'").removeprefix("d'")


def _acronym(name: str) -> str:
    """Return `US` for United States, `fbi` for Federal Bureau of Investigation."""
    return _normal("".join(word[0] for word in name.split() if word[0].isupper()))


def _variants(word: str) -> Iterator[str]:
    """Yield a word, its singular and plural, and forms as Iraqi of Iraq, American of America."""
    yield word
    yield from (b if word == a else a for a, b in NATIONS if word in (a, b))
    for ending in ("s", "n", "an", "ian", "i"):
        if len(word) > 3:
            yield word + ending
        if word.endswith(ending) and len(word) > len(ending) + 3:
            yield word.removesuffix(ending)
