"""Choose among candidates by how much they agree."""

from __future__ import annotations

import numpy as np
import pytest

from nutgraf.evaluation.rouge import score_rouge
from nutgraf.generation.candidate_features import agreement
from nutgraf.generation.choose import choose, rate

TEXTS = [
    "The council voted for 2,500 new homes on Monday.",
    "The council voted for new homes.",
    "Homes: the council of Garehouse voted for 2,500 of them on Monday, and work begins in May.",
    "A dog was found in the river.",
    "",
]


def test_it_is_the_mean_rouge_1_and_2_with_the_others() -> None:
    expected = []
    for i, text in enumerate(TEXTS):
        others = [other for j, other in enumerate(TEXTS) if j != i]
        scores = [score_rouge(other, text, "unicode") if other else {"rouge1": 0.0, "rouge2": 0.0}
                  for other in others]  # fmt: skip
        expected.append(np.mean([(s["rouge1"] + s["rouge2"]) / 2 for s in scores]))
    assert agreement(TEXTS) == pytest.approx(expected)
    assert int(np.argmax(agreement(TEXTS))) == 0


def test_equal_candidates_support_each_other() -> None:
    assert agreement(["A dog ran.", "Homes are new.", "A dog ran."]).tolist() == [50.0, 0.0, 50.0]
    assert agreement(["A dog ran."]).tolist() == [100.0]


def test_support_comes_before_agreement_and_the_first_of_equals_is_taken() -> None:
    article = "Ann Lee met the council of Garehouse. It voted for 2,500 new homes on Monday."
    texts = [
        "The council of Garehouse voted for 5,200 homes.",
        "The council of Garehouse voted for 5,200 new homes.",
        "The council of Garehouse voted for 5,200 new homes on Tuesday.",
        "Ann Lee met the council.",
    ]
    rated = rate(article, texts)
    assert [row.unsupported for row in rated] == [1, 1, 2, 0]
    assert choose(rated, "consensus") == 1
    assert choose(rated, "support") == 3
    assert choose([rated[1], rated[1]], "consensus") == 0


def test_an_empty_candidate_is_chosen_only_if_all_are_empty() -> None:
    article = "Ann Lee met the council of Garehouse. It voted for 2,500 new homes on Monday."
    rated = rate(article, ["", "The council voted for 5,200 homes.", ""])
    assert rated[0].unsupported < rated[1].unsupported
    assert rated[0].agreement <= rated[1].agreement
    assert (choose(rated, "support"), choose(rated, "consensus")) == (1, 1)
    assert choose(rated[::2], "support") == 0
