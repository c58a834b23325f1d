"""Read the numbers of a text: values with units, by rules that anybody can check by eye.

A unit is `""` for counts (also years and ages), a sign for money, `%`, `time` for minutes of the
day, `date` for the day of a month, `phone`, or `?` (any) if no word for what is counted follows. A
number that may mean several things has several values: `50m` is fifty metres or fifty million, a
bare `9:30` is before or after noon.
"""

from __future__ import annotations

import functools
import itertools
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Decimal
from re import Match

from nutgraf.evaluation import number_patterns as patterns
from nutgraf.evaluation.number_patterns import PARTS, PERIODS, SCALES, SHORT_SCALES, SIGNS, SMALL

Value = tuple[str, Decimal]
Reader = Callable[[Match[str]], "Number | None"]


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
    numbers: list[Number] = []
    text, original = text.lower(), text
    left = text
    for pattern, read in _READERS:
        left = pattern.sub(functools.partial(_taken, numbers, read), left)
    patterns.ROMAN.sub(functools.partial(_taken, numbers, _roman), original)
    numbers.sort(key=lambda number: number.start)
    return _ranges(text, [_in_place(text, number) for number in numbers])


def _taken(numbers: list[Number], read: Reader, match: Match[str]) -> str:
    """Add the number of a match, and return what later readers see in its place."""
    number = read(match)
    if number is None:
        return match[0]
    numbers.append(number)
    return "\0" * len(match[0])


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
        for step in [
            12
            if number.scale == 12
            else Decimal(1).scaleb(int(rounded.normalize().as_tuple().exponent))
        ]
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
    if match["more"]:  # `an hour and a half`
        return _number(match, ("", 1 + Decimal(1) / PARTS[match["more"]]), loose=True)
    part = match["part"] or match["some"] or match["under"]
    below = PARTS.get(part) or int(part)
    n = match["n"] or match["over"] or "a"
    above = int(n) if n.isdigit() else SMALL.get(n, 1)
    whole, (units, divisor) = match["whole"] or match["of"], _units(match)
    if whole or units != {""}:
        value = Decimal(above * SCALES.get(whole, 1)) / below / divisor
        return _number(match, *((unit, value) for unit in units))
    loose = n in ("a", "an", "one")
    values = [*_shares(above, below), ("", Decimal(above) / below), *[("", Decimal(below))] * loose]
    return _number(match, *values, loose=loose)


def _ratio(match: Match[str]) -> Number:
    above, below = (SMALL.get(n) or int(n) for n in (match["n"], match["of"]))
    return _number(match, *_shares(above, below), ("", Decimal(below)))


def _shares(above: int, below: int) -> list[Value]:
    exact, steps, ways = Decimal(100 * above) / below, ("1", ".1"), (ROUND_FLOOR, ROUND_HALF_EVEN)
    return [("%", exact.quantize(Decimal(step), way)) for step in steps for way in ways]


def _clock(match: Match[str]) -> Number:
    if match["word"]:
        return _number(match, ("time", patterns.HOURS[match["word"]]), loose=True)
    if match["plain"]:
        return _number(match, ("time", 60 * int(match["plain"][:2]) + int(match["plain"][2:])))
    hour = match["hour"] or match["hours"] or match["whole"]
    at = 60 * (SMALL[hour] if hour in SMALL else int(hour))
    at += int(match["minute"] or match["minutes"] or 0)
    if match["to"]:
        at = (at - 15) % 720
    elif past := match["past"]:
        at += {"half": 30, "quarter": 15}.get(past) or SMALL.get(past) or int(past)
    if half := match["half"]:
        at = at % 720 + (720 if half == "p" else 0)
        return _number(match, ("time", at))
    return _number(match, ("time", at), *[("time", (at + 720) % 1440)] * (at < 780))


def _decade(match: Match[str]) -> Number:
    """Read `the 1990s`, `the '90s` and `in her 90s`, which 1994 or 94 supports."""
    decade = int(match["decade"])
    values = [("", decade), *[("", 1900 + decade)] * (decade < 100)]
    return replace(_number(match, *values), hedge="down")


def _plain(match: Match[str]) -> Number | None:
    """Read figures or words, with a fraction, a scale and a unit; `one` alone is evidence only."""
    if match[0] == "one":
        return None
    exact = {Decimal(0)}
    if figures := match["figures"]:
        exact = set(_from_figures(figures))
    elif match["words"]:
        exact = {Decimal(patterns.from_words(match["words"]))}
    last = re.split(r"[\s-]", match["words"] or "")[-1]
    exact = {value + _fraction(match) * SCALES.get(last, 1) for value in exact}
    short, scale = match["short"], match["scale"] or ""
    before = patterns.BEFORE.search(match.string, max(0, match.start() - 5), match.start())
    money = before and (before[1] or (before[2] and "£") or patterns.CODES[before[3]])
    units, divisor = _units(match, money or "")
    values = {value * (SCALES | PERIODS).get(scale, 1) for value in exact}
    if short:
        values = {value * SHORT_SCALES[short] for value in exact}
        values |= exact if len(short) == 1 and units == {""} else set()
    values = {value / divisor for value in values}
    if units == {""} and match["ordinal"] and max(values) < 32:
        units = {"", "date"}
    pairs = frozenset(itertools.product(units, values))
    if units == {""} and re.fullmatch(r"(?:1?\d|2[0-3])\.[0-5]\d", match[0]):  # 15.30
        pairs |= {("time", 60 * (value // 1) + 100 * (value % 1)) for value in values}
    size = (SCALES | PERIODS).get(scale or last, 1) * SHORT_SCALES.get(short or "", 1)
    start = before.start() if before else match.start()
    return Number(start, match.end(), pairs, scale=size)


def _units(match: Match[str], before: str = "") -> tuple[set[str], int]:
    """Return the units of what a number counts, and what its value is divided by."""
    unit = (match["unit"] or match.groupdict().get("counted") or "").strip(" -")
    if unit.startswith(("per", "pct", "pour", "proz", "%")):
        return {"%"}, 1
    name = unit.split()[-1].removeprefix("d'").removesuffix("s") if unit else ""
    units = {patterns.MONEY.get(name) or patterns.CODES.get(unit) or unit or before}
    units |= {"cent": {"€"}, "pound": {""}}.get(name, set())  # pounds also weigh
    return units, 100 if name in ("pence", "p", "cent") else 1


def _from_figures(figures: str) -> Iterator[Decimal]:
    if re.fullmatch(r"\d[^,.]*,\d{1,2}", figures):  # 2,5 and 1 234,5
        yield Decimal(re.sub(r"[^\d.]", "", figures.replace(",", "."))[: patterns.DIGITS])
    elif re.fullmatch(r"\d{1,3}(?:\.\d{3}){2,}", figures):
        yield Decimal(figures.replace(".", "")[: patterns.DIGITS])
    else:
        yield Decimal(re.sub(r"[^\d.]", "", figures)[: patterns.DIGITS])
        if re.fullmatch(r"[1-9]\d{0,2}\.\d{3}", figures):  # a thousand in German, Spanish, Dutch
            yield Decimal(figures.replace(".", ""))


def _fraction(match: Match[str]) -> Decimal:
    if part := match["part"]:
        return Decimal(SMALL.get(match["n"], 1)) / PARTS[part]
    if mixed := match["mixed"]:
        above, below = mixed.split("/")
        return Decimal(above) / Decimal(below)
    return Decimal(unicodedata.numeric(match["sign"])) if match["sign"] else Decimal(0)


def _loose(match: Match[str]) -> Number:
    word, values = match["loose"], list[tuple[str, Decimal | int]]()
    if below := PARTS.get(word):
        values += [*_shares(1, below), ("", Decimal(1) / below)]
    if word in patterns.LOOSE:
        value = patterns.LOOSE[word] + SMALL.get(match.groupdict().get("ten") or "", 0)
        values += [("", value), *[("", value % 100)] * (value >= 1920)]
        values += [("date", value)] * (word in patterns.ORDINALS and value < 32)
    return _number(match, *values, loose=True)


def _roman(match: Match[str]) -> Number:
    return _number(match, ("", patterns.roman_value(match[0])), loose=True)


_READERS: tuple[tuple[re.Pattern[str], Reader], ...] = (
    (patterns.PHONE, _phone),
    (patterns.CLOCK, _clock),
    (patterns.RATIO, _ratio),
    (patterns.SHARE, _share),
    (patterns.DECADE, _decade),
    (patterns.ORDINAL, _loose),
    (patterns.NUMBER, _plain),
    (patterns.LOOSELY, _loose),
)


def _in_place(text: str, number: Number) -> Number:
    """Return a number with what stands around it: a month, or words that round it."""
    values = number.values
    day = {value for unit, value in values if unit in ("", "date") and value in range(1, 32)}
    before = text[max(0, number.start - 22) : number.start]
    if day and len(day) == len({value for _, value in values}):
        if patterns.BEFORE_MONTH.match(text, number.end) or before.endswith("/"):
            values = frozenset(("date", value) for value in day)
            values |= (
                number.values if "/" in (text[number.end : number.end + 1], before[-1:]) else set()
            )
        elif patterns.AFTER_MONTH.search(before):
            values = frozenset(("date", value) for value in day)
    if day and patterns.AT.search(before) and max(day) < 13:
        values |= {("time", (60 * value + half) % 1440) for value in day for half in (0, 720)}
    if patterns.BARE.match(text, number.end) and not number.loose:
        values |= {("?", value) for unit, value in values if unit == ""}
    hedge = patterns.HEDGE.search(before)
    return replace(number, values=values, hedge=(hedge and hedge.lastgroup) or number.hedge)


def _ranges(text: str, numbers: list[Number]) -> list[Number]:
    """Give both ends of a range one unit: `£5-10m`, `5 or 6 percent`, `5-8 May`, `2014-15`."""
    for at in range(len(numbers) - 2, -1, -1):
        first, second = numbers[at : at + 2]
        link = patterns.RANGE.fullmatch(text, first.end, second.start)
        if not link:
            continue
        own, other = ({unit for unit, _ in n.values} - {"?"} for n in (first, second))
        plain = [value for unit, value in first.values if unit in own & {"", *SIGNS}]
        shared: set[Value] = set()
        if first.scale == 1 and (own == {""} or (link["to"] and other == {""})):
            units = other if own == {""} else own
            largest = max(value for _, value in second.values) / second.scale
            low = [value for value in plain if second.scale == 1 or value <= largest]
            shared = {(unit, value * second.scale) for unit in units for value in low}
        if "time" in other:
            shared = {("time", (60 * v + h) % 1440) for v in plain for h in (0, 720) if v < 13}
        numbers[at] = replace(first, values=first.values | shared)
        values = second.values
        if other == {""} and "date" in own:
            values |= {("date", value) for _, value in values if value < 32}
        if other == {""}:
            values |= {(unit, value) for unit in own & {*SIGNS} for _, value in values}
        if "" in other:
            years = [v for v in plain if link["to"] and 1000 <= v < 2100]
            values |= {("", y - y % 100 + v) for y in years for _, v in values if 0 <= v < 100}
        numbers[at + 1] = replace(second, values=values)
    return numbers
