"""The model card: what the Hub reads, what a person reads, and snippets that run."""

from __future__ import annotations

import copy
import json
import re
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from helpers.snippets import blocks, run_snippet
from huggingface_hub import ModelCard
from transformers import LogitsProcessor

from nutgraf.config import ModelConfig
from nutgraf.config.load import build_config
from nutgraf.generation.rules import NoRepeatedNgram
from nutgraf.generation.summarizer import load_summarizer
from nutgraf.modeling import saved_model
from nutgraf.modeling.load import load_tokenizer
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
    other["recipe"] |= {"head": [1, 529], "tail": [2, 13], "skip": 2, "ends": {"</s>": 2},
                        "text_before": "<|user|>\nSummarize:",
                        "text_after": "</s>\n<|assistant|>\n"}  # fmt: skip
    other["study"]["data"] |= {"source": "abisee/cnn_dailymail", "name": "3.0.0",
                               "revision": "96df5e68", "synthetic": False}  # fmt: skip
    return other


@pytest.mark.parametrize("form", FORMS)
def test_the_hub_reads_the_scores(tinyllama: dict[str, Any], form: model_card.Form) -> None:
    read = ModelCard(model_card.model_card(tinyllama, form)).data
    assert read.base_model == "TinyLlama/TinyLlama-1.1B-Chat-v1.0"
    assert read.pipeline_tag == "summarization"
    results = {result.metric_name: result for result in read.eval_results}
    assert {name: of.metric_value for name, of in results.items()} == {
        "ROUGE-1": 40.5, "ROUGE-2": 20.25, "ROUGE-L": 30.0, "ROUGE-Lsum": 35.125,
    }  # fmt: skip
    one = results["ROUGE-Lsum"]
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


def test_a_card_says_english_only_of_a_model_that_read_english(tinyllama: dict[str, Any]) -> None:
    text = model_card.model_card(tinyllama, "adapter")
    assert ModelCard(text).data.language == "en"
    assert "summary of a news article in English:" in text
    tinyllama["study"]["data"]["english"] = False
    text = model_card.model_card(tinyllama, "adapter")
    assert ModelCard(text).data.language is None
    assert "summary of a news article, in the language of its training:" in text
    assert "\n- No news in English: its articles were in another language; of an article" in text


def test_a_merged_model_s_card_tells_what_merging_changed(about: dict[str, Any]) -> None:
    merged = {"quantization": "nf4", "sample": "16 validation articles", "loss_before": 1.25,
              "loss_after": 1.2625, "rougeLsum_before": 35.0, "rougeLsum_after": 34.9,
              "same_summaries": 15}  # fmt: skip
    text = " ".join(model_card.model_card({**about, "merged": merged}, "merged").split())
    assert "16 validation articles from 1.2500 to 1.2625 nats a token" in text
    assert "held in 4-bit NF4" in text


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_the_snippet_for_transformers_and_peft_writes_what_nutgraf_writes_of_a_long_article(
    final_best_model: Path,
    about: dict[str, Any],
    dtype: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = tmp_path / "model"
    shutil.copytree(final_best_model, model)
    about = {name: {**about[name], "dtype": dtype} if name in ("model", "train") else value
             for name, value in about.items()}  # fmt: skip
    (model / "nutgraf.json").write_text(json.dumps(about))
    article = " ".join(story.article for story in newswire.stories("test", 8, seed=11))
    text = model_card.model_card(about, "adapter")
    (code,) = (block for block in blocks(text, "python") if "from peft" in block)
    with load_summarizer(saved_model.read_saved_model(str(model))) as summarizer:
        (written,) = summarizer.summarize([article])
    assert run_snippet(code, model, article, monkeypatch) == written.summary
    assert written.trimmed_tokens > 500
    assert len(written.summary.split()) > 5


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("which", ["about", "tinyllama"])
@pytest.mark.parametrize("beams", [1, 4])
def test_every_snippet_is_python_and_cuts_the_article(
    form: model_card.Form, which: str, beams: int, request: pytest.FixtureRequest
) -> None:
    about = request.getfixturevalue(which)
    # A model of an earlier version has no more settings of decoding.
    older = {"max_new_tokens": 16, "num_beams": 1, "batch_size": 50}
    rules = {"min_new_tokens": 9, "no_repeat_ngram": 3, "num_beams": 4, "length_penalty": 2.0,
             "max_sentences": 2, "whole_sentences": True}  # fmt: skip
    about = {**about, "generate": older | rules if beams == 4 else older}
    text = model_card.model_card(about, form)
    # Of these four, transformers lacks two; vLLM's beams and llama.cpp lack all.
    lacking = 4 if form == "gguf" else 6
    assert text.count("has no counterpart: summaries can differ") == lacking * (beams == 4)
    assert ("at most 2 sentences, cut after the last whole sentence at" in text) is (beams == 4)
    assert ("no 3 words in a row twice in a summary" in text) is (beams == 4)
    assert ("logits_processor=[NoRepeat()]" in text) is (beams == 4 and form != "gguf")
    snippets = blocks(text, "python")
    assert len(snippets) == 2
    cut = "[2:738]" if which == "tinyllama" else "[1:737]"
    for block in snippets:
        compile(block, "card", "exec")
        assert cut in block
    assert ('revision="fe8a4ea1"' in text) is (which == "tinyllama" and form == "adapter")
    assert ("beam search" in text) is (beams == 4)
    ends = list(about["recipe"]["ends"].values())  # of which vLLM's beams know one
    assert text.count(f"in {ends}]" if beams == 4 else f"stop_token_ids={ends}") == (form != "gguf")


@pytest.mark.parametrize("n", [1, 2, 3])
def test_the_snippet_forbids_the_words_that_nutgraf_forbids(about: dict[str, Any], n: int) -> None:
    about = {**about, "generate": {**about["generate"], "no_repeat_ngram": n}}
    snippet = blocks(model_card.model_card(about, "merged"), "python")[0]
    rule = re.search(r"class NoRepeat.*?return scores\n", snippet, re.DOTALL)
    tokenizer, prompt = load_tokenizer(ModelConfig()), [1, 2, 3]
    names = {"LogitsProcessor": LogitsProcessor, "tokenizer": tokenizer, "prompt": prompt}
    exec(rule[0], names | {"torch": torch}, names)  # type: ignore[index]
    random = torch.Generator().manual_seed(n)
    tokens = tokenizer(" Lee .\n He 4", add_special_tokens=False)["input_ids"]
    for length in (0, 1, 5, 100):
        drawn = torch.randint(len(tokens), (20, length), generator=random)
        ids = torch.cat([torch.tensor([prompt] * 20), torch.tensor(tokens)[drawn]], 1)
        scores = torch.zeros(20, len(tokenizer))
        expected = NoRepeatedNgram(n, tokenizer, 3)(ids, scores.clone())
        assert torch.equal(names["NoRepeat"]()(ids, scores), expected)
    assert expected.isinf().any()


@pytest.mark.parametrize(("rank", "taken"), [(1, 1), (4, 8), (24, 32), (300, 320), (513, None)])
def test_vllm_takes_the_next_rank_up_or_the_merged_model(
    about: dict[str, Any], rank: int, taken: int | None
) -> None:
    about = {**about, "train": {**about["train"], "lora_r": rank}}
    text = model_card.model_card(about, "adapter")
    assert f"max_lora_rank={taken}," in text if taken else "export it merged" in text
    assert ("from vllm" in text) is (taken is not None)
    assert "from vllm" in model_card.model_card(about, "merged")


@pytest.mark.parametrize("beams", [1, 4])
@pytest.mark.parametrize("form", ["adapter", "merged"])
def test_a_process_that_vllm_starts_imports_its_code_and_loads_nothing(
    about: dict[str, Any], form: str, beams: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a CPU vLLM starts its engine by spawn, which runs the file of the code once more."""
    about = {**about, "generate": {**about["generate"], "num_beams": beams}}
    (code,) = (c for c in blocks(model_card.model_card(about, form), "python") if "vllm" in c)
    loaded: list[Any] = []

    def load(*_: Any, **__: Any) -> Any:
        loaded.append(1)
        raise StopIteration

    sampling = SimpleNamespace(BeamSearchParams=dict)
    vllm = SimpleNamespace(LLM=load, SamplingParams=dict, sampling_params=sampling)
    request = SimpleNamespace(LoRARequest=tuple)
    for name, module in {"vllm": vllm, "vllm.sampling_params": sampling}.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setitem(sys.modules, "vllm.lora.request", request)
    exec(code, {"__name__": "__mp_main__"})
    assert not loaded
    with pytest.raises(StopIteration):
        exec(code, {"__name__": "__main__"})
    assert loaded


def test_an_adapter_of_a_base_in_4_bits_is_loaded_on_it(tinyllama: dict[str, Any]) -> None:
    adapter, merged = (model_card.model_card(tinyllama, form) for form in FORMS[:2])
    assert "quantization_config=quantized" in adapter
    assert "in full precision, the study in 4 bits" in adapter
    assert "quantized" not in merged


def test_ollama_gets_the_prompt_the_decoding_and_the_limits(
    about: dict[str, Any], tinyllama: dict[str, Any]
) -> None:
    plain = model_card.modelfile(about)
    assert 'TEMPLATE """Summarize: {{ .Prompt }}\n\nSummary:"""\n' in plain
    assert "PARAMETER num_ctx 920\n" in plain
    assert "PARAMETER num_predict 24\n" in plain
    assert "PARAMETER repeat_penalty 1\n" in plain  # Ollama's own is 1.1
    assert plain.startswith("# Ollama has no counterpart to generate.no_repeat_ngram 1 of the ")
    chat = model_card.modelfile(tinyllama)
    assert 'TEMPLATE """<|user|>\nSummarize: {{ .Prompt }}</s>\n<|assistant|>\n"""\n' in chat
    assert 'PARAMETER stop """</s>"""\n' in chat
    odd = {**about["recipe"], "text_before": '"""{{', "text_after": "", "ends": {'"': 2, "\n": 3}}
    file = model_card.modelfile({**about, "recipe": odd})
    assert 'TEMPLATE """{{ "\\"\\"\\"" }}{{ "{{" }} {{ .Prompt }}"""\n' in file
    assert file.endswith('stop """""""\nPARAMETER stop """\n"""\n')


@pytest.mark.parametrize("settings", [("source",), ("train", "validation", "test")])
def test_local_files_are_named_without_their_folder(settings, tmp_path):
    """A card is given to others."""
    (tmp_path / "mine.jsonl").touch()
    data = {setting: str(tmp_path / "mine.jsonl") for setting in settings}
    assert describe.describe_data(build_config({"data": data})) == "local files (mine.jsonl)"
