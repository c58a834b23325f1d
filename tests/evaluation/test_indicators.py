import math
import random
import re
import time

import pandas as pd
import pytest

from nutgraf.data import sentences
from nutgraf.evaluation import indicators as errors
from nutgraf.evaluation.facts import Facts, Number
from nutgraf.pocket.newswire import stories

ARTICLE = (
    "John Smith, a farmer from Kent, told the U.S. Senate on Monday that 2,500 sheep had died. "
    "The farmer said the loss came to $1.5m. Alan Brown, who owns two farms, agreed with Smith."
)
REFERENCE = "John Smith told the Senate on Monday that 2,500 sheep died.\nAlan Brown agreed."


FINISHED = (
    "oui. »", "„Ja.“", "»Ja.«", "“so.”", "これ。", "「これ。」", "है।", "هل؟", "یہ۔", "好！", "好？",
    "Ամեն։", "ነው።", "It ended. [1]", "ended.[1][2]", "ended.¹", "**ended.**",
    "won! 🎉", "won.👍🏽", "won. :)", "Why?…", "ended. |", "Why?..", "Why...?",
)  # fmt: skip


def indicators(summary, **options):
    return errors.indicators(ARTICLE, REFERENCE, summary, **options)


def marked(summary, kind, article=ARTICLE):
    return [
        summary[start:end] for start, end, k in errors.flagged_spans(article, summary) if k == kind
    ]


def test_every_indicator_is_a_number_with_a_meaning():
    for summary in (REFERENCE, "", "…", "no full stop"):
        figures = indicators(summary)
        assert list(figures) == list(errors.MEANINGS)
        assert all(math.isfinite(value) for value in figures.values())
    assert all(meaning.endswith(".") for meaning in errors.MEANINGS.values())


def test_the_reference_of_a_sound_article_has_no_slip():
    figures = indicators(REFERENCE)
    assert figures["unsupported_names"] == figures["unsupported_numbers"] == 0
    assert (
        figures["missing_key_facts"] == figures["unfinished"] == figures["repeated_sentences"] == 0
    )
    assert figures["length_ratio"] == 1
    assert figures["key_facts"] == 5  # John Smith, Senate, Monday, 2,500, Alan Brown
    assert errors.flagged_spans(ARTICLE, REFERENCE) == []


@pytest.mark.parametrize(
    ("summary", "reason", "unfinished"),
    [
        ("It ended.", "stop", 0),
        ("It ended.", "length", 1),
        ("It ended", "stop", 1),
        ("he said so . ''", None, 0),
        ("he said so . ``", None, 0),
        ("He said “so.”\n", None, 0),
        ("Is it?)", "extract", 0),
        ("", "stop", 1),
        *((f"{end} ", None, 0) for end in FINISHED),
        *((f"It ended{end}", None, 1) for end in ("...", "…", " . . .", "...'", ":", ",", ")")),
    ],
)
def test_unfinished(summary, reason, unfinished):
    assert indicators(summary, finish_reason=reason)["unfinished"] == unfinished


def test_repetition_is_counted_and_marked():
    summary = "Sheep died in Kent.\nA farmer spoke.\nSheep died in Kent."
    figures = indicators(summary)
    assert figures["repeated_sentences"] == 1
    assert figures["repeated_trigrams"] == pytest.approx(3 / 12)
    assert marked(summary, "repeated_sentences") == ["Sheep died in Kent."]
    assert marked(summary, "repeated_trigrams") == ["Sheep died in Kent."]
    assert summary.rindex("Sheep") == errors.flagged_spans(ARTICLE, summary)[0][0]


def test_where_an_unfinished_summary_stops_is_marked():
    assert marked("It rained. Then the", "unfinished") == ["the"]
    assert marked("It rained.", "unfinished") == []
    assert errors.flagged_spans(ARTICLE, "It rained.", "length") == [(9, 10, "unfinished")]
    assert errors.flagged_spans(ARTICLE, "") == []


def test_what_a_summary_misses_is_marked_in_the_reference():
    def missed(summary):
        spans = errors.missed_key_facts(ARTICLE, REFERENCE, summary)
        assert len(spans) == indicators(summary)["missing_key_facts"]
        assert all(kind == "missing_key_facts" for _, _, kind in spans)
        return [REFERENCE[start:end] for start, end, _ in spans]

    assert missed(REFERENCE) == []
    assert missed("Smith told the Senate.") == ["Monday", "2,500", "Alan Brown"]
    assert missed("") == ["John Smith", "Senate", "Monday", "2,500", "Alan Brown"]


def test_copied_fragments_are_marked_from_four_tokens_on():
    summary = "A farmer said the loss came to much, John Smith told Ann."
    copied = [(summary[a:b], kind) for a, b, kind in errors.copied_spans(ARTICLE, summary)]
    assert copied == [("said the loss came to", "copied")]  # `A farmer`: two, `John Smith`: two


def test_many_rows_are_as_one_by_one():
    rows = [(ARTICLE, REFERENCE, REFERENCE, None), (ARTICLE, REFERENCE, "It ended.", "length")]
    assert errors.indicators_many(rows) == [errors.indicators(*row) for row in rows]


def test_an_article_s_summaries_are_judged_as_each_is_alone():
    judge = errors.SummaryJudge(ARTICLE, REFERENCE)
    for summary in ("", REFERENCE, "Obama met 3 sheep.", "Obama met 3 sheep. Obama met 3 sheep."):
        assert judge.indicators(summary, "length") == indicators(summary, finish_reason="length")


def test_copying_by_hand():
    # Grusky et al. 2018: fragments `a b` and `c d e` of six tokens.
    figures = errors.indicators("a b x c d e y y y y y y", "a", "a b c d e z")
    assert figures["coverage"] == pytest.approx(5 / 6)
    assert figures["density"] == pytest.approx((4 + 9) / 6)
    assert figures["compression"] == 2
    assert figures["novel_1grams"] == pytest.approx(1 / 6)
    assert figures["novel_2grams"] == pytest.approx(2 / 5)
    assert figures["novel_4grams"] == 1


def test_where_copied_tokens_come_from():
    article = "a b c d e f g h i j k"  # places 0, 0.1 ... 1
    for summary, place in [("a", 0), ("k", 1), ("a b c", 0.1), ("a z k", 0.5), ("b d j k", 0.575)]:
        assert errors.indicators(article, "a", summary)["copied_from"] == pytest.approx(place)
    assert errors.indicators(article, "a", "z y")["copied_from"] == 0.5
    assert errors.indicators("a", "a", "a")["copied_from"] == 0


def test_least_support_is_that_of_the_sentence_least_at_home_in_one_stretch():
    filler = " ".join(f"filler{n}" for n in range(200))
    article = f"The mayor of Kent opened a bridge. {filler} A dog bit the baker of Dover."
    for summary, support in [
        ("The mayor opened the bridge.", 1),
        ("The mayor opened the bridge. The dog bit the baker.", 1),
        ("The mayor bit the baker.", 2 / 3),
        ("The mayor opened the bridge. The mayor bit the dog of Dover.", 3 / 4),
        ("Nobody swam.", 0),
        ("", 0),
    ]:
        least = errors.indicators(article, "A.", summary)["least_support"]
        assert least == pytest.approx(support), summary


def test_fragments_are_the_longest_and_cover_what_is_copied():
    rng = random.Random(0)
    for _ in range(50):
        article, summary = rng.choices("abcdef", k=60), rng.choices("abcdefgh", k=20)
        fragments = errors.extractive_fragments(article, summary)
        for at, source, length in fragments:
            assert summary[at : at + length] == article[source : source + length]
        covered = {at + i for at, _, length in fragments for i in range(length)}
        assert covered == {at for at, token in enumerate(summary) if token in article}


def test_tokenized_and_plain_text_have_the_same_tokens():
    plain = "He said \"I don't\" — it's Smith's 2.5 percent, isn't it?"
    tokenized = "he said `` i do n't '' — it 's smith 's 2.5 percent , is n't it ?"
    assert sentences.split_tokens(plain) == sentences.split_tokens(tokenized)


def test_what_the_article_lacks_is_counted_and_marked():
    summary = "John Brown told the House on Friday that 3,500 sheep died."
    figures = indicators(summary)
    assert (figures["unsupported_names"], figures["unsupported_numbers"]) == (3, 1)
    assert marked(summary, "unsupported_names") == ["John Brown", "House", "Friday"]
    assert marked(summary, "unsupported_numbers") == ["3,500"]
    assert figures["missing_key_facts"] == 5


def test_lower_cased_text_says_that_it_hides_its_names():
    figures = errors.indicators(ARTICLE.lower(), REFERENCE.lower(), "obama met 3 sheep .")
    assert (figures["cased"], figures["names"], figures["unsupported_names"]) == (0, 0, 0)
    assert figures["unsupported_numbers"] == 1
    assert figures["key_facts"] == 1  # 2,500: numbers are seen all the same


def test_capitals_after_full_stops_only_hide_the_names_too():
    recased = "John smith told the senate on monday that 2,500 sheep died .\nAlan brown agreed ."
    figures = indicators(recased)
    assert figures["cased"] == 0
    assert figures["missing_key_facts"] == 0
    assert indicators("Smith told the Senate on Monday.")["cased"] == 1
    assert indicators("Sheep died.")["cased"] == 1
    # One common word that a name of the article has too does not make a text lower-cased.
    assert indicators("A smith told the Senate on Monday.")["cased"] == 1


def test_a_surname_is_enough_in_text_that_hides_its_names():
    assert indicators("The farmer smith told the senate on monday .")["missing_key_facts"] == 2
    assert indicators("The farmer smith told the Senate on Monday.")["missing_key_facts"] == 3


@pytest.mark.parametrize(
    ("system", "known"),
    [
        ("highlights", (0.886, 3.99, 14.4, 0.11, 0.49, 0.70, 0.80)),
        ("pgn_cov", (0.999, 27.7, 13.6, 0.00, 0.03, 0.07, 0.11)),
        ("seq2seq", (0.938, 8.94, 16.9, 0.06, 0.21, 0.36, 0.46)),
    ],
)
def test_known_figures_of_real_systems(shared, system, known):
    """Within the sampling error: 250 articles here, 2,000 others behind the known figures."""
    rows = pd.read_parquet(shared / "cnndm-test-a.parquet").sample(250, random_state=1)
    figures = pd.DataFrame(
        errors.indicators(row.article, row.highlights, getattr(row, system))
        for row in rows.itertuples()
    )
    names = ["coverage", "density", "compression", *(f"novel_{n}grams" for n in (1, 2, 3, 4))]
    for name, value in zip(names, known, strict=True):
        noise = figures[name].std() * math.sqrt(1 / 250 + 1 / 2000)
        assert abs(figures[name].mean() - value) < 3 * noise + 0.005, name


@pytest.fixture(scope="module")
def newswire():
    return stories("test", 60, seed=1)


def named(story):
    """The facts of the reference that are names or numbers, as written there."""
    values = {story.facts[name] for name in story.key_facts}
    return sorted(v for v in values if re.match(r"[A-Z\d]", v) and v in story.reference)


def test_true_references_carry_no_flag(newswire):
    for story in newswire:
        kinds = {kind for _, _, kind in errors.flagged_spans(story.article, story.reference)}
        assert not kinds & {"unsupported_names", "unsupported_numbers"}, story.reference


def test_key_facts_are_those_that_the_story_was_made_from(newswire):
    seen = expected = 0
    for story in newswire:
        known = Facts(story.article)
        key = known.shared(Facts(story.reference, known))
        written = [story.reference[fact.start : fact.end] for fact in key]
        expected += len(named(story))
        seen += sum(any(v in w or w in v for w in written) for v in named(story))
    assert expected > 300
    assert seen / expected > 0.99


def test_a_swapped_name_or_number_is_flagged(newswire):
    flagged = missed = swapped = 0
    for story in newswire:
        for value in named(story):
            number = isinstance(Facts(value).numbers[:1] and Facts(value).numbers[0], Number)
            wrong = "7,777,777" if number else re.sub(r"\b(\w)\w*", r"\1ottleby", value)
            figures = errors.indicators(
                story.article, story.reference, story.reference.replace(value, wrong)
            )
            swapped += 1
            flagged += figures["unsupported_names"] + figures["unsupported_numbers"] > 0
            missed += figures["missing_key_facts"] > 0
    assert swapped > 300
    # A single unknown name that opens a sentence cannot be told from a common word.
    assert flagged / swapped > 0.9
    assert missed == swapped


def test_long_runs_of_one_character_take_linear_time() -> None:
    for character in "_a'.-":
        started = time.process_time()
        sentences.split_tokens(character * 50_000)
        # Quadratic work on the underscores took 27 s.
        assert time.process_time() - started < 5
