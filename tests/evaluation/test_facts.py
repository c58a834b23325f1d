from decimal import Decimal

import pytest

from nutgraf.evaluation.facts import Facts

ARTICLE = (
    "John Smith and Alan Brown met in St. Louis, Missouri. Mr. Smith works for the Federal Bureau "
    "of Investigation in the United States. Footage showed Maria Lopez-Garcia, a George W. Bush "
    "adviser, with the Iraqi envoy of the U.N. and the Johnsons' neighbour. The minister said no."
)


SAME = [
    ("half a million men", "500,000 men"),
    ("500,000 men", "half a million men, a quarter of a million"),
    ("250,000 men", "quarter million"),
    ("750,000 men", "three quarters of a million"),
    ("5.5 years", "five-and-a-half years"),
    ("five and a half years", "5½ years"),
    ("2.5 million", "two and a half million"),
    ("1.5 cups", "1 1/2 cups"),
    ("5pm", "17:00"),
    ("17:00", "5 p.m. on Monday"),
    ("9.30am", "9:30"),
    ("09:30", "half a dozen by 9.30am"),
    ("five o'clock", "5pm"),
    ("12:00", "at noon"),
    ("10am", "he woke up at 10."),
    ("more than 13,000", "13,624 people"),
    ("nearly 14,000", "13,624 people"),
    ("about 13,600", "13,624 people"),
    ("over 100 bodies", "the bodies of 118 people"),
    ("£100 million", "£100m"),
    ("$1.5 million", "1,500,000 dollars"),
    ("£10m", "£5-10m and £20"),
    ("£5 million", "£5-10m"),
    ("50p", "£0.50"),
    ("# 46million", "£46million"),
    ("$4.5 million", "$4. 5million"),
    ("six men", "half a dozen men"),
    ("12 men", "a dozen men"),
    ("two men", "a couple of men"),
    ("5 per cent", "5%, 6 percent"),
    ("5 percent", "5 or 6 percent"),
    ("67 percent", "two-thirds of them"),
    ("33%", "a third of them"),
    ("25%", "a quarter of them"),
    ("10 per cent", "one in 10 homes"),
    ("two thirds", "66.7%"),
    ("21st place", "the twenty-first place"),
    ("10 and 12", "10-12 days"),
    ("8 May", "5-8 May"),
    ("March 23", "from March 16 to 23"),
    ("May 5", "the 5th of May"),
    ("the 1990s", "the '90s"),
    ("the '80s", "the eighties"),
    ("2015", "in 2014-15"),
    ("2015", "twenty fifteen"),
    ("1984", "nineteen eighty-four"),
    ("1234567", "1.234.567"),
    ("1,234,567", "1'234'567"),
    ("28,000", "28\u00a0000 and 28 000"),
    ("2.5 million", "2,5 millions d'euros"),
    ("10 crore", "100 million"),
    ("World War Two", "World War II"),
    ("0800 123 456", "0800-123-456"),
    ("3-1", "3-1"),
    ("ten and twelve", "between 10 and 12"),
    ("at 15.30", "3.30pm"),
    ("between $1,500 and 7,500", "$1,500 and $7,500 each"),
    ("one in five", "20% of them"),
    ("1.5 million", "a million and a half"),
]
SAME += [
    ("more than a dozen", "14 people"),
    ("nearly two dozen", "23 people"),
    ("500 people", "five or six hundred people"),
    ("half past five", "5.30pm"),
    ("4:45pm", "at a quarter to five"),
    ("8pm", "eight in the evening"),
    ("2,5 Mio. Euro", "€2.5m"),
    ("100 US dollars", "A$100 or $100"),
    ("€5", "5 EUR"),
    ("$500 million", "half a billion dollars"),
    ("0.5%", "half a per cent"),
    ("5%", "5 pour cent"),
    ("20 years", "two decades"),
    ("1.5 hours", "an hour and a half"),
    ("10 times", "tenfold"),
    ("1,000,000", "1 000 000"),
    ("July 4", "the Fourth of July"),
    ("2014-2015", "2014/15"),
    ("in his 30s", "aged 34"),
    ("in the 1990s", "in 1994"),
    ("20%", "1-in-5"),
    ("0 goals", "no goals"),
    ("minus 5C", "-5C"),
    ("three goals", "a hat trick"),
    ("seek 17 percent, and they offer 2.", "17 percent, but 2 percent was offered"),
    ("2 percent", "seek 17 percent, and they offer 2."),
]
SAME += [
    ("5.234 habitants", "5 234 habitants"),
    ("1 234,5 tonnes", "1,234.5 tonnes"),
    ("2,5 millions d'euros", "€2.5m"),
    ("10 h 30", "10:30"),
    ("15 membres", "quinze membres"),
    ("près de 70 élus", "68 élus"),
    ("plus de 13 000 élèves", "13.624 élèves"),
]
OTHER = [
    ("100 buses", "£100m"),
    ("100 buses", "£100"),
    ("£1,000", "$1,000"),
    ("5 men", "5pm"),
    ("5pm", "5am, 5 men"),
    ("5 percent", "5 men"),
    ("5 men", "5 percent, May 5"),
    ("in the 1990s", "in 1984"),
    ("nearly two dozen", "25 people"),
    ("5 cents", "5 pour cent"),
    ("$500 million", "half a billion people"),
    ("22 men", "between ten and twelve"),
    ("20 men", "the twenty-first"),
    ("13,000", "13,624 people"),
    ("more than 14,000", "13,624 people"),
    ("nearly 13,000", "13,624 people"),
    ("more than 2 million", "13,624 people"),
    ("500,000", "a million, half"),
    ("2015", "2014-16"),
    ("0800 123 457", "0800 123 456"),
    ("World War Two", "World War I"),
    ("5 235 habitants", "5 234 habitants"),
    ("2,5 km", "2,3 km"),
    ("12 tonnes", "12,5 tonnes"),
]


def names(text, article=ARTICLE):
    return [text[name.start : name.end] for name in Facts(text, Facts(article)).names]


def supported(claim, article=ARTICLE):
    known = Facts(article)
    claimed = Facts(claim, known)
    return all(known.supports(fact) for fact in [*claimed.numbers, *claimed.names])


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("2,500 or 2500 or 2.5 thousand or two thousand five hundred", [{2500}] * 4),
        ("$1.5 million, 1.5bn, 3-2, 7.25%", [{1_500_000}, {1_500_000_000}, {3}, {2}, {7.25}]),
        ("the 23-year-old's 83rd goal in the 1990s", [{23}, {83}, {1990}]),
        ("twenty-five men, two dozen dogs, a hundred and ten cats", [{25}, {24}, {110}]),
        ("one of them came first, and once again", []),
        ("a 50m pool", [{50, 50_000_000}]),
        ("the G20 and flight MH370 met someone at ten", [{10, 600, 1320}]),
        ("1,234.5 and 12.", [{1234.5}, {12}]),
    ],
)
def test_numbers_have_values(text, values):
    parsed = [{value for _, value in number.values} for number in Facts(text).numbers]
    assert parsed == [set(map(Decimal, map(str, expected))) for expected in values]


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
        *(
            (claim, article, answer)
            for answer, pairs in ((True, SAME), (False, OTHER))
            for claim, article in pairs
        ),
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


@pytest.mark.parametrize(
    ("claim", "article", "answer"),
    [
        # Initials are those of an acronym that is written as one.
        ("He saw Alton Towers.", "He was at home. Nobody spoke.", False),
        ("He saw Alton Towers.", "POLICE LOOK AT MEN. Nobody spoke.", False),
        ("He saw Ian Smith.", "It is here.", False),
        ("He met the Federal Bureau.", "He met the FB.", True),
        ("He met the Federal Bureau.", "He met the F.B. there.", True),
        ("The plane of Ian Allen Nash.", "He said Ian is ian.", False),
        ("He met Ant.", "He met the American Nurses Trust.", False),
        ("He met ANT.", "He met the American Nurses Trust.", True),
        (
            "He met FBI Director James Comey.",
            "Federal Bureau of Investigation. James Comey, director.",
            True,
        ),
        # Common words, and words of which a name begins.
        ("He saw Rose West.", "A rose in the west.", False),
        ("He is a World Champion.", "He is a world champion.", True),
        ("He saw Messi and Roberts.", "A mess. The hear robert.", False),
        ("He saw Hearn.", "I hear.", False),
        ("He is American.", "He lives in America.", True),
        # What opens a sentence is no part of a name.
        (
            "Former Wales captain Sam left.",
            "The captain of Wales, Sam, left. New South Wales won.",
            True,
        ),
        ("Striker Messi scored.", "He saw Messi score. Lionel Messi left.", True),
        ("Wales won.", "Former Wales captain Sam left.", True),
        ("Jane Smith spoke.", "He saw John Smith.", False),
        # Accents, and what is not seen.
        ("He saw Erdogan.", "He saw Erdoğan.", True),
        ("He saw Erdoğan.", "He saw Erdogan.", True),
        ("He saw Erdog\u0306an.", "He saw Erdoğan.", True),
        ("He saw Łukasz Müller.", "He saw Lukasz Muller.", True),
        ("He saw O\u200bba\ufeffma and Sm\u00adith.", "He saw Obama and Smith.", True),
        ("He saw Obama.", "He saw Ob\x07ama.", True),
        ("He saw the French.", "He lives in France.", True),
        ("He saw the French.", "He lives in Spain.", False),
        ("He met J.K. Rowling.", "J. K. Rowling left.", True),
        ("He works for the NHS.", "The National Health Service.", True),
        ("He lives in the USA.", "He lives in the US.", True),
        ("He met PM Cameron.", "He met Prime Minister Cameron.", True),
        ("POLICE SAW JOHN SMITH.", "Police saw a man.", True),
        ("He saw Super Bowl XLIX.", "He saw Super Bowl XLIX.", True),
        # French puts a word without its vowel before a name, and English names have such.
        ("Il vient d'Espagne.", "L'Espagne, l'Italie.", True),
        ("L'Espagne gagne.", "Il va en Italie.", False),
        ("Le corps d’Alexia Daval.", "Il dit qu'Alexia Daval est morte.", True),
        ("Invité d'Europe 1.", "Il parle sur Europe 1.", True),
        ("C'est Macron.", "Emmanuel Macron parle.", True),
        ("D'Oliveira hit 28.", "A bowler, Brett D'Oliveira, hit 28.", True),
        ("He saw Brett D'Oliveira.", "Brett Smith saw Anna D'Oliveira.", False),
    ],
)
def test_a_name_is_supported_only_if_it_is_there(claim, article, answer):
    assert supported(claim, article) is answer


def test_names_and_numbers_keep_their_places_in_the_text():
    text = "He saw O\u200bba\ufeffma, Erdog\u0306an and Straße for £5\u00a0000."
    facts = Facts(text, Facts("Nobody."))
    spans = [text[fact.start : fact.end] for fact in [*facts.names, *facts.numbers]]
    assert spans == ["O\u200bba\ufeffma", "Erdog\u0306an", "Straße", "£5\u00a0000"]


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
    claimed = Facts("He saw Smith.\nIt was John Smith, with 12 (twelve) sheep in Kent.", known)
    assert [words_of(fact) for fact in known.shared(claimed)] == [{12}, ("john", "smith")]


def words_of(fact):
    return getattr(fact, "words", None) or {value for _, value in fact.values}
