"""Read what a base says about decoding: which tokens end a text, and what is not followed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase
from transformers.utils import cached_file

from nutgraf.config import ModelConfig
from nutgraf.modeling.base_files import base_source

# Settings of generation_config.json that would change what greedy or beam decoding writes. They are
# left out, so that systems differ in their weights only, whole or as a stream (docs/commands.md).
_UNUSED = (
    "repetition_penalty no_repeat_ngram_size encoder_no_repeat_ngram_size bad_words_ids min_length "
    "min_new_tokens suppress_tokens begin_suppress_tokens forced_bos_token_id forced_eos_token_id "
    "sequence_bias length_penalty exponential_decay_length_penalty guidance_scale stop_strings"
).split()
_ANSWER = "\ue000"  # a private-use character that holds an answer's place in a template


def find_end_tokens(config: ModelConfig, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Return the ids of all tokens that end a text of the base, the tokenizer's own first.

    The others are those of generation_config.json and config.json, the one that its chat template
    writes behind an answer, and stop strings that are one token.
    """
    said = [
        found
        for name in ("generation_config.json", "config.json")
        for found in _as_list(read_base_json(config, name).get("eos_token_id"))
    ]
    stops = _as_list(read_base_json(config, "generation_config.json").get("stop_strings"))
    added = tokenizer.get_added_vocab()
    ends = [
        *_as_list(tokenizer.eos_token_id),
        *said,
        *_ends_of_answers(tokenizer),
        *(added[stop] for stop in stops if stop in added),
    ]
    return tuple(dict.fromkeys(end for end in ends if isinstance(end, int) and end >= 0))


def unused_settings(config: ModelConfig) -> dict[str, Any]:
    """Return what generation_config.json says of decoding and is not followed, by name."""
    said = read_base_json(config, "generation_config.json")
    neutral: tuple[Any, ...] = (None, 1.0, 0, [], {})
    return {name: said[name] for name in _UNUSED if said.get(name) not in neutral}


def read_base_json(config: ModelConfig, name: str) -> dict[str, Any]:
    """Return a JSON file of the base, empty if it has none."""
    path = cached_file(
        base_source(config),
        name,
        revision=config.revision,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return dict(json.loads(Path(path).read_text(encoding="utf-8"))) if path else {}


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
