"""Whether data are in English, and who says so if they are not."""

import pytest

from nutgraf.data import data_card
from nutgraf.data.language import is_english
from nutgraf.data.load import Split
from nutgraf.data.rows import Article
from nutgraf.pocket import newswire

FRENCH = (
    "Le ministre de l'Intérieur a annoncé mardi que les deux hommes avaient été arrêtés près de la "
    "frontière espagnole. Selon le parquet, on ignore encore la cause de l'incendie."
)
DUTCH = (
    "De minister zei dinsdag dat het nog te vroeg is om te zeggen of de brand was aangestoken. Het "
    "was de tweede brand van deze week in de stad, en de politie zoekt naar getuigen."
)
CHINESE = "部长周二表示，现在判断火灾原因还为时过早。这是本周该市发生的第二起火灾。" * 4

STORIES = [story.article for story in newswire.iter_stories("train", 20, 1)]


def split(*texts: str) -> Split:
    articles = [Article(f"{n}", text, "Oui.") for n, text in enumerate(texts)]
    return Split(articles, [], range(len(texts)), None, 1, "news.jsonl")


@pytest.mark.parametrize("text", [FRENCH, DUTCH, CHINESE, "x" * 100])
def test_another_language_is_not_english(text: str) -> None:
    assert not is_english(text)


@pytest.mark.parametrize("text", ["", "Il pleut.", *STORIES])
def test_english_is_and_so_is_what_is_too_short_to_know(text: str) -> None:
    assert is_english(text)
    assert is_english(text.upper())


def test_the_card_of_data_in_another_language_says_so_once() -> None:
    english = STORIES[0]
    card = data_card.build_card({"train": split(english, FRENCH), "test": split(DUTCH)})
    assert [counts["percent_english"] for counts in card["splits"].values()] == [50.0, 0.0]
    assert not data_card.all_english(card["splits"])
    (said,) = [line for line in card["warnings"] if "English" in line]
    assert said.startswith("articles in English: 50% of train, 0% of test; the indicators and ")
    assert data_card.all_english({"test": {}})  # a card of an earlier version
    card = data_card.build_card({"train": split(*[english] * 19, FRENCH)})
    assert not [line for line in card["warnings"] if "English" in line]
