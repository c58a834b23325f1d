"""The model card: what the Hub reads, what a person reads, and snippets that run."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.snippets import blocks, run_snippet
from huggingface_hub import ModelCard

from nutgraf.generation.summarizer import load_summarizer
from nutgraf.modeling import saved_model
from nutgraf.pocket import newswire
from nutgraf.report import describe, model_card

FORMS: tuple[model_card.Form, ...] = ("adapter", "merged", "gguf")


@pytest.fixture(scope="module")
def about(final_best_model: Path) -> dict[str, Any]:
    return json.loads((final_best_model / "nutgraf.json").read_text())


@pytest.fixture
def tinyllama(about: dict[str, Any]) -> dict[str, Any]:
    """The same of a study of TinyLlama on CNN/DailyMail."""
    other = copy.deepcopy(about)
    other["base"] |= {"base": "TinyLlama/TinyLlama-1.1B-Chat-v1.0", "revision": "fe8a4ea1"}
    other["model"]["quantization"] = "nf4"
    other["prompt"]["template"] = "chat"
    other["study"]["data"] |= {"source": "abisee/cnn_dailymail", "name": "3.0.0",
                               "revision": "96df5e68", "synthetic": False}  # fmt: skip
    return other


@pytest.mark.parametrize("form", FORMS)
def test_the_hub_reads_the_scores(tinyllama: dict[str, Any], form: model_card.Form) -> None:
    read = ModelCard(model_card.model_card(tinyllama, form)).data
    assert read.base_model == "TinyLlama/TinyLlama-1.1B-Chat-v1.0"
    assert read.pipeline_tag == "summarization"
    found = {result.metric_name: result for result in read.eval_results}
    assert {name: of.metric_value for name, of in found.items()} == {
        "ROUGE-1": 40.5, "ROUGE-2": 20.25, "ROUGE-L": 30.0, "ROUGE-Lsum": 35.125,
    }  # fmt: skip
    one = found["ROUGE-Lsum"]
    assert (one.task_type, one.metric_type) == ("summarization", "rouge")
    assert (one.dataset_type, one.dataset_config) == ("abisee/cnn_dailymail", "3.0.0")
    assert (one.dataset_split, one.dataset_revision) == ("test", "96df5e68")
    assert one.dataset_args == {"n": 100, "seed": 42}
    assert one.metric_args["interval_95"] == [33.125, 37.625]
    assert one.metric_args["bootstrap"] == {"seed": 42, "resamples": 10000}


def test_a_base_that_is_not_on_the_hub_is_not_named_as_if_it_were(about: dict[str, Any]) -> None:
    for base, named in (("pocket", False), ("/models/mine", False), ("./mine", False),
                        ("someone/model", True)):  # fmt: skip
        other = {**about, "base": {**about["base"], "base": base}}
        front = yaml.safe_load(model_card.model_card(other, "adapter").split("---")[1])
        assert ("base_model" in front) is named


def test_a_person_reads_how_it_was_trained_and_what_goes_wrong(
    about: dict[str, Any], tinyllama: dict[str, Any]
) -> None:
    text = " ".join(model_card.model_card(tinyllama, "adapter").split())
    for part in (
        "ROUGE-Lsum 35.12 (33.12 to 37.62)",
        "| best | 100 | 40.50 | 20.25 | 30.00 | 35.12 (33.12 to 37.62) | – |",
        "| has a name that the article lacks | 7 (3 to 14) | 1 |",
        "896 articles seen in 112 steps of 8, 91 s on cpu in fp32",
        "900 train, 64 validation, 100 test",
        "learning rate 0.002, weight decay 0.01, LoRA rank 4 and alpha 8, seed 42, chosen among",
        "TinyLlama/TinyLlama-1.1B-Chat-v1.0 at revision fe8a4ea1, held in 4-bit NF4",
        "the article cut at its end to 736 tokens",
        "check them against the article",
    ):
        assert part in text
    assert describe.SYNTHETIC not in text
    assert "synthetic newswire" in model_card.model_card(about, "adapter")


def test_a_card_names_another_tokenizer_and_gives_no_interval_of_few_articles(
    tinyllama: dict[str, Any],
) -> None:
    study = tinyllama["study"]
    study["tokenizer"] = "unicode"
    study["rouge"]["rouge1"] |= {"low": None, "high": None}
    text = model_card.model_card(tinyllama, "adapter")
    assert "0 to 100, on words of every script, unstemmed, with" in text
    assert "ROUGE-1 40.50 (not given below 6 articles)" in text
    one, two = ModelCard(text).data.eval_results[:2]
    assert one.metric_args == {"rouge_type": "rouge1", "use_stemmer": False, "tokenizer": "unicode"}
    assert "interval_95" in two.metric_args


def test_a_merged_model_s_card_tells_what_merging_changed(about: dict[str, Any]) -> None:
    merged = {"quantization": "nf4", "sample": "16 validation articles", "loss_before": 1.25,
              "loss_after": 1.2625, "rougeLsum_before": 35.0, "rougeLsum_after": 34.9,
              "same_summaries": 15}  # fmt: skip
    text = " ".join(model_card.model_card({**about, "merged": merged}, "merged").split())
    assert "16 validation articles from 1.2500 to 1.2625 nats a token" in text
    assert "held in 4-bit NF4" in text


def test_the_snippet_for_transformers_and_peft_writes_what_nutgraf_writes(
    final_best_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (story,) = newswire.stories("test", 1, seed=11)
    text = (final_best_model / "README.md").read_text()
    (code,) = (block for block in blocks(text, "python") if "from peft" in block)
    with load_summarizer(saved_model.read_saved_model(str(final_best_model))) as summarizer:
        (written,) = summarizer.summarize([story.article])
    assert run_snippet(code, final_best_model, story.article, monkeypatch) == written.summary
    assert len(written.summary.split()) > 5


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("which", ["about", "tinyllama"])
def test_every_snippet_is_python(
    form: model_card.Form, which: str, request: pytest.FixtureRequest
) -> None:
    text = model_card.model_card(request.getfixturevalue(which), form)
    found = blocks(text, "python")
    assert len(found) == (1 if form == "gguf" else 2)
    for block in found:
        compile(block, "card", "exec")
    chat = which == "tinyllama"
    assert all(("Summary:" in block) is not chat for block in found)
    assert ('revision="fe8a4ea1"' in text) is (chat and form == "adapter")


def test_ollama_is_told_the_prompt_and_the_limits(about: dict[str, Any]) -> None:
    told = model_card.modelfile(about)
    assert 'TEMPLATE """Summarize: {{ .Prompt }}\n\nSummary:"""\n' in told
    assert "PARAMETER num_ctx 912\n" in told
    assert "PARAMETER num_predict 16\n" in told
    chat = {**about, "prompt": {**about["prompt"], "template": "chat"}}
    assert "TEMPLATE" not in model_card.modelfile(chat)  # the file has its own
