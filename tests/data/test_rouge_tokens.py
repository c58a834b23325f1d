"""What ROUGE compares in every script, and what share of the letters rouge-score's own keeps."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from nutgraf.config import DataConfig
from nutgraf.core.errors import UserError
from nutgraf.data import data_card, load
from nutgraf.data.rouge_tokens import has_rouge_tokens, letters_counted, rouge_tokens
from nutgraf.evaluation import rouge
from nutgraf.generation import extractive


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("Сухопутные войска РФ в 2015 году!", "сухопутные войска рф в 2015 году"),
        ("हिन्दी में समाचार है।", "हिन्दी में समाचार है"),  # vowel signs are no ends of words
        ("مُحَمَّد ذهب عام ٢٠١٥ إلى المدرســة", "محمد ذهب عام 2015 إلى المدرسة"),
        ("می‌رود میرود", "میرود میرود"),
        ("שָׁלוֹם שלום־עולם", "שלום שלום עולם"),
        ("東京は２０２０年、オリンピックー", "東 京 は 2020 年 オ リ ン ピ ッ ク ー"),
        ("北京iPhone 15发布", "北 京 iphone 15 发 布"),
        ("ภาษาไทยดี ที่", "ภ า ษ า ไ ท ย ดี ที่"),
        ("서울의 뉴스, 3개", "서울의 뉴스 3개"),
        ("Straße STRASSE İzmir izmir", "strasse strasse izmir izmir"),
        ("п’ять пʼять d'Orsay a_b", "п ять п ять d orsay a b"),
        ("House prices rose 1,000; £5m ❤️", "house prices rose 1 000 5m"),  # unstemmed
    ],
)
def test_unicode_tokens(text: str, tokens: str) -> None:
    assert rouge_tokens(text, "unicode") == tokens.split()
    for form in ("NFC", "NFD", "NFKC"):
        assert rouge_tokens(unicodedata.normalize(form, text), "unicode") == tokens.split()


@pytest.mark.parametrize(
    ("reference", "other"),
    [
        ("сухопутные войска рф в 2015 году", "цены на нефть выросли в 2015 году"),
        ("北京在2015年举行冬奥会投票", "股市2015年大跌"),
        ("सेना ने 2015 में कहा", "तेल 2015 महंगा"),
    ],
)
def test_a_text_of_another_script_scores_100_against_itself_and_less_against_another(
    reference: str, other: str
) -> None:
    assert set(rouge.score_rouge(reference, reference, "unicode").values()) == {100}
    assert rouge.score_rouge(reference, other, "unicode")["rouge1"] < 60
    assert rouge.score_rouge(reference, other)["rouge1"] == 100  # why it is refused
    assert letters_counted(reference) == 0


def test_sentences_of_other_scripts_count_for_rougelsum() -> None:
    scores = rouge.score_rouge("今天很好。我们去公园。", "我们去公园。今天很好。", "unicode")
    assert scores["rougeLsum"] == 100
    assert scores["rougeL"] < 100


def test_the_share_of_letters_that_count() -> None:
    assert letters_counted("Plain text, 2015.") == letters_counted("2015 — 3%") == 1
    assert letters_counted("Größe") == letters_counted("Gro\u0308ße") == pytest.approx(3 / 5)
    assert letters_counted("iPhone 在北京") == pytest.approx(6 / 9)
    assert letters_counted("I ❤️ it") == 1
    assert [has_rouge_tokens("Да.", name) for name in ("rouge-score", "unicode")] == [False, True]
    assert not has_rouge_tokens("…!", "unicode")


def test_extracts_go_by_the_words_of_other_scripts() -> None:
    article = "Погода хорошая. Цены на нефть выросли. Собака спит. Кошка спит. Река течёт."
    assert extractive.oracle(article, "Выросли цены на нефть.", "unicode") == (
        "Цены на нефть выросли."
    )
    assert extractive.oracle(article, "Выросли цены на нефть.") == "Погода хорошая."
    assert extractive.textrank("А б. В г. Б г. Д е.", "unicode") == "А б.\nВ г.\nБ г."
    assert extractive.textrank("Д е. А б. В г. Б г.", "unicode") == "А б.\nВ г.\nБ г."


RUSSIAN = [
    f'{{"article": "Статья {n} о нефти.", "highlights": "Нефть в 20{n}."}}' for n in range(10, 20)
]
GERMAN = [
    f'{{"article": "Ein Text {n}.", "highlights": "Die Größe {n} wächst schnell an."}}'
    for n in range(10)
]


def test_a_study_of_another_script_is_refused_at_once_or_takes_the_unicode_tokenizer(
    tmp_path: Path,
) -> None:
    path = tmp_path / "rows.jsonl"
    data = DataConfig(**dict.fromkeys(("train", "validation", "test"), str(path)))
    path.write_text("\n".join(RUSSIAN))
    reason = (
        r"counts only the letters a-z, 0\.0% of the references' letters .*: set score\.tokenizer"
    )
    with pytest.raises(UserError, match=reason):
        load.load_articles(data, "test")
    split = load.load_articles(data, "test", tokenizer="unicode")
    assert (len(split.articles), split.letters) == (10, 1)
    path.write_text("\n".join(GERMAN))
    card = data_card.build_card({"test": load.load_articles(data, "test")})
    assert card["splits"]["test"]["letters_counted"] == pytest.approx(100 * 20 / 23, abs=0.01)
    assert "ROUGE counts 86.96% of the letters of the summaries (a-z)" in card["warnings"][-1]
