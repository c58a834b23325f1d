"""Write synthetic news: short stories with references, every fact known as data.

The wordings are data files, one kind of event a file, in `events/`; this module draws the
facts and puts the sentences together. Nothing here imports torch.

Names are made of two pieces, an opening (`Bra`) and an ending (`ndford`), which are exactly the
two tokens that the pocket tokenizer cuts them into. The test split draws only names whose
*combination* of pieces, and numbers whose value, the other two splits never use; the pieces
themselves occur everywhere.

What is measured on these stories says nothing about CNN/DailyMail or any other real news.
"""

from __future__ import annotations

import random
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources

import yaml

from nutgraf.pocket.decency import decent

SPLITS = ("train", "validation", "test")
MIN_WORDS, MAX_WORDS = 150, 300

# Openings end in a vowel and endings begin with a consonant: the tokenizer cuts between the two.
_ONSETS = "B Br C Cr D Dr F Fr G Gr H J K L M N P Pr R S St T Tr V W".split()
OPENINGS = tuple(onset + vowel for onset in _ONSETS for vowel in "aeiou")
# Disjoint lists, so that the ending tells a town from a surname, as real names mostly do.
ENDINGS = {
    "first": "lia ren vid rtin mara nna ssa lene rick nton vina rco lix dia rgo resa lman rika "
    "vian del".split(),
    "last": "ckson lster rdman nsky ltzer mbers rvez nnard ttley xley ndler rgan lkner stner "
    "bbins dgett vani rrow sco ppel rling msen ckett thers".split(),
    "town": "ndford rnbury lton xham nport rmouth llfield thaven sterby ckdale mbridge rwick "
    "lstead ddington nville rchester lcombe shaven rstow ngate mpton lborough".split(),
    "company": "ltex ndra rion xium tronix lvex mtec rvista ntara scorp nova rdyne".split(),
    "thing": "lva rne ssel nda ldo rma sko nth ttis vel mbra zar".split(),
}
COMPANY_KINDS = ("Foods", "Motors", "Energy", "Systems", "Group", "Airways", "Mills", "Pharma")
TEAM_KINDS = ("United", "City", "Rovers", "Athletic", "Wanderers", "Albion")
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = (
    "January February March April May June July August September October November December".split()
)

_CHOICE = re.compile(r"\[([^\[\]]*)\]")
_FIELD = re.compile(r"\{([a-z_]+)\}")


@dataclass(frozen=True)
class Story:
    """One article with its reference and the truth behind both.

    `reference` has one sentence a line. `facts` maps each field of the article to its surface
    string as written there; `key_facts` names the fields that the reference states.
    """

    id: str
    article: str
    reference: str
    kind: str
    facts: dict[str, str]
    key_facts: tuple[str, ...]


@dataclass(frozen=True)
class Template:
    """A line of an event file: `[a|b]` is a choice of words, `{field}` a fact."""

    text: str

    @property
    def fields(self) -> tuple[str, ...]:
        """Return the names of the facts that every reading states, in order, once each."""
        return tuple(dict.fromkeys(_FIELD.findall(self.text)))

    def render(self, rng: random.Random, values: Mapping[str, str]) -> str:
        """Return one reading of the line."""
        text = _CHOICE.sub(lambda m: rng.choice(m.group(1).split("|")), self.text)
        return _FIELD.sub(lambda m: values[m.group(1)], text)


@dataclass(frozen=True)
class Event:
    """The wordings of one kind of event, as its file in `events/` has them."""

    kind: str
    facts: dict[str, str]
    lead: tuple[Template, ...]
    key: tuple[tuple[Template, ...], ...]
    details: tuple[Template, ...]
    quotes: tuple[Template, ...]
    background: tuple[Template, ...]
    reference: tuple[tuple[Template, ...], ...]
    retold: tuple[Template, ...]
    questions: tuple[tuple[Template, Template], ...]


@dataclass(frozen=True)
class Draft:
    """A story with the parts it was made of; pretraining lessons are drawn from it."""

    event: Event
    facts: dict[str, str]
    sentences: tuple[str, ...]
    reference: str
    key_facts: tuple[str, ...]

    @property
    def article(self) -> str:
        """Return the sentences as one text."""
        return " ".join(self.sentences)


def _lines(block: str) -> tuple[Template, ...]:
    return tuple(Template(line.strip()) for line in block.splitlines() if line.strip())


def _question(line: Template) -> tuple[Template, Template]:
    question, _, answer = line.text.partition("? ")
    return Template(question + "?"), Template(answer)


@cache
def events() -> dict[str, Event]:
    """Return all kinds of event by name, in alphabetical order."""
    by_kind = {}
    folder = resources.files(__package__) / "events"
    for path in sorted(folder.iterdir(), key=lambda entry: entry.name):
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
        kind = path.name.removesuffix(".yaml")
        by_kind[kind] = Event(
            kind=kind,
            facts=raw["facts"],
            lead=_lines(raw["lead"]),
            key=tuple(map(_lines, raw["key"])),
            details=_lines(raw["details"]),
            quotes=_lines(raw["quotes"]),
            background=_lines(raw["background"]),
            reference=tuple(map(_lines, raw["reference"])),
            retold=_lines(raw["retold"]),
            questions=tuple(map(_question, _lines(raw["questions"]))),
        )
    return by_kind


KINDS = tuple(events())


def held_out_name(name: str) -> bool:
    """Return whether a one-word name belongs to the test split (a quarter of all are)."""
    return zlib.crc32(name.encode()) % 4 == 0


def held_out_number(value: int) -> bool:
    """Return whether a number belongs to the test split; those below ten belong to all."""
    return value >= 10 and value % 7 == 3


class Names:
    """Draws names and numbers for one story: every opening and every number at most once."""

    def __init__(self, rng: random.Random, held_out: bool) -> None:
        self.rng = rng
        self.held_out = held_out
        self._used: set[str | int] = set()

    def word(self, kind: str) -> str:
        """Draw a two-piece name; `kind` is a key of `ENDINGS`. None is obscene."""
        while True:
            opening = self.rng.choice(OPENINGS)
            name = opening + self.rng.choice(ENDINGS[kind])
            right_split = held_out_name(name) == self.held_out
            if opening not in self._used and right_split and decent(name):
                self._used.add(opening)
                return name

    def number(self, low: int, high: int, step: int = 1) -> str:
        """Draw a number from low to high, both included; commas separate thousands."""
        for _ in range(10_000):
            value = self.rng.randrange(low, high + 1, step)
            wrong_split = value >= 10 and held_out_number(value) != self.held_out
            if value not in self._used and not wrong_split:
                self._used.add(value)
                return f"{value:,}"
        raise ValueError(f"no unused number from {low} to {high} is left: draw this range earlier")

    def draw(self, spec: str) -> str:
        """Draw the text of one fact, from its description in an event file."""
        kind, _, rest = spec.partition(" ")
        match kind:
            case "person":
                name = f"{self.word('first')} {self.word('last')}"
            case "town" | "thing":
                return self.word(kind)
            case "company":
                name = f"{self.word('company')} {rest or self.rng.choice(COMPANY_KINDS)}"
            case "team":
                name = f"{self.word('town')} {self.rng.choice(TEAM_KINDS)}"
            case "number" | "hundreds":
                low, high = (int(end) for end in rest.split(".."))
                return self.number(low, high, 100 if kind == "hundreds" else 1)
            case "year":
                # Without the comma of a quantity.
                return self.number(1950, 2019).replace(",", "")
            case "day":
                return self.rng.choice(DAYS)
            case "month":
                return self.rng.choice(MONTHS)
            case "choice":
                return self.rng.choice([option.strip() for option in rest.split("|")])
            case _:
                raise ValueError(f"unknown kind of fact: {spec!r}")
        return name if decent(name) else self.draw(spec)


def _fields(templates: Iterable[Template]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(field for line in templates for field in line.fields))


def _compose(rng: random.Random, names: Names, event: Event) -> Draft:
    values = {field: names.draw(spec) for field, spec in event.facts.items()}
    event_line, *keys = [rng.choice(block) for block in event.key]
    asides = (
        rng.sample(event.details, rng.randint(3, 4))
        + rng.sample(event.quotes, 1)
        + rng.sample(event.background, rng.randint(2, 3))
    )
    rng.shuffle(asides)
    # What happened comes early, as in a newspaper; whom and how many it concerned comes anywhere,
    # so that the first three sentences alone do not tell the story.
    opening, rest = [event_line, asides[0]], keys + asides[1:]
    rng.shuffle(opening)
    rng.shuffle(rest)
    parts = [rng.choice(event.lead), *opening, *rest]
    stated = set(_fields(parts))
    reference = [rng.choice(block) for block in event.reference]
    return Draft(
        event=event,
        facts={field: value for field, value in values.items() if field in stated},
        sentences=tuple(part.render(rng, values) for part in parts),
        reference="\n".join(line.render(rng, values) for line in reference),
        key_facts=_fields(reference),
    )


def draft(split: str, rng: random.Random, kind: str | None = None) -> Draft:
    """Draw a story of the split, with its parts; `kind` is drawn too by default.

    Raises ValueError for an unknown split.
    """
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}, must be one of {', '.join(SPLITS)}")
    event = events()[kind or rng.choice(KINDS)]
    while True:
        story = _compose(rng, Names(rng, held_out=split == "test"), event)
        # Stories of the seen space fall to validation by a checksum of their facts, one in ten:
        # train and validation can then never share one, whatever their seeds.
        checksum = zlib.crc32("|".join(story.facts.values()).encode())
        if split != "test" and (checksum % 10 == 0) != (split == "validation"):
            continue
        if MIN_WORDS <= len(story.article.split()) <= MAX_WORDS:
            return story


def stories(split: str, n: int, seed: int) -> list[Story]:
    """Return the first `n` stories of a split; a longer list begins with the shorter one.

    Raises ValueError for an unknown split.
    """
    return list(iter_stories(split, n, seed))


def iter_stories(split: str, n: int, seed: int) -> Iterator[Story]:
    """Yield what `stories` returns, without keeping it in memory."""
    for index in range(n):
        parts = draft(split, random.Random(f"{split}/{seed}/{index}"))
        yield Story(
            id=f"newswire-{split}-{index:06d}",
            article=parts.article,
            reference=parts.reference,
            kind=parts.event.kind,
            facts=parts.facts,
            key_facts=parts.key_facts,
        )
