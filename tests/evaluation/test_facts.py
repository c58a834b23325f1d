from decimal import Decimal

import pytest

from nutgraf.evaluation.facts import Facts

ARTICLE = (
    "John Smith and Alan Brown met in St. Louis, Missouri. Mr. Smith works for the Federal Bureau "
    "of Investigation in the United States. Footage showed Maria Lopez-Garcia, a George W. Bush "
    "adviser, with the Iraqi envoy of the U.N. and the Johnsons' neighbour. The minister said no."
)


def names(text, article=ARTICLE):
    return [text[name.start : name.end] for name in Facts(text, Facts(article)).names]


def supported(claim, article=ARTICLE):
    known = Facts(article)
    told = Facts(claim, known)
    return all(known.supports(fact) for fact in [*told.numbers, *told.names])


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("2,500 or 2500 or 2.5 thousand or two thousand five hundred", [{2500}] * 4),
        ("$1.5 million, 1.5bn, 3-2, 7.25%", [{1_500_000}, {1_500_000_000}, {3}, {2}, {7.25}]),
        ("the 23-year-old's 83rd goal in the 1990s", [{23}, {83}, {1990}]),
        ("twenty-five men, two dozen dogs, a hundred and ten cats", [{25}, {24}, {110}]),
        ("one of them came first, and once again", []),
        ("a 50m pool", [{50, 50_000_000}]),
        ("the G20 and flight MH370 met someone at ten", [{10}]),
        ("1,234.5 and 12.", [{1234.5}, {12}]),
    ],
)
def test_numbers_have_values(text, values):
    found = [number.values for number in Facts(text).numbers]
    assert found == [frozenset(map(Decimal, map(str, expected))) for expected in values]


@pytest.mark.parametrize(
    ("claim", "article", "answer"),
    [
        ("2.5 thousand sheep", "2,500 sheep", True),
        ("three sheep", "3 sheep", True),
        ("3 children", "a third child", True),
        ("1 child", "one child", True),
        ("2.5 million sheep", "2.5 billion sheep", False),
        ("2,500 sheep", "2,501 sheep", False),
        ("5 percent", "15 percent, 5.1 percent, 1,005", False),
    ],
)
def test_numbers_are_compared_by_value(claim, article, answer):
    assert supported(claim, article) is answer


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Police said John Smith's dog saw Mr. Brown and President Obama.", 3),
        ("He met Smith in St. Louis, Missouri.", 3),
        ("Yesterday it rained. They left. Meanwhile I slept.", 0),
        ("Blaze destroys a hotel.", 0),
        ("Footage shows the minister.", 0),
        ("Adviser Maria Lopez-Garcia spoke.", 1),
        ("everything here is lower case, john smith too", 0),
    ],
)
def test_names_are_told_from_other_capitals(text, expected):
    assert len(names(text)) == expected


def test_a_name_is_marked_without_its_title_and_possessive():
    assert names("Police told Mr. Smith's dog and President Jane Doe to go.") == [
        "Smith",
        "Jane Doe",
    ]
    assert names("Adviser Maria Lopez-Garcia spoke.") == ["Maria Lopez-Garcia"]


@pytest.mark.parametrize(
    ("claim", "answer"),
    [
        ("He saw Mr Smith.", True),
        ("He saw John Smith.", True),
        ("He saw George Bush.", True),
        ("He lives in the US.", True),
        ("He works for the FBI.", True),
        ("He is at the UN.", True),
        ("He went to Iraq.", True),
        ("He saw Johnson.", True),
        ("He saw Missouri Minister Alan Brown.", True),
        ("He saw John Brown.", False),
        ("Jane Smith spoke.", False),
        ("He saw Jane Smith.", False),
        ("He went to Texas.", False),
        ("He works for the CIA.", False),
        ("He sold it to us.", True),
    ],
)
def test_names_are_compared_by_their_words(claim, answer):
    assert supported(claim) is answer


def test_the_pronoun_is_not_the_country():
    assert not supported("He lives in the US.", "It was sold to us.")


def test_a_shorter_name_mentions_the_longer_one():
    known = Facts(ARTICLE)
    (name,) = Facts("He saw John Smith.", known).names
    assert Facts("Smith left.").mentions(name)
    assert Facts("they say smith left .").mentions(name)
    assert not Facts("John Brown left.").mentions(name)
    assert not Facts("Nobody left.").mentions(name)


def test_shared_facts_are_counted_once_in_their_longest_form():
    known = Facts("John Smith counted 12 sheep and 3 dogs.")
    told = Facts("He saw Smith.\nIt was John Smith, with 12 (twelve) sheep in Kent.", known)
    assert [told_words(fact) for fact in known.shared(told)] == [{12}, ("john", "smith")]


def told_words(fact):
    return getattr(fact, "words", None) or set(fact.values)
