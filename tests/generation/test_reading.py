"""Sentences are read behind passages: the numbers are the model's, and planted errors show."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from planting import KINDS, Article, plant

from nutgraf.config import ModelConfig
from nutgraf.evaluation.support import SupportJudge, probability_of
from nutgraf.generation.reading import Reader, load_reader
from nutgraf.pocket import newswire


@pytest.fixture(scope="module")
def reader() -> Reader:
    return load_reader(ModelConfig())


def test_ranks_are_those_of_the_model_whatever_is_read_beside() -> None:
    reader = load_reader(ModelConfig(dtype="fp32"))
    passages = "The council of Norwick met on Monday. It spoke of roads."
    texts = ["The council met.", "It spoke of roads and of nothing else on that day."]
    together = reader.read([(passages, text) for text in texts])
    for text, reading in zip(texts, together, strict=True):
        prompt = reader._renderer.prompt(passages).ids
        ids = torch.tensor([[*prompt, *reader._renderer.answer(text)]])
        with torch.inference_mode():
            logits = reader._model(input_ids=ids).logits[0, len(prompt) - 1 : -1].float()
        own = logits.log_softmax(-1).gather(1, ids[0, len(prompt) :, None])
        rank = (logits.log_softmax(-1) > own).sum(1).numpy()
        np.testing.assert_allclose(np.log1p(reading.rank), np.log1p(rank), atol=0.01)


def test_every_kind_of_planted_error_is_ranked_below_the_newswires_own_sentences(
    reader: Reader,
) -> None:
    # Its references retell, which the untrained pocket model does not foresee (docs/indicators.md).
    rows = []
    for n, story in enumerate(newswire.stories("test", 12, seed=3)):
        article, judge, rng = Article(story.article), SupportJudge(story.article), random.Random(n)
        for sentence in article.sentences[:4]:
            rows.append((judge, sentence, "true"))
            planted = ((plant(article, sentence, kind, rng), kind) for kind in KINDS)
            rows += [(judge, text, kind) for text, kind in planted if text]
    readings = reader.read([(judge.passages(text), text) for judge, text, _ in rows])
    measured = [j.measures(text, r) for (j, text, _), r in zip(rows, readings, strict=True)]
    kinds = np.array([kind for _, _, kind in rows])
    for values, least in (
        (np.array([probability_of(one) for one in measured]), 0.9),
        (np.array([one["rank"] for one in measured]), 0.7),  # without what is copied
    ):
        true = values[kinds == "true"]
        for kind in set(KINDS) - {"coreference"}:  # it has no pronoun of a person
            wrong = values[kinds == kind]
            auc = np.mean((true[:, None] > wrong) + (true[:, None] == wrong) / 2)
            assert auc > least, (kind, auc)


def test_a_summary_of_the_articles_own_sentences_is_not_doubted(reader: Reader) -> None:
    stories = list(newswire.stories("test", 6, seed=4))
    for story in stories:
        (sentences,) = reader.check(story.article, [" ".join(story.article.split(". ")[:2]) + "."])
        assert sentences
        assert not any(one["doubted"] for one in sentences)
    text = "Zebras bought the moon for 17 euros. " + stories[0].article.split(". ")[0] + "."
    first, second = reader.check(stories[0].article, [text])[0]
    assert (first["doubted"], second["doubted"]) == (True, False)
    assert reader.check(stories[0].article, ["", "..."]) == [[], []]
    ((only,),) = reader.check("...", ["Zebras bought the moon."])  # an article without a sentence
    assert (only["doubted"], only["passages"]) == (True, [])
