"""Read the numbers of a text: values with units, by rules that anybody can check by eye.

A unit is `""` for counts (also years and ages), a sign for money, `%`, `time` for minutes of the
day, `date` for the day of a month, `phone`, or `?` (any) if no word for what is counted follows. A
number that may mean several things has several values: `50m` is fifty metres or fifty million, a
bare `9:30` is before or after noon.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Decimal
from re import Match

from nutgraf.evaluation.number_patterns import (
    AFTER_MONTH,
    AT,
    BARE,
    BEFORE,
    BEFORE_MONTH,
    CLOCK,
    CODES,
    DECADE,
    DIGITS,
    HEDGE,
    HOURS,
    LOOSE,
    LOOSELY,
    MONEY,
    NUMBER,
    ORDINAL,
    ORDINALS,
    PARTS,
    PHONE,
    RANGE,
    RATIO,
    ROMAN,
    SCALES,
    SHARE,
    SHORT_SCALES,
    SIGNS,
    SMALL,
    from_words,
    roman_value,
)

Value = tuple[str, Decimal]


@dataclass(frozen=True)
class Number:
    """A number from `start` to `end` (characters), with the values that it may mean.

    `hedge` is how it is rounded: `down` (over 13,000), `up` (nearly 14,000), `both` or nothing. A
    loose one is evidence only: `third`, `couple`.
    """

    start: int
    end: int
    values: frozenset[Value]
    hedge: str = ""
    loose: bool = False
    scale: int = 1


def find_numbers(text: str) -> list[Number]:
    """Return the numbers of a text in order, loose ones too."""
    found: list[Number] = []
    left = text
    for pattern, read in _READERS:

        def take(match: Match[str], read: Callable[[Match[str]], Number | None] = read) -> str:
            number = read(match)
            if number is None:
                return match[0]
            found.append(number)
            return "\0" * len(match[0])

        left = pattern.sub(take, left)
    found.sort(key=lambda number: number.start)
    return _ranges(text, [_in_place(text, number) for number in found])


def supports(values: Iterable[Value], number: Number) -> bool:
    """Return whether one of the values is one of the number's, or rounds to it if it is hedged."""
    known = set(values)
    if not known.isdisjoint(number.values):
        return True
    bare = {value for unit, value in known if unit == "?"}
    of_any = {value for _, value in known}
    if any(value in (of_any if unit == "?" else bare) for unit, value in number.values):
        return True
    ways = {"down": [ROUND_FLOOR], "up": [ROUND_CEILING], "both": [ROUND_FLOOR, ROUND_CEILING]}
    return any(
        (value / step).to_integral_value(way) * step == rounded
        for unit, rounded in number.values
        if number.hedge and rounded and unit != "phone"
        for step in [Decimal(1).scaleb(int(rounded.normalize().as_tuple().exponent))]
        for way in ways[number.hedge]
        for other, value in known
        if other == unit and rounded / 2 < value < rounded * 2
    )


def _number(match: Match[str], *values: tuple[str, Decimal | int], loose: bool = False) -> Number:
    return Number(
        *match.span(), frozenset((unit, Decimal(value)) for unit, value in values), loose=loose
    )


def _phone(match: Match[str]) -> Number | None:
    digits = re.sub(r"\D", "", match[0])
    return _number(match, ("phone", Decimal(digits))) if 9 <= len(digits) <= 15 else None


def _share(match: Match[str]) -> Number:
    """Read `two thirds` (66, 66.7 or 67%), `half a million`, `3/4`; `a third` is evidence only."""
    part = match["part"] or match["some"] or match["under"]
    below = PARTS[part.lower()] if part.isalpha() else int(part)
    n = (match["n"] or match["over"] or "a").lower()
    above = int(n) if n.isdigit() else SMALL.get(n, 1)
    if whole := match["whole"] or match["of"]:
        return _number(match, ("", Decimal(above * SCALES[whole.lower()]) / below))
    loose = n in ("a", "an", "one")
    values = [*_shares(above, below), ("", Decimal(above) / below), *[("", Decimal(below))] * loose]
    return _number(match, *values, loose=loose)


def _ratio(match: Match[str]) -> Number:
    above, below = (SMALL.get(n.lower()) or int(n) for n in (match["n"], match["of"]))
    return _number(match, *_shares(above, below), ("", Decimal(below)))


def _shares(above: int, below: int) -> list[Value]:
    exact, steps, ways = Decimal(100 * above) / below, ("1", ".1"), (ROUND_FLOOR, ROUND_HALF_EVEN)
    return [("%", exact.quantize(Decimal(step), way)) for step in steps for way in ways]


def _clock(match: Match[str]) -> Number:
    if match["word"]:
        return _number(match, ("time", HOURS[match["word"].lower()]), loose=True)
    if match["plain"]:
        return _number(match, ("time", 60 * int(match["plain"][:2]) + int(match["plain"][2:])))
    hour = (match["hour"] or match["hours"]).lower()
    at = 60 * (SMALL[hour] if hour in SMALL else int(hour))
    at += int(match["minute"] or match["minutes"] or 0)
    if half := match["half"]:
        at = at % 720 + (720 if half.lower() == "p" else 0)
        return _number(match, ("time", at))
    return _number(match, ("time", at), *[("time", (at + 720) % 1440)] * (at < 780))


def _decade(match: Match[str]) -> Number:
    short = int(match["decade"])
    return _number(match, ("", 1900 + short), ("", short))


def _plain(match: Match[str]) -> Number | None:
    """Read figures or words, with a fraction, a scale and a unit; `one` alone is evidence only."""
    if match[0].lower() == "one":
        return None
    exact = {Decimal(0)}
    if figures := match["figures"]:
        exact = set(_from_figures(figures))
    elif match["words"]:
        exact = {Decimal(from_words(match["words"].lower()))}
    last = re.split(r"[\s-]", match["words"] or "")[-1].lower()
    exact = {value + _fraction(match) * SCALES.get(last, 1) for value in exact}
    short, scale = (match[name] and match[name].lower() for name in ("short", "scale"))
    before = BEFORE.search(match.string, max(0, match.start() - 5), match.start())
    money = before and ((before[1] or CODES[before[2].upper()]).replace("#", "£"))
    unit = (match["unit"] or "").strip(" -").lower()
    values = exact
    if scale:
        values = {value * SCALES.get(scale, 1) for value in exact}
    elif short:
        values = {value * SHORT_SCALES[short] for value in exact}
        values |= exact if len(short) == 1 and not money and unit == "" else set()
    name = unit.split()[-1].rstrip("s") if unit and not unit.startswith("per") else unit
    units = {money or ""}
    if name in ("pence", "p", "cent"):
        values, units = {value / 100 for value in values}, {MONEY[name]}
        units |= {"€"} if name == "cent" else set()
    elif name in MONEY:
        units = {MONEY[name]} | ({""} if name == "pound" else set())  # pounds also weigh
    elif unit in ("€", "£"):
        units = {unit}
    elif unit:
        units = {"%"}
    elif match["ordinal"] and max(values) < 32:
        units = {"", "date"}
    pairs = frozenset(itertools.product(units, values))
    if units == {""} and re.fullmatch(r"(?:1?\d|2[0-3])\.[0-5]\d", match[0]):  # 15.30
        pairs |= {("time", 60 * (value // 1) + 100 * (value % 1)) for value in values}
    size = SCALES.get(scale or "", 1) * SHORT_SCALES.get(short or "", 1)
    start = before.start() if before else match.start()
    return Number(start, match.end(), pairs, scale=size)


def _from_figures(figures: str) -> Iterator[Decimal]:
    if re.fullmatch(r"\d+,\d{1,2}", figures):
        yield Decimal(figures.replace(",", ".")[:DIGITS])
    elif re.fullmatch(r"\d{1,3}(?:\.\d{3}){2,}", figures):
        yield Decimal(figures.replace(".", "")[:DIGITS])
    else:
        yield Decimal(re.sub(r"[^\d.]", "", figures)[:DIGITS])
        if re.fullmatch(r"[1-9]\d{0,2}\.\d{3}", figures):  # a thousand in German, Spanish, Dutch
            yield Decimal(figures.replace(".", ""))


def _fraction(match: Match[str]) -> Decimal:
    if part := match["part"]:
        return Decimal(SMALL.get(match["n"].lower(), 1)) / PARTS[part.lower()]
    if mixed := match["mixed"]:
        above, below = mixed.split("/")
        return Decimal(above) / Decimal(below)
    return Decimal(unicodedata.numeric(match["sign"])) if match["sign"] else Decimal(0)


def _loose(match: Match[str]) -> Number:
    word = match["loose"].lower()
    if word in PARTS:
        values = [("", Decimal(LOOSE[word]))] if word in LOOSE else []
        return _number(match, *_shares(1, PARTS[word]), *values, loose=True)
    value = LOOSE[word] + SMALL.get((match.groupdict().get("ten") or "").lower(), 0)
    both = [("", value % 100)] if value >= 1920 else []
    both += [("date", value)] if word in ORDINALS and value < 32 else []
    return _number(match, ("", value), *both, loose=True)


def _roman(match: Match[str]) -> Number:
    return _number(match, ("", roman_value(match[0])), loose=True)


_READERS: tuple[tuple[re.Pattern[str], Callable[[Match[str]], Number | None]], ...] = (
    (PHONE, _phone),
    (RATIO, _ratio),
    (SHARE, _share),
    (CLOCK, _clock),
    (DECADE, _decade),
    (ORDINAL, _loose),
    (NUMBER, _plain),
    (LOOSELY, _loose),
    (ROMAN, _roman),
)


def _in_place(text: str, number: Number) -> Number:
    """Return a number with what stands around it: a month, or words that round it."""
    values = number.values
    day = {value for unit, value in values if unit in ("", "date") and value in range(1, 32)}
    before = text[max(0, number.start - 22) : number.start]
    if day and len(day) == len({value for _, value in values}):
        if BEFORE_MONTH.match(text, number.end) or before.endswith("/"):
            values = frozenset(("date", value) for value in day)
            values |= (
                number.values if "/" in (text[number.end : number.end + 1], before[-1:]) else set()
            )
        elif AFTER_MONTH.search(before):
            values = frozenset(("date", value) for value in day)
    if day and AT.search(before) and max(day) < 13:
        values |= {("time", (60 * value + half) % 1440) for value in day for half in (0, 720)}
    if BARE.match(text, number.end) and not number.loose:
        values |= {("?", value) for unit, value in values if unit == ""}
    hedge = HEDGE.search(before)
    return replace(number, values=values, hedge=(hedge and hedge.lastgroup) or "")


def _ranges(text: str, numbers: list[Number]) -> list[Number]:
    """Give both ends of a range one unit: `£5-10m`, `5 or 6 percent`, `5-8 May`, `2014-15`."""
    for at in range(len(numbers) - 2, -1, -1):
        first, second = numbers[at : at + 2]
        link = RANGE.fullmatch(text, first.end, second.start)
        if not link:
            continue
        own, other = ({unit for unit, _ in n.values} - {"?"} for n in (first, second))
        plain = [value for unit, value in first.values if unit in own & {"", *SIGNS}]
        shared: set[Value] = set()
        if first.scale == 1 and (own == {""} or (link["to"] and other == {""})):
            units = other if own == {""} else own
            most = max(value for _, value in second.values) / second.scale
            low = [value for value in plain if second.scale == 1 or value <= most]
            shared = {(unit, value * second.scale) for unit in units for value in low}
        if "time" in other:
            shared = {("time", (60 * v + h) % 1440) for v in plain for h in (0, 720) if v < 13}
        numbers[at] = replace(first, values=first.values | shared)
        values = second.values
        if other == {""} and "date" in own:
            values |= {("date", value) for _, value in values if value < 32}
        if other == {""}:
            values |= {(unit, value) for unit in own & {*SIGNS} for _, value in values}
            years = [v for v in plain if link["to"] and 1000 <= v < 2100]
            values |= {("", y - y % 100 + v) for y in years for _, v in values if 0 <= v < 100}
        numbers[at + 1] = replace(second, values=values)
    return numbers
