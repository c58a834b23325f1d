"""Where a summary is cut, and what of it is shown while it is written."""

from __future__ import annotations

from typing import Any, cast

import pytest

from nutgraf.config import GenerateConfig
from nutgraf.evaluation.indicators import indicators
from nutgraf.generation.draft import Draft, at_most, cut_sentences

ENGLISH = "Mr. Lee won by 2.5 points at 5 p.m. Wednesday. He left! Then it rained in"
FRENCH = "L'État d'Espagne paiera 1 234,5 euros. « C'est trop ! » a dit M. Durand. Il s'en"
LINES = "Homes for Garehouse\nThe council voted on Monday.\nWork begins in May, the mayor of"
QUOTED = '"Why not?" she asked. "We won." The U.S. team (all of it) went home... Ms. Hunt'
TEXTS = (ENGLISH, FRENCH, LINES, QUOTED, "it ended . '' he left ! '' then it", "他赢了。然后", "")
SETTINGS = [
    GenerateConfig(max_sentences=limit, whole_sentences=whole)
    for limit, whole in ((None, True), (1, True), (2, False))
]


class Letters:
    """A tokenizer whose tokens are characters."""

    def text(self, ids: list[int]) -> str:
        return "".join(map(chr, ids)).strip()


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        (ENGLISH, ENGLISH.removesuffix(" Then it rained in")),
        (FRENCH, FRENCH.removesuffix(" Il s'en")),
        (LINES, "Homes for Garehouse\nThe council voted on Monday."),
        ("The council voted. It met Mr.", "The council voted."),
        ("The council voted.\nIt met the mayor.", None),
        ('He said: "It rains."', None),
        ("它赢了。他走", "它赢了。"),
    ],
)
def test_what_reached_the_limit_is_cut_after_its_last_whole_sentence(
    text: str, whole: str | None
) -> None:
    settings = GenerateConfig(whole_sentences=True)
    assert cut_sentences(text, "length", settings) == (whole or text, "sentences")
    assert not indicators(text, text, whole or text, "sentences")["unfinished"]
    # The model's own end stands, and so does what has no whole sentence.
    assert cut_sentences(text, "stop", settings) == (text, "stop")
    assert cut_sentences(text, "length", GenerateConfig()) == (text, "length")
    for open_one in ("The council of", "It met Mr.", ""):
        assert cut_sentences(open_one, "length", settings)[0] == open_one
    assert cut_sentences("The council of", "length", settings)[1] == "length"


def test_the_smaller_number_of_sentences_wins() -> None:
    text = "Mr. Lee won 2.5 points. He left!\nThen it rained."
    one, two = "Mr. Lee won 2.5 points.", "Mr. Lee won 2.5 points. He left!"
    for own, requested, expected in (
        (None, None, (text, "stop")), (1, None, (one, "sentences")), (None, 2, (two, "sentences")),
        (1, 2, (one, "sentences")), (3, 2, (two, "sentences")), (3, None, (text, "stop")),
        (3, 4, (text, "stop")),
    ):  # fmt: skip
        settings = at_most(requested, GenerateConfig(max_sentences=own))
        assert cut_sentences(text, "stop", settings) == expected
    both = GenerateConfig(max_sentences=2, whole_sentences=True)
    assert cut_sentences("One. Two.", "stop", both) == ("One. Two.", "stop")
    assert cut_sentences("One man. And one of", "length", both) == ("One man.", "sentences")
    assert cut_sentences("", "length", both) == ("", "length")


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("reason", ["stop", "length"])
def test_a_stream_shows_nothing_that_is_cut_later(settings: GenerateConfig, reason: str) -> None:
    for text in TEXTS:
        for end in {*range(0, len(text), 3), len(text)}:
            draft, shown, ids = Draft(cast(Any, Letters()), settings), "", [*map(ord, text[:end])]
            for token in ids:
                shown += draft.add(token)
                if draft.cut:
                    break
            shown += draft.end(reason)
            expected = cut_sentences(Letters().text(ids), reason, settings)
            assert (shown, draft.text, draft.finish_reason) == (expected[0], *expected)
