"""Write a model's card: what it is, how it was trained and measured, how to load it.

The words are in templates/model_card.md, which includes usage.jinja; the front matter is what the
Hub reads (huggingface.co/docs/hub/model-cards).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from huggingface_hub import EvalResult, ModelCardData

from nutgraf.config import Config, GenerateConfig
from nutgraf.data.data_card import all_english
from nutgraf.modeling.base_files import SMOLLM2, is_hub_name
from nutgraf.report.describe import (
    SYNTHETIC,
    describe_candidates,
    describe_data,
    describe_decoding,
)
from nutgraf.report.formatting import ROUGE_NAMES, load_template

Form = Literal["adapter", "merged", "gguf"]
_SYSTEM = ("system", "n", *ROUGE_NAMES, "rougeLsum_low", "rougeLsum_high", "perplexity")
_RATE = ("kind", "n", "rate", "low", "high", "reference")


def study_record(
    config: Config,
    table: Sequence[Mapping[str, Any]],
    intervals: Mapping[str, Any],
    rates: Sequence[Mapping[str, Any]],
    splits: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """Return what a card says of the study, stored beside the model and its exports.

    Args:
        config: The study's configuration.
        table: The rows of model_comparison_results.csv.
        intervals: The final model's row of analysis/intervals.csv.
        rates: The final model's rows of analysis/rates.csv over all articles.
        splits: The splits of data/card.json.
    """
    measured = [row for row in table if row["source"] == "measured"]
    best = {**next(row for row in measured if row["system"] == intervals["system"]), **intervals}
    return {
        "system": best["system"],
        "data": {
            "described": describe_data(config),
            "synthetic": config.data.is_newswire,
            "source": config.data.source if not config.data.test else "local files",
            "name": config.data.name,
            "revision": config.data.revision,
            "seed": config.data.seed,
            "articles": {name: split["sampled"] for name, split in splits.items()},
            "english": all_english(splits),
        },
        "rouge": {
            kind: {"mean": best[kind], "low": best[f"{kind}_low"], "high": best[f"{kind}_high"]}
            for kind in ROUGE_NAMES
        },
        "tokenizer": config.score.tokenizer,
        "bootstrap": {"seed": config.score.seed, "resamples": config.score.resamples},
        "systems": [{name: row[name] for name in _SYSTEM} for row in measured],
        "errors": [{name: row[name] for name in _RATE} for row in rates],
        "search_trials": config.search.trials,
    }


def model_card(about: Mapping[str, Any], form: Form) -> str:
    """Return README.md of a model, for the Hub and for a person. `about` is its nutgraf.json."""
    return load_template("model_card.md").render(
        **_with_decoding(about),
        form=form,
        metadata=_metadata(about, form).to_yaml(),
        kinds=ROUGE_NAMES,
        stemmed=_is_stemmed(about["study"]),
        english=_is_english(about["study"]["data"]),
        synthetic=SYNTHETIC,
    )


def _is_stemmed(study: Mapping[str, Any]) -> bool:
    return study.get("tokenizer", "rouge-score") == "rouge-score"  # older models do not say


def _is_english(data: Mapping[str, Any]) -> bool:
    return bool(data.get("english", True))  # older models do not say


def modelfile(about: Mapping[str, Any]) -> str:
    """Return what Ollama reads of `model.gguf`: prompt, decoding, context."""
    return load_template("Modelfile.jinja").render(**_with_decoding(about))


def _with_decoding(about: Mapping[str, Any]) -> dict[str, Any]:
    """Return what templates show, with all settings of decoding, of which older models lack some.

    `rules` are those that few programs have, by name, if they are set.
    """
    generate = GenerateConfig.model_validate(about["generate"])
    names = ("no_repeat_ngram", "min_new_tokens", "max_sentences", "whole_sentences")
    rules = {name: getattr(generate, name) for name in names}
    rules["candidates"] = generate.candidates if generate.candidates > 1 else 0
    decoding = {
        "generate": generate,
        "decoding": describe_decoding(generate),
        "candidates": describe_candidates(generate),
    }
    return {**about, **decoding, "rules": {name: n for name, n in rules.items() if n}}


def _metadata(about: Mapping[str, Any], form: Form) -> ModelCardData:
    base, study, data = about["base"]["base"], about["study"], about["study"]["data"]
    base = SMOLLM2[0] if base == "smollm2" else base  # the file in its wheel was made of it
    on_hub = is_hub_name(base)
    relation = {"adapter": "adapter", "merged": "finetune", "gguf": "quantized"}[form]
    n = next(row["n"] for row in study["systems"] if row["system"] == "best")
    return ModelCardData(
        base_model=base if on_hub else None,
        base_model_relation=relation if on_hub else None,
        language="en" if _is_english(data) else None,
        library_name={"adapter": "peft", "merged": "transformers", "gguf": "gguf"}[form],
        pipeline_tag="summarization",
        tags=["summarization", "nutgraf", *(["lora"] if form == "adapter" else [])],
        model_name="nutgraf best",
        eval_results=[
            EvalResult(
                task_type="summarization",
                task_name="News summarization",
                dataset_type=data["source"],
                dataset_name=data["described"],
                dataset_config=data["name"],
                dataset_split="test",
                dataset_revision=data["revision"],
                dataset_args={"n": n, "seed": data["seed"]},
                metric_type="rouge",
                metric_name=name,
                metric_value=study["rouge"][kind]["mean"],
                metric_args={
                    "rouge_type": kind,
                    "use_stemmer": _is_stemmed(study),
                    **({} if _is_stemmed(study) else {"tokenizer": study["tokenizer"]}),
                    **_interval(study["rouge"][kind], study["bootstrap"]),
                },
            )
            for kind, name in ROUGE_NAMES.items()
        ],
    )


def _interval(rouge: Mapping[str, Any], bootstrap: Mapping[str, int]) -> dict[str, Any]:
    ends = [rouge["low"], rouge["high"]]
    return {} if None in ends else {"interval_95": ends, "bootstrap": bootstrap}
