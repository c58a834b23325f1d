"""Read what a base says about decoding: which tokens end a text, and what is not followed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers import GenerationConfig, PreTrainedTokenizerBase
from transformers.utils import cached_file

from nutgraf.config import ModelConfig
from nutgraf.modeling.base_files import base_revision, base_source, is_gguf
from nutgraf.modeling.gguf_file import read_architecture

# What is followed of a base's settings of decoding, or cannot change what it writes. The others are
# left out, so that systems differ in their weights only, whole or as a stream (docs/bases.md).
_FOLLOWED = {
    "bos_token_id", "eos_token_id", "pad_token_id", "transformers_version", "use_cache",
    "_from_model_config",
}  # fmt: skip
_NAMES = frozenset(vars(GenerationConfig()))
_ANSWER = "\ue000"  # a private-use character that holds an answer's place in a template


def find_end_tokens(
    config: ModelConfig, tokenizer: PreTrainedTokenizerBase, rows: int
) -> tuple[int, ...]:
    """Return the ids of all tokens that end a text of the base, the tokenizer's own first.

    The others are `named_ends`, the one that its chat template writes behind an answer, and stop
    strings that are one token.
    """
    stops = _as_list(read_base_json(config, "generation_config.json").get("stop_strings"))
    added = tokenizer.get_added_vocab()
    ends = [
        *_as_list(tokenizer.eos_token_id),
        *named_ends(config, rows),
        *_ends_of_answers(tokenizer),
        *(added[stop] for stop in stops if stop in added),
    ]
    return tuple(dict.fromkeys(ends))


def named_ends(config: ModelConfig, rows: int) -> list[int]:
    """Return the ends of generation_config.json and config.json that the embedding has a row for.

    No base can write another, and no program could decode it.
    """
    said = [
        end
        for name in ("generation_config.json", "config.json")
        for end in _as_list(read_base_json(config, name).get("eos_token_id"))
    ]
    return [end for end in said if type(end) is int and 0 <= end < rows]


def unused_settings(config: ModelConfig) -> dict[str, Any]:
    """Return what the base says of decoding and is not followed, by name.

    An older base says it in config.json.
    """
    said: dict[str, Any] = {}
    for name in ("config.json", "generation_config.json"):
        said |= read_base_json(config, name)
    neutral = {"None", "False", "0", "0.0", "1", "1.0", "[]", "{}"}
    names = sorted((_NAMES - _FOLLOWED) & said.keys())
    return {name: said[name] for name in names if str(said[name]) not in neutral}


def read_base_json(config: ModelConfig, name: str) -> dict[str, Any]:
    """Return a JSON file of the base, empty if it has none; of a GGUF file the ends it names."""
    source = base_source(config)
    if is_gguf(source):
        ends = read_architecture(Path(source)).eos_token_id
        return {"eos_token_id": ends} if name == "config.json" else {}
    path = cached_file(
        source,
        name,
        revision=base_revision(config),
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    said = json.loads(Path(path).read_text(encoding="utf-8")) if path else {}
    if not isinstance(said, dict):
        raise ValueError(f"{name} is no JSON object")
    return said


def _ends_of_answers(tokenizer: PreTrainedTokenizerBase) -> Iterator[int]:
    """Yield the first special token that the chat template writes behind an answer."""
    if not tokenizer.chat_template:
        return
    chat = [{"role": "user", "content": "."}, {"role": "assistant", "content": _ANSWER}]
    try:
        text = str(tokenizer.apply_chat_template(chat, tokenize=False))
    except Exception:  # the renderer says so, if the prompt is of this template
        return
    _, _, behind = text.partition(_ANSWER)
    special = tokenizer.added_tokens_decoder
    ids = tokenizer(behind, add_special_tokens=False)["input_ids"]
    yield from [token for token in ids if token in special][:1]


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]
