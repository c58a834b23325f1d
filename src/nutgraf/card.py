"""The model card: what the adapter is, how it was measured, how to load it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from nutgraf.settings import Config

SYNTHETIC = (
    "These scores are of a synthetic newswire, made by nutgraf's own generator: they say nothing "
    "about CNN/DailyMail or any other real news."
)


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


def model_card(
    config: Config, table: Sequence[Mapping[str, Any]], record: Mapping[str, Any]
) -> str:
    """README.md of final_best_model, with the front matter that the Hub reads.

    `table` is model_comparison_results.csv, `record` the best model's train.json.
    """
    best = next(row for row in table if row["system"] == "best")
    front = {
        "library_name": "peft",
        "base_model": config.model.base,
        "pipeline_tag": "summarization",
        "tags": ["lora", "summarization", "nutgraf"],
        "model-index": [
            {
                "name": "nutgraf best",
                "results": [
                    {
                        "task": {"type": "summarization"},
                        "dataset": {
                            "name": describe_data(config),
                            "type": config.data.source,
                            "split": "test",
                        },
                        "metrics": [
                            {"type": name, "name": name, "value": best[name]}
                            for name in ("rouge1", "rouge2", "rougeL", "rougeLsum")
                        ],
                    }
                ],
            }
        ],
    }
    batch = record["micro_batch_size"] * record["gradient_accumulation_steps"]
    rows = "\n".join(
        f"| {row['system']} | {row['n']} | {row['rouge1']} | {row['rouge2']} | {row['rougeLsum']} "
        f"({row['rougeLsum_low']} to {row['rougeLsum_high']}) | {_or_dash(row['perplexity'])} |"
        for row in table
        if row["source"] == "measured"
    )
    return f"""---
{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---

# A news summarizer: LoRA adapter on {config.model.base}

Trained by nutgraf on {describe_data(config)}: {record["examples"]:,} articles seen, learning rate
{record["learning_rate"]:.2g}, effective batch {batch}, LoRA rank {record["lora_r"]},
{record["seconds"]:.0f} s. Settings were chosen on validation data.

{SYNTHETIC if is_synthetic(config) else ""}

## Scores on the test articles

ROUGE F1, 0 to 100, stemmed; R-Lsum with its 95% bootstrap interval over articles.

| system | n | ROUGE-1 | ROUGE-2 | ROUGE-Lsum | perplexity |
|---|---|---|---|---|---|
{rows}

## Use

```
nutgraf summarize --model THIS_FOLDER article.txt
```

The prompt is `Summarize: {{article}}\\n\\nSummary:` ({config.prompt.template} template), the
article cut at its end to {config.prompt.max_article_tokens:,} tokens. `nutgraf.json` holds every
setting that serving needs. With peft and transformers:

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

base = AutoModelForCausalLM.from_pretrained(BASE)  # {config.model.base}
model = PeftModel.from_pretrained(base, "THIS_FOLDER")
tokenizer = AutoTokenizer.from_pretrained("THIS_FOLDER")
```

## Limits

A small model: names and numbers in a summary can be wrong. Check them against the article.
"""


def _or_dash(value: Any) -> str:
    return "–" if value is None else str(value)
