"""The model card: what the model is, how it was trained and measured, how to load it.

Its front matter is what the Hub reads (huggingface.co/docs/hub/model-cards); its snippets are run
by the tests where the program can be had.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import yaml

from nutgraf.settings import Config
from nutgraf.snippets import use

Form = Literal["adapter", "merged", "gguf"]

SYNTHETIC = (
    "These scores are of a synthetic newswire, made by nutgraf's own generator: they say nothing "
    "about CNN/DailyMail or any other real news."
)
_ROUGE = {"rouge1": "ROUGE-1", "rouge2": "ROUGE-2", "rougeL": "ROUGE-L", "rougeLsum": "ROUGE-Lsum"}
_SYSTEM = ("system", "n", *_ROUGE, "rougeLsum_low", "rougeLsum_high", "perplexity")
_ERRORS = {
    "unfinished": "cut off or without a full stop",
    "repeated_trigrams": "repeats three words in a row",
    "repeated_sentences": "repeats a sentence",
    "unsupported_numbers": "has a number that the article lacks",
    "unsupported_names": "has a name that the article lacks",
    "missing_key_facts": "lacks a name or number that the reference takes from the article",
}


def describe_data(config: Config) -> str:
    """The data set in words: its name, or that it is the embedded newswire or local files."""
    if config.data.test:
        return f"local files ({config.data.test})"
    if config.data.source == "newswire":
        return "the embedded synthetic newswire"
    return " ".join(p for p in (config.data.source, config.data.name, config.data.revision) if p)


def is_synthetic(config: Config) -> bool:
    """Whether the scores are of the embedded newswire."""
    return config.data.source == "newswire" and not config.data.test


def study(
    config: Config,
    table: Sequence[Mapping[str, Any]],
    intervals: Mapping[str, Any],
    rates: Sequence[Mapping[str, Any]],
    splits: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """What the card tells of the study, to be kept beside the model and its exports.

    `table` is model_comparison_results.csv, `intervals` the best model's row of
    analysis/intervals.csv, `rates` its rows of analysis/rates.csv over all articles, `splits` those
    of data/card.json.
    """
    measured = [row for row in table if row["source"] == "measured"]
    best = next(row for row in measured if row["system"] == "best")
    ends = {**intervals, **best}
    return {
        "data": {
            "described": describe_data(config),
            "synthetic": is_synthetic(config),
            "source": config.data.source if not config.data.test else "local files",
            "name": config.data.name,
            "revision": config.data.revision,
            "seed": config.data.seed,
            "articles": {name: split["sampled"] for name, split in splits.items()},
        },
        "rouge": {
            kind: {"mean": best[kind], "low": ends[f"{kind}_low"], "high": ends[f"{kind}_high"]}
            for kind in _ROUGE
        },
        "bootstrap": {"seed": config.score.seed, "resamples": config.score.resamples},
        "systems": [
            {
                name: row[name]
                for name in (
                    "system",
                    "n",
                    *_ROUGE,
                    "rougeLsum_low",
                    "rougeLsum_high",
                    "perplexity",
                )
            }
            for row in measured
        ],
        "errors": [
            {name: row[name] for name in ("kind", "n", "rate", "low", "high", "reference")}
            for row in rates
        ],
        "search_trials": config.search.trials,
    }


def model_card(about: Mapping[str, Any], form: Form) -> str:
    """README.md of a model, for the Hub and for a person. `about` is its nutgraf.json."""
    data, train = about["study"]["data"], about["train"]
    base = _base(about)
    made = {
        "adapter": f"a LoRA adapter of rank {train['lora_r']} on {base}",
        "merged": f"{base}, with a LoRA adapter of rank {train['lora_r']} merged into it",
        "gguf": f"{base}, with a LoRA adapter of rank {train['lora_r']} merged into it, as GGUF",
    }
    caution = f"\n{SYNTHETIC}\n" if data["synthetic"] else ""
    counts = ", ".join(f"{n:,} {name}" for name, n in data["articles"].items())
    front = yaml.safe_dump(_front(about, form), sort_keys=False, allow_unicode=True)
    return f"""---
{front}---

# A news summarizer

It writes the summary of a news article in English: {made[form]}, trained and measured by nutgraf.
{caution}{_merging(about, form)}
## Scores on unseen articles

ROUGE F1, 0 to 100, stemmed, with 95% bootstrap intervals over the same articles for all.

{_scores(about["study"])}

R-Lsum compares sentence by sentence; papers print it as R-L. The oracle reads the reference: it
shows what copying three sentences can reach.

## What goes wrong

Percent of the summaries in which an indicator finds something, and of the references themselves,
on the same articles. Indicators are made from the texts alone: a reason to look, not a verdict.

{_errors(about["study"]["errors"])}

## Training

- Base: {base}{_held(about)}.
- Articles: {data["described"]}, drawn with seed {data["seed"]}: {counts}.
- Budget: {_budget(train)}; the loss is on the summary alone, its end included.
- Settings: {_settings(train)}, chosen among {about["study"]["search_trials"]} trials on
  validation data.

## Use

The prompt is the one below, with the article cut at its end to
{about["prompt"]["max_article_tokens"]:,} tokens. Decoding is deterministic.

{use(about, form)}

## Limits

- Names and numbers in a summary can be wrong: check them against the article before it is used.
- News in English; {_longest(about)}
- A summary repeats what its article says, whether that is true or not.
"""


def _front(about: Mapping[str, Any], form: Form) -> dict[str, Any]:
    known, data = about["study"], about["study"]["data"]
    front: dict[str, Any] = {
        "library_name": {"adapter": "peft", "merged": "transformers", "gguf": "gguf"}[form],
        "pipeline_tag": "summarization",
        "language": "en",
        "tags": ["summarization", "nutgraf", *(["lora"] if form == "adapter" else [])],
    }
    if _on_hub(about):
        front["base_model"] = about["base"]["base"]
        front["base_model_relation"] = {"adapter": "adapter", "merged": "finetune"}.get(
            form, "quantized"
        )
    n = next(row["n"] for row in known["systems"] if row["system"] == "best")
    dataset = {
        "name": data["described"],
        "type": data["source"],
        "split": "test",
        "args": {"n": n, "seed": data["seed"]},
    }
    dataset |= {key: data[of] for key, of in (("config", "name"), ("revision",) * 2) if data[of]}
    front["model-index"] = [
        {
            "name": "nutgraf best",
            "results": [
                {
                    "task": {"type": "summarization", "name": "News summarization"},
                    "dataset": {
                        name: value for name, value in dataset.items() if value is not None
                    },
                    "metrics": [
                        {
                            "type": "rouge",
                            "name": name,
                            "value": known["rouge"][kind]["mean"],
                            "args": {
                                "rouge_type": kind,
                                "use_stemmer": True,
                                "interval_95": [
                                    known["rouge"][kind]["low"],
                                    known["rouge"][kind]["high"],
                                ],
                                "bootstrap": {**known["bootstrap"]},  # or YAML refers
                            },
                        }
                        for kind, name in _ROUGE.items()
                    ],
                }
            ],
        }
    ]
    return front


def _base(about: Mapping[str, Any]) -> str:
    if about["base"]["base"] == "pocket":
        return "the pocket model of nutgraf"
    revision = about["base"]["revision"]
    return about["base"]["base"] + (f" at revision {revision}" if revision else "")


def _on_hub(about: Mapping[str, Any]) -> bool:
    """Whether the base has a name on the Hub; the pocket model and folders have none."""
    base = about["base"]["base"]
    return base.count("/") == 1 and not base.startswith((".", "/", "~"))


def _held(about: Mapping[str, Any]) -> str:
    held = about.get("merged", about["model"])["quantization"]
    return ", held in 4-bit NF4" if held == "nf4" else ""


def _budget(train: Mapping[str, Any]) -> str:
    batch = train["micro_batch_size"] * train["gradient_accumulation_steps"]
    return (
        f"{train['examples']:,} articles seen in {train['steps']:,} steps of {batch}, "
        f"{train['seconds']:.0f} s on {train['device']} in {train['dtype']}"
    )


def _settings(train: Mapping[str, Any]) -> str:
    return (
        f"learning rate {train['learning_rate']:.3g}, weight decay {train['weight_decay']:.3g}, "
        f"LoRA rank {train['lora_r']} and alpha {train['lora_alpha']}, seed {train['seed']}"
    )


def _longest(about: Mapping[str, Any]) -> str:
    return (
        f"of an article beyond {about['prompt']['max_article_tokens']:,} tokens only the beginning "
        "is read."
    )


def _merging(about: Mapping[str, Any], form: Form) -> str:
    merged = about.get("merged")
    if form == "adapter" or merged is None:
        return ""
    return (
        f"\nThe scores below are those of the adapter on its base. Merging changed the loss on "
        f"{merged['sample']} from {merged['loss_before']:.4f} to {merged['loss_after']:.4f} nats a "
        f"token and R-Lsum from {merged['rougeLsum_before']:.2f} to "
        f"{merged['rougeLsum_after']:.2f}; {merged['same_summaries']} summaries stayed the same.\n"
    )


def _scores(known: Mapping[str, Any]) -> str:
    best = ", ".join(
        f"{name} {of['mean']:.2f} ({of['low']:.2f} to {of['high']:.2f})"
        for name, of in ((name, known["rouge"][kind]) for kind, name in _ROUGE.items())
    )
    rows = [
        f"| {row['system']} | {row['n']} | {row['rouge1']:.2f} | {row['rouge2']:.2f} | "
        f"{row['rougeL']:.2f} | {row['rougeLsum']:.2f} ({row['rougeLsum_low']:.2f} to "
        f"{row['rougeLsum_high']:.2f}) | {_or_dash(row['perplexity'])} |"
        for row in known["systems"]
    ]
    head = "| system | n | R-1 | R-2 | R-L | R-Lsum | perplexity |\n|---|---|---|---|---|---|---|"
    return "\n".join([f"This model, `best`: {best}.", "", head, *rows])


def _errors(rates: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        f"| {_ERRORS[row['kind']]} | {row['rate']:.0f} ({row['low']:.0f} to {row['high']:.0f}) | "
        f"{row['reference']:.0f} |"
        for row in rates
    ]
    return "\n".join(["| a summary | this model, % | references, % |", "|---|---|---|", *rows])


def _or_dash(value: Any) -> str:
    return "–" if value is None else f"{value:.2f}"
