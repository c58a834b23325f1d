"""Find sentences that an article supports: its own, shortened or joined, and its reference's.

They are what planted errors are learnt against. Without sentences that are not copied a checker
would learn that what is copied is true, and nothing else.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable

from planting import Article, content
from verb_words import SAME

from nutgraf.evaluation.facts import Facts
from nutgraf.evaluation.numbers import Number

MIN_SUPPORT = 0.6  # share of a reference sentence's content words that the article has

_BRACKETS = re.compile(r"\s*[\[(][^\])]*[\])]")
_RELATIVE = re.compile(r", (?:who|which|where|whose)\b[^,.]*(?:,|(?=\.))")
_APPOSITION = re.compile(r"(?<=[a-z]), (?:a|an|the|from|\d\d)\b[^,.]{0,60},(?= [a-z])")
_OPENING = re.compile(
    r"^(?:On|In|At|After|Before|During|For|With|But|And|However|Meanwhile|Earlier|Last)\b"
    r"[^,\"“]{0,50}, "
)
_CONJUNCTION = re.compile(r"^(?:But|And|So|Yet|However,|Meanwhile,) ")
_SAID = re.compile(r",? (?:he|she|they|it|officials|police) (?:said|says|added)[^.\"”]*\.$")
_ENDING = re.compile(r", (?:and|but|while|with|as|after|including|according to)\b[^,]*\.$")
_SPOKEN = re.compile(r"^([A-Z][\w .]{2,40}) (?:said|says)(?: that)? ([^\"“”]+)\.$")
_LOWER = re.compile(r"\b[a-zA-Z]{2,}\b")
_ADVERB = re.compile(
    r"\b(?:also|just|now|already|then|still|very|really|even|reportedly|recently) (?=[a-z])"
)
_PRONOUN = re.compile(r"^(?:He|She|They|It) (?=[a-z])")
_FIGURES = dict(
    zip("two three four five six seven eight nine ten".split(), "2345678", strict=False)
)
_FIGURES |= {"nine": "9", "ten": "10"}


def is_true(article: Article, sentence: str) -> bool:
    """Return whether a reference sentence may count as supported: no name or number that the
    article lacks, and most of its content words.

    Among the references of CNN/DailyMail some sentences are not supported at all (Kryscinski et
    al. 2020), so the references themselves are filtered.
    """
    facts = Facts(sentence, article.facts)
    if not all(article.facts.supports(fact) for fact in (*facts.names, *facts.numbers)):
        return False
    known = {word for own in article.sentences for word in content(own)}
    words = content(sentence)
    return len(words) > 2 and len(words & known) >= MIN_SUPPORT * len(words)


def paraphrases(article: Article, sentence: str, rng: random.Random) -> dict[str, str]:
    """Return what follows from a sentence of the article in other words: {how: sentence}."""
    turned = {name: rule(article, sentence) for name, rule in _RULES.items()}
    turned = {name: text for name, text in turned.items() if text and text != sentence}
    shortened = sentence
    for name in rng.sample(sorted(_SHORTER), len(_SHORTER)):
        shortened = _RULES[name](article, shortened) or shortened
    for name, text in (("words", sentence), ("several", shortened)):
        other = _same_words(article, text, rng)
        if other not in (sentence, *turned.values()):
            turned[name] = other
    return {name: text for name, text in turned.items() if len(text.split()) >= 4}


def _cut(pattern: re.Pattern[str], by: str = "") -> Callable[[Article, str], str]:
    def cut(_: Article, sentence: str) -> str:
        text = pattern.sub(by, sentence, count=1)
        return text[:1].upper() + text[1:]

    return cut


def _figures(article: Article, sentence: str) -> str:
    """Write small numbers as figures, and figures as words."""
    back = {figures: word for word, figures in _FIGURES.items()}
    numbers = [f for f in Facts(sentence, article.facts).numbers if isinstance(f, Number)]
    for fact in numbers:
        word = sentence[fact.start : fact.end]
        if other := _FIGURES.get(word) or back.get(word):
            return sentence[: fact.start] + other + sentence[fact.end :]
    return ""


def _surname(article: Article, sentence: str) -> str:
    """Shorten a person's name that only one person of the article has."""
    for mention in article.persons(article.mentioned(sentence)):
        last = mention.text.split()[-1]
        same = {m.text for ms in article.mentions for m in ms if m.text.split()[-1] == last}
        if same <= {mention.text, last}:
            return sentence.replace(mention.text, last, 1)
    return ""


def _same_words(article: Article, sentence: str, rng: random.Random) -> str:
    """Write one or two words in others that say the same, and leave out an adverb."""
    spots = [match for match in _LOWER.finditer(sentence) if match[0] in SAME]
    for match in sorted(rng.sample(spots, min(2, len(spots))), key=lambda m: -m.start()):
        word = rng.choice(sorted(SAME[match[0]]))
        sentence = sentence[: match.start()] + word + sentence[match.end() :]
    return _ADVERB.sub("", sentence, count=1)


def _reordered(_: Article, sentence: str) -> str:
    """Put who says it behind what is said."""
    match = _SPOKEN.match(sentence)
    return f"{match[2][0].upper()}{match[2][1:]}, {match[1]} said." if match else ""


def _joined(article: Article, sentence: str) -> str:
    """Join a sentence with the next one, which goes on about its subject by a pronoun."""
    if sentence not in article.sentences:
        return ""
    at = article.sentences.index(sentence)
    after = article.sentences[at + 1] if at + 1 < len(article.sentences) else ""
    match, persons = _PRONOUN.match(after), article.persons(article.mentions[at])
    one = len(persons) == 1 and persons[0].fact.start < 15
    short = len(sentence) + len(after) < 220
    if not (match and one and short and sentence.endswith(".")):
        return ""
    return f"{sentence[:-1]} and {after[match.end() :]}"


def _resolved(article: Article, sentence: str) -> str:
    """Write whom a pronoun means, if only one person comes in question."""
    if sentence not in article.sentences:
        return ""
    at = article.sentences.index(sentence)
    match = _PRONOUN.match(sentence)
    if not at or not match or not sentence.startswith(("He", "She")):
        return ""
    before = article.persons(article.mentions[at - 1])
    if len(before) != 1 or article.persons(article.mentions[at]) or before[0].fact.start > 15:
        return ""
    return f"{before[0].text} {sentence[match.end() :]}"


_RULES: dict[str, Callable[[Article, str], str]] = {
    "brackets": _cut(_BRACKETS),
    "relative": _cut(_RELATIVE),
    "apposition": _cut(_APPOSITION),
    "opening": _cut(_OPENING),
    "conjunction": _cut(_CONJUNCTION),
    "said": _cut(_SAID, "."),
    "ending": _cut(_ENDING, "."),
    "figures": _figures,
    "surname": _surname,
    "reordered": _reordered,
    "joined": _joined,
    "resolved": _resolved,
}
_SHORTER = (
    "brackets",
    "relative",
    "apposition",
    "opening",
    "conjunction",
    "said",
    "ending",
    "surname",
)
