"""Where sentences end: every case is one text, `|` its boundaries."""

import random

import pytest

from nutgraf.data.sentences import (
    article_sentences,
    sentence_spans,
    split_sentences,
    split_tokens,
)

CASES = """
The shop closed at 5 p.m. Monday.|It opened again.
It starts at 8 a.m. EST on Friday.|Be there.
Doors open at 9 a.m. Sept. 5 in Boston.
It ends at 6 p.m. ET Sunday on CNN.
He came at 4 p.m. (3 p.m. GMT).|He left.
It was on Wed. Jan. 5.|It rained.
At 11 P.M. New Year's Eve it ended.
He weighs 5 lbs. and is 6 ft. tall.|He flew to Boston, Mass. on Monday.
Ex-U.S. Marine John Smith left.|He was No. 5.|She was No. 6.
1. He left.|She stayed.
He left at 5 p.m.|The police arrived.
He left at 5 p.m.|He slept.
J. K. Rowling wrote it.|She is rich.
George W. Bush and J.K. Rowling spoke.|He left.
The U.S. Senate voted.|It passed.
He lives in the U.S.|He likes it.
President Obama, No. 10 and Gov. Jerry Brown met.|They talked.
The answer is no.|It will not happen.
St. Louis is big.|Sen. John McCain agreed.
Manchester United vs. Chelsea was fun.
He met Ms. Hunt.|Ms. Hunt left, approx. 5 miles away.
He works for Apple Inc. in Cupertino.
Rini said: ‘We must be patient.|They are young.’|He left.
"Go home," he said.|"You are late."|He went.
"Why?" she asked.|Nobody knew.
She yelled: "Help!|Fire!"|He ran.
She was in charge (he knew it.)|He stayed.
[It was late.]|She stayed.
He saw Kane's men's car.|A search of Smith's house followed.
He waited... then he left.
He waited…|Then he left… and came back.
It rose 5.3 percent to $1.5 million.|See www.example.com/a.b?c=D for more.
LONDON (Reuters) - Shares rose.|They fell later.
« Je viens. »|Il part.
Il a crié : « Va-t'en ! » avant de sortir.|« Pourquoi ? » demande-t-elle.
« C'est fini », dit Mme Roy à 10 h 30.|M. Roux et MM. Petit et Grand partent, à 12,5 km.
« On part ! »|Il est parti.
これは文です。|これも文です。
你好吗？|我很好！
सब ठीक है।|वह गया।
هل أنت بخير؟|نعم.
یہ ٹھیک ہے۔|وہ گیا۔
""".strip().splitlines()


@pytest.mark.parametrize("case", CASES)
def test_sentences_end_where_a_reader_ends_them(case):
    sentences = case.split("|")
    assert split_sentences(" ".join(sentences)) == sentences


def test_a_quotation_that_follows_without_a_space_is_of_the_next_sentence():
    assert article_sentences('Il est en finale."En tous cas", dit-il.') == [
        "Il est en finale.",
        '"En tous cas", dit-il.',
    ]


def test_an_elided_word_is_a_token_of_its_own():
    assert split_tokens("L’État dit qu'aujourd'hui N'Golo, d'Orly, n'a rien.") == (
        "l' etat dit qu' aujourd'hui n'golo , d' orly , n' a rien .".split()
    )
    assert split_tokens("Don't: it's O'Neill's.") == "do n't : it 's o'neill 's .".split()


def test_every_character_is_in_one_sentence():
    rng = random.Random(0)
    for _ in range(300):
        text = "".join(rng.choices("aB 5.!?…\"'”’()[]»«。ş\u0301\u200b", k=rng.randrange(1, 60)))
        assert "".join("".join(article_sentences(text)).split()) == "".join(text.split())
        assert all(start < end for _, start, end in sentence_spans(text, article_sentences))
