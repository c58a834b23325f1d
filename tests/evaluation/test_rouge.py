import math
import statistics

import numpy as np
import pandas as pd
import pytest
from rouge_score.rouge_scorer import RougeScorer
from scipy import stats

from nutgraf.core import units
from nutgraf.core.errors import UserError
from nutgraf.data import sentences
from nutgraf.evaluation import bootstrap, rouge
from nutgraf.generation import extractive


@pytest.fixture(scope="module")
def half(shared):
    return pd.read_parquet(shared / "cnndm-test-a.parquet")


def library(reference, summary):
    scores = RougeScorer(list(rouge.ROUGE_TYPES), use_stemmer=True).score(reference, summary)
    return {kind: 100 * score.fmeasure for kind, score in scores.items()}


@pytest.mark.parametrize(
    "text",
    [
        "Mr. Smith met Dr. J. R. Jones in Washington, D.C. on Tuesday.|They spoke for 2.5 hours.",
        '"We will win," said Prime Minister A. B. Carter.|"It is certain."|He left at 5 p.m.',
        "The U.S. economy grew 3.2 percent.|The U.K. did not.",
        "Shares rose to $1.25 from $1.10.|Apple Inc. fell.",
        "'Are you sure?' he asked.|She wasn't.",
        "Gen. Lee and Sen. Warren agreed, e.g. on tariffs.|No. 10 declined to comment.",
        'He said: "Stop!|I can\'t go on."|Then he left.',
        "Born on Jan. 5, 1970, in St. Louis.|Her father, George W. Bush Jr., was a lawyer.",
        "“I was scared,” said Lt. Col. Ann Brown.|“Very scared.”",
        "Is it over?|Yes!|It is.",
        # Lower-cased and tokenized, as in the data of See et al.
        "he met mr. smith in the u.s. senate .|it 's late , he said .|is it ?|2.5 percent left .",
        "`` no other way . ''|the city settled for $ 4.5 million .",
        # The end of a caption in the original data.
        "The churches were exposed to hepatitis A .|State officials say the risk is low.",
    ],
)
def test_sentences_of_one_line(text):
    expected = text.split("|")
    assert sentences.split_sentences(" ".join(expected)) == expected


def test_lines_are_sentences_where_there_are_several():
    assert sentences.split_sentences("One. Two.\n\n  three \n") == ["One. Two.", "three"]
    assert sentences.split_sentences("One. Two.\n") == ["One.", "Two."]
    assert sentences.split_sentences(" \n ") == []


def test_a_paragraph_is_not_a_sentence_for_lead3():
    article = "One is here. Two is here.\nThree is here. Four is here."
    assert extractive.lead3(article) == "One is here.\nTwo is here.\nThree is here."


def test_equal_to_the_library_called_directly(half):
    rows = half.sample(40, random_state=3)
    for reference, summary in zip(rows["highlights"], rows["pgn_cov"], strict=True):
        direct = ["\n".join(sentences.split_sentences(text)) for text in (reference, summary)]
        assert rouge.score_rouge(reference, summary) == library(*direct)
        scores = RougeScorer(list(rouge.ROUGE_TYPES), use_stemmer=True).score(*direct)
        for kind, match in rouge.match(reference, summary).items():
            assert tuple(match) == tuple(100 * value for value in scores[kind])


def test_the_longest_common_sequence_is_the_library_s_and_long_texts_take_no_table():
    rng = np.random.default_rng(1)
    for n, m in [(1, 1), (3, 70), (64, 64), (65, 129), (200, 31)] * 4:
        one, other = (" ".join(f"w{i}" for i in rng.integers(0, 20, size)) for size in (n, m))
        scores = RougeScorer(["rougeL"]).score(one, other)["rougeL"]
        assert tuple(rouge._longest_common(one.split(), other.split())) == tuple(
            100 * value for value in scores
        )
    one, other = (list(map(str, rng.integers(0, 9000, 20_000))) for _ in range(2))
    assert 1 < rouge._longest_common(one, other).fmeasure < 10


def test_published_figures_within_the_sampling_error(half):
    rows = half.sample(300, random_state=42)
    leads = [extractive.lead3(article) for article in rows["article"]]
    for summaries, published in (
        (list(rows["pgn_cov"]), {"rouge1": 39.27, "rouge2": 17.27, "rougeLsum": 36.18}),
        (leads, {"rouge1": 40.07, "rouge2": 17.60, "rougeLsum": 36.37}),
    ):
        scores = rouge.score_rouge_many(list(rows["highlights"]), summaries, processes=1)
        for kind, known in published.items():
            values = [score[kind] for score in scores]
            assert abs(np.mean(values) - known) < 3 * statistics.stdev(values) / math.sqrt(300)


def test_sentences_matter_to_rougelsum_alone():
    reference, summary = "The cat sat. A dog ran.", "A dog ran. The cat sat."
    scores = rouge.score_rouge(reference, summary)
    assert scores["rougeLsum"] == scores["rouge1"] == 100
    assert scores["rougeL"] < 100


def test_an_empty_summary_scores_zero_and_an_empty_reference_is_an_error():
    assert set(rouge.score_rouge("A cat.", "").values()) == {0}
    for reference in ("", "...", "Кошка."):
        with pytest.raises(UserError, match="has no word that ROUGE counts"):
            rouge.score_rouge(reference, "A cat.")


def test_many_names_the_row_without_a_reference():
    with pytest.raises(UserError, match=r"^row 2: "):
        rouge.score_rouge_many(["A cat.", " "], ["A cat.", "A dog."])
    with pytest.raises(ValueError, match="2 references, 1 summaries"):
        rouge.score_rouge_many(["A cat.", "A dog."], ["A cat."])


def test_processes_keep_the_order():
    references = [f"Number {n} of many came home." for n in range(1001)]
    summaries = [f"Number {n} of" + " many" * (n % 7) for n in range(1001)]
    alone = rouge.score_rouge_many(references, summaries, processes=1)
    assert rouge.score_rouge_many(references, summaries, processes=2) == alone
    assert len({score["rouge2"] for score in alone}) > 1


def test_interval_agrees_with_the_normal_approximation():
    values = np.random.default_rng(5).normal(36, 12, 400)
    interval = bootstrap.bootstrap(values, resamples=4000, seed=1)
    assert interval.mean == pytest.approx(values.mean())
    half_width = 1.96 * values.std(ddof=1) / math.sqrt(400)
    assert (interval.high - interval.low) / 2 == pytest.approx(half_width, rel=0.05)
    assert interval.low < interval.mean < interval.high


def test_few_values_have_a_mean_and_no_interval():
    for n in (1, 2, 5):
        few = bootstrap.bootstrap([40.0, 50.0, 30.0, 20.0, 60.0][:n], 500, seed=1)
        assert math.isnan(few.low)
        assert math.isnan(few.high)
    assert bootstrap.bootstrap([40.0], 500, seed=1).mean == 40
    enough = bootstrap.bootstrap([40.0, 50.0, 30.0, 20.0, 60.0, 10.0], 500, seed=1)
    assert enough.low < 35 < enough.high


def test_bootstrap_repeats_with_its_seed_whatever_numpys_own_state():
    values = list(range(50))
    first = bootstrap.bootstrap(values, 500, seed=1)
    np.random.seed(0)
    assert bootstrap.bootstrap(values, 500, seed=1) == first
    assert bootstrap.bootstrap(values, 500, seed=2) != first


def test_chunks_change_nothing(monkeypatch):
    values = np.arange(30.0)
    whole = bootstrap.bootstrap(values, 100, seed=1)
    monkeypatch.setattr(bootstrap, "_DRAWS", 64)
    assert bootstrap.bootstrap(values, 100, seed=1) == whole


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [[1.0]]])
def test_bootstrap_refuses_what_is_no_sample(values):
    with pytest.raises(ValueError, match="one finite number an article"):
        bootstrap.bootstrap(values, 10, seed=1)


def test_perplexity():
    assert units.perplexity(10 * math.log(7), 10) == pytest.approx(7)
    with pytest.raises(ValueError, match="0 tokens"):
        units.perplexity(0.0, 0)


def test_signature_names_what_a_figure_depends_on():
    signature = rouge.rouge_signature(seed=42, resamples=10_000)
    assert signature["package"] == "rouge-score"
    assert (signature["tokenizer"], signature["stemmer"]) == ("rouge-score", True)
    other = rouge.rouge_signature(seed=42, resamples=10_000, tokenizer="unicode")
    assert str(other["tokenizer"]).startswith("unicode ")
    assert other["stemmer"] is False
    assert "sentencex" in str(signature["splitter"])
    assert (signature["bootstrap_seed"], signature["bootstrap_resamples"]) == (42, 10_000)


def test_half_widths_agree_with_scipy() -> None:
    values = np.random.default_rng(4).gamma(4.0, 9.0, 400)
    ours = bootstrap.bootstrap(values, 10_000, seed=1)
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=10_000, method="percentile", random_state=2
    ).confidence_interval
    assert ours.high - ours.low == pytest.approx(theirs.high - theirs.low, rel=0.05)
    assert ours.low == pytest.approx(theirs.low, abs=0.05 * (theirs.high - theirs.low))
