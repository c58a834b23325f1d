"""Say in the fields of a GGUF file what a model card says: name, prompt, base, scores.

Names that llama.cpp and the Hub know are those of github.com/ggml-org/ggml, docs/gguf.md; those of
nutgraf begin with `nutgraf`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from nutgraf.modeling.base_files import SMOLLM2, is_hub_name


def describe_model(about: Mapping[str, Any], author: str | None) -> dict[str, Any]:
    """Return the fields of a model. `about` is its nutgraf.json; `author` may be unknown."""
    base, study = about["base"], about["study"]
    source, commit = base["base"], base["revision"]
    if source == "smollm2":
        source, commit = SMOLLM2  # the file in its wheel was made of it
    on_hub = is_hub_name(source)
    name = PurePath(source).stem if source.endswith(".gguf") else PurePath(source).name
    n = next(row["n"] for row in study["systems"] if row["system"] == "best")
    lsum = study["rouge"]["rougeLsum"]
    interval = "" if lsum["low"] is None else f" ({lsum['low']:.2f} to {lsum['high']:.2f})"
    fields: dict[str, Any] = {
        "general.name": f"{name} news summarizer",
        "general.author": author,
        "general.description": (
            f"Writes the summary of a news article: {name} with a LoRA adapter of rank "
            f"{about['train']['lora_r']} merged into it, trained by nutgraf on "
            f"{study['data']['articles']['train']:,} articles of {study['data']['described']}. "
            f"ROUGE-Lsum {lsum['mean']:.2f}{interval} on {n:,} unseen articles, before it was "
            "rounded for this file."
        ),
        "general.tags": ["summarization", "nutgraf"],
        "general.languages": ["en"] if study["data"].get("english", True) else None,
        "general.base_model.count": 1,
        "general.base_model.0.name": name,
        "general.base_model.0.version": commit if on_hub else None,
        "general.base_model.0.organization": source.partition("/")[0] if on_hub else None,
        "general.base_model.0.repo_url": f"https://huggingface.co/{source}" if on_hub else None,
        "tokenizer.chat_template": chat_template(about["recipe"]),
        "nutgraf.scores.articles": n,
    }
    for kind, score in study["rouge"].items():
        fields[f"nutgraf.scores.{kind}"] = score["mean"]
        fields |= {f"nutgraf.scores.{kind}.{end}": score[end] for end in ("low", "high")}
    return {name: value for name, value in fields.items() if value is not None}


def chat_template(recipe: Mapping[str, Any]) -> str:
    """Return a template in which a message is an article, and its text the study's prompt."""
    before, after = (
        json.dumps(text, ensure_ascii=False)
        for text in (f"{recipe['text_before']} ", recipe["text_after"])
    )
    end = json.dumps(next(iter(recipe["ends"])), ensure_ascii=False)
    return (
        "{%- for message in messages -%}"
        "{%- if message['role'] == 'user' -%}"
        f"{{{{ {before} + (message['content'] | trim) + {after} }}}}"
        "{%- elif message['role'] == 'assistant' -%}"
        f"{{{{ message['content'] + {end} }}}}"
        "{%- endif -%}{%- endfor -%}"
    )


def licence(card: str) -> str | None:
    """Return the licence that a model card of the Hub names in its front matter, if any."""
    front = re.match(r"---\n(.*?)^---", card, re.DOTALL | re.MULTILINE)
    named = re.search(r"^license: *['\"]?([\w.+-]+)", front[1], re.MULTILINE) if front else None
    return named[1] if named else None
