"""Plant errors in true sentences of an article, with words of the same article.

One function for each kind that people find in summaries (Pagnoni et al. 2021, "Understanding
Factuality in Abstractive Summarization with FRANK"). Rules without a model, as in FactCC
(Kryscinski et al. 2020), but of two facts and of causes too. A rule that finds nothing to turn
plants nothing.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from verb_words import AUXILIARIES, OPPOSITES, verb_form

from nutgraf.data.sentences import article_sentences
from nutgraf.evaluation.facts import Fact, Facts, Name
from nutgraf.evaluation.name_words import FUNCTION_WORDS
from nutgraf.evaluation.numbers import Number

KINDS = {
    "roles": "Two names of the sentence change places.",
    "name": "A person, an organization or a place is another of the same article.",
    "number": "A number or a date is another one of the same article.",
    "negation": "A negation comes in or goes.",
    "predicate": "What is done is the opposite, or something else that the article says.",
    "fused": "One fact's subject does what another fact says.",
    "coreference": "A pronoun becomes a person whom it does not mean.",
    "cause": "A reason or an event before it is added, from elsewhere in the article.",
}
SHORTEST, LONGEST = 6, 45  # words of a sentence that is used

_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
_LOCAL = frozenset("in at near across outside around from to inside".split())
_PLACE = re.compile(r"\b(?:in|at|near|across|outside|around|from|to)\s+(?:the\s+)?$")
_SPEAKER = re.compile(r"\s*,?\s*(?:said|says|told|added|who|\d\d,|has|was|is)\b")
_DATES = (
    re.compile(r"\b(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day\b"),
    re.compile(
        r"\b(?:January|February|March|April|June|July|August|September|October|November|December)\b"
    ),
)
_PRONOUN = re.compile(r"\b(?:He|She|he|she)\b(?!['’])")
_TAIL = re.compile(r",? \b(?:after|because|when|as|while|following|amid|due to)\b ")
_LINKS = (" because ", " after ", " as ", " when ")
_LINKING = frozenset(
    "And But If As How Why What When While So Because Although Though Yet In".split()
)
_NO_STATEMENT = re.compile(r"\?|contributed to this report|^(?:CLICK|SCROLL|Scroll|Watch|Click) ")
_END = re.compile(r"[\s.!?\"'”’]+$")


@dataclass(frozen=True)
class _Mention:
    """A name or number as a sentence writes it, and what it may be exchanged with."""

    fact: Fact
    text: str
    group: str


class Article:
    """The sentences of an article with their names and numbers, read once."""

    def __init__(self, text: str) -> None:
        self.facts = Facts(text)
        self.sentences = [s for s in article_sentences(text) if _usable(s)]
        self._places = Counter[str]()
        self.mentions = [self.mentioned(sentence) for sentence in self.sentences]
        self.groups: dict[str, dict[str, _Mention]] = {}
        for mention in (m for mentions in self.mentions for m in mentions):
            group = self._group(mention)
            self.groups.setdefault(group, {}).setdefault(mention.text, mention)
        self.verbs: dict[str, set[str]] = {}
        for sentence in self.sentences:
            for word in _WORD.findall(sentence):
                if form := verb_form(word):
                    self.verbs.setdefault(form, set()).add(word)

    def mentioned(self, sentence: str) -> list[_Mention]:
        """Return the names and numbers of a sentence in order."""
        facts = Facts(sentence, self.facts)
        mentions = []
        for fact in sorted([*facts.names, *facts.numbers], key=lambda fact: fact.start):
            text = sentence[fact.start : fact.end]
            if isinstance(fact, Name):
                # `Outside London` opens a sentence; `Monday` is a date.
                dated = any(pattern.search(text) for pattern in _DATES)
                if dated or text.split()[0].lower() in _LOCAL:
                    continue
                before, after = sentence[: fact.start], sentence[fact.end :]
                self._places[text] += 2 * bool(_PLACE.search(before)) - bool(_SPEAKER.match(after))
            mentions.append(_Mention(fact, text, ""))
        return mentions

    def others(self, mention: _Mention, sentence: str) -> list[str]:
        """Return what the article has of the same kind, and this sentence does not mention."""
        here = Facts(sentence, self.facts)
        same = self.groups.get(self._group(mention), {})
        return [text for text, other in same.items() if not here.supports(other.fact)]

    def persons(self, among: Sequence[_Mention]) -> list[_Mention]:
        """Return the names that look like persons: of two words, none of them a place's."""
        names = [m for m in among if isinstance(m.fact, Name)]
        return [m for m in names if len(m.fact.words) > 1 and self._places[m.text] <= 0]

    def _group(self, mention: _Mention) -> str:
        if isinstance(mention.fact, Name):
            return "place" if self._places[mention.text] > 0 else "name"
        return number_group(mention.fact)


def number_group(number: Number) -> str:
    """Return what a number counts, so that years are exchanged with years, pounds with pounds."""
    units = sorted({unit for unit, _ in number.values} - {"?"})
    year = units == [""] and any(1500 < value < 2100 for _, value in number.values)
    return "year" if year else "/".join(units) or "count"


def plant(article: Article, sentence: str, kind: str, rng: random.Random) -> str:
    """Return the sentence with an error of a kind of `KINDS`; '' if its words allow none."""
    turned = _RULES[kind](article, sentence, rng)
    return turned if turned.lower() != sentence.lower() else ""


def _usable(sentence: str) -> bool:
    words = _WORD.findall(sentence)
    whole = sentence[:1].isupper() and sentence.endswith((".", "!", '"', "'", "”", "’"))
    return SHORTEST <= len(words) <= LONGEST and whole and not _NO_STATEMENT.search(sentence)


def _roles(article: Article, sentence: str, rng: random.Random) -> str:
    names = [m for m in article.mentioned(sentence) if isinstance(m.fact, Name)]
    pairs = [
        (one.fact, other.fact)
        for at, one in enumerate(names)
        for other in names[at + 1 :]
        if article._group(one) == article._group(other)
        and not set(one.fact.words) & set(other.fact.words)
        # `Tom and Jerry` say the same the other way round.
        and not re.fullmatch(r",?\s*(?:and|or|,|&)\s*", sentence[one.fact.end : other.fact.start])
    ]
    if not pairs:
        return ""
    one, other = rng.choice(pairs)
    return (
        sentence[: one.start] + sentence[other.start : other.end]
        + sentence[one.end : other.start] + sentence[one.start : one.end] + sentence[other.end :]
    )  # fmt: skip


def _name(article: Article, sentence: str, rng: random.Random) -> str:
    return _exchanged(article, sentence, rng, Name)


def _number(article: Article, sentence: str, rng: random.Random) -> str:
    for pattern in _DATES:
        match = pattern.search(sentence)
        others = {text for s in article.sentences for text in pattern.findall(s)}
        if match and (others := others - {match[0]}):
            return sentence[: match.start()] + rng.choice(sorted(others)) + sentence[match.end() :]
    return _exchanged(article, sentence, rng, Number)


def _exchanged(
    article: Article, sentence: str, rng: random.Random, kind: type[Name] | type[Number]
) -> str:
    mentions = [m for m in article.mentioned(sentence) if isinstance(m.fact, kind)]
    rng.shuffle(mentions)
    for mention in mentions:
        if others := article.others(mention, sentence):
            start, end = mention.fact.start, mention.fact.end
            return sentence[:start] + rng.choice(others) + sentence[end:]
    return ""


def _negation(article: Article, sentence: str, rng: random.Random) -> str:
    full = re.sub(r"\b(?:([Ww])on|([Cc])an)['’]t\b", _whole, sentence)
    bare = re.sub(r"\s(?:not|never)\b|(?<=[a-z])n['’]t\b", "", full, count=1)
    if bare != full:
        return bare
    spots = []
    for match, following in _with_next(sentence):
        word = match[0]
        if word in AUXILIARIES:
            has = word in ("has", "have", "had", "do", "does", "did")
            if not has or following == "been" or verb_form(following) in ("ed", "irregular"):
                spots.append((match.end(), " not"))
        elif verb_form(word) in ("ed", "irregular", "third") and word != "said":
            spots.append((match.start() - 1, " never"))
    if not spots:
        return ""
    at, added = spots[0] if rng.random() < 0.7 else rng.choice(spots)
    return sentence[:at] + added + sentence[at:]


def _whole(match: re.Match[str]) -> str:
    return f"{match[1]}ill not" if match[1] else f"{match[2]}an not"


def _predicate(article: Article, sentence: str, rng: random.Random) -> str:
    words = list(_WORD.finditer(sentence))
    turned = [(m, OPPOSITES[m[0]]) for m in words if m[0] in OPPOSITES]
    said = {m[0] for m in words}
    others = [
        (match, sorted(article.verbs.get(form, set()) - said))
        for match in words
        if (form := verb_form(match[0])) and match[0] not in ("said", "says", "told")
    ]
    others = [(match, verbs) for match, verbs in others if verbs]
    if turned and (not others or rng.random() < 0.6):
        match, word = rng.choice(turned)
    elif others:
        match, verbs = rng.choice(others)
        word = rng.choice(verbs)
    else:
        return ""
    return sentence[: match.start()] + word + sentence[match.end() :]


def _fused(article: Article, sentence: str, rng: random.Random) -> str:
    own = _subject(sentence)
    if not own:
        return ""
    others = [(s, at) for s in article.sentences if (at := _subject(s)) and s != sentence]
    rng.shuffle(others)
    for other, at in others:
        subject, deed = sentence[:own].strip(), other[at:].strip()
        apart = content(other[:at]).isdisjoint(content(subject))
        if (
            apart
            and content(subject).isdisjoint(content(deed))
            and content(deed) - content(sentence)
        ):
            return f"{subject} {deed}"
    return ""


def _coreference(article: Article, sentence: str, rng: random.Random) -> str:
    match = _PRONOUN.search(sentence)
    if not match or sentence not in article.sentences:
        return ""
    at = article.sentences.index(sentence)
    near = {w for m in article.mentions[max(0, at - 3) : at + 1] for x in m for w in _words_of(x)}
    every = article.persons([m for mentions in article.mentions for m in mentions])
    others = sorted({m.text for m in every if near.isdisjoint(m.fact.words)})
    if not others:
        return ""
    return sentence[: match.start()] + rng.choice(others) + sentence[match.end() :]


def _cause(article: Article, sentence: str, rng: random.Random) -> str:
    tail = _TAIL.search(sentence, len(sentence) // 3)
    head = sentence[: tail.start()] if tail else _END.sub("", sentence)
    reasons = [
        clause
        for other in article.sentences
        if content(other).isdisjoint(content(head)) or len(content(other) & content(head)) < 2
        for clause in [_clause(other, article)]
        if clause
    ]
    if not reasons or len(_WORD.findall(head)) < 4:
        return ""
    link = tail[0] if tail else rng.choice(_LINKS)
    return f"{head}{link}{rng.choice(reasons)}."


def _clause(sentence: str, article: Article) -> str:
    """Return a short sentence as a clause: without quotes, and in lower case but for names."""
    cut = re.split(r", | - | – |[:;\"“”(]", sentence)[0]
    cut = _END.sub("", cut)
    if not (4 <= len(_WORD.findall(cut)) <= 16) or not _subject(cut):
        return ""
    first = cut.split()[0]
    if first in _LINKING:
        return ""
    named = any(n.start == 0 for n in Facts(cut, article.facts).names)
    return cut if named or first.isupper() else cut[0].lower() + cut[1:]


def _subject(sentence: str) -> int:
    """Return where the predicate begins: before the first verb, if 1 to 8 words precede it."""
    for at, (match, _) in enumerate(_with_next(sentence)):
        before = sentence[: match.start()].rstrip()
        if at > 8 or before.endswith((",", ":", ";", '"', "“")):
            return 0
        if at and (match[0] in AUXILIARIES or verb_form(match[0]) in ("ed", "irregular", "third")):
            return match.start()
    return 0


def content(text: str) -> set[str]:
    """Return the words of a text that carry its matter, in lower case."""
    return {word.lower() for word in _WORD.findall(text)} - FUNCTION_WORDS


def _words_of(mention: _Mention) -> tuple[str, ...]:
    return mention.fact.words if isinstance(mention.fact, Name) else ()


def _with_next(sentence: str) -> Iterator[tuple[re.Match[str], str]]:
    words = list(_WORD.finditer(sentence))
    for at, match in enumerate(words):
        yield match, words[at + 1][0] if at + 1 < len(words) else ""


_RULES: dict[str, Callable[[Article, str, random.Random], str]] = {
    "roles": _roles,
    "name": _name,
    "number": _number,
    "negation": _negation,
    "predicate": _predicate,
    "fused": _fused,
    "coreference": _coreference,
    "cause": _cause,
}
