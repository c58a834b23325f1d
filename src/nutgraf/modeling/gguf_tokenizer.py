"""Turn a tokenizer into fields of a GGUF file, as llama.cpp's converter does.

Llamas have one of two kinds. `llama` is SentencePiece: llama.cpp joins the two neighbours whose
joined token has the highest score. `gpt2` is BPE over bytes with a list of merges, and
`tokenizer.ggml.pre` names how a text is split before. Keys: github.com/ggml-org/ggml, docs/gguf.md.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gguf import TokenType
from transformers import PreTrainedTokenizerBase

from nutgraf.core.errors import UserError

_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
_LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# How texts are split, by llama.cpp's name for it.
_SPLITS: dict[str, list[dict[str, Any]]] = {
    "gpt-2": [_BYTES],
    "smollm": [{"type": "Digits", "individual_digits": True}, _BYTES],
    "llama-bpe": [
        {"type": "Split", "pattern": {"Regex": _LLAMA_3}, "behavior": "Isolated", "invert": False},
        {**_BYTES, "use_regex": False},
    ],
}
_BYTE = re.compile("<0x[0-9A-F]{2}>")
_NO_MERGE = -1e6  # the score of a token that no merge makes, below all others


def tokenizer_fields(tokenizer: PreTrainedTokenizerBase, rows: int) -> dict[str, Any]:
    """Return the fields of a tokenizer, for an embedding with `rows` rows.

    Raises UserError, with the reason, for one that llama.cpp would read as another.
    """
    raw = json.loads(tokenizer.backend_tokenizer.to_str())
    model, split = raw["model"], _split(raw)
    if fault := next(_faults(raw, split), None):
        raise UserError(
            f"the base's tokenizer {fault}, so that llama.cpp would make other tokens of a text: "
            "give --format merged"
        )
    pairs = _merges(model)
    by_id = {id: token for token, id in tokenizer.get_vocab().items()}
    # Every row needs a token, and special ones may be beyond the rows.
    tokens = [by_id.get(id, f"[PAD{id}]") for id in range(rows)]
    is_special = {t.content: t.special for t in tokenizer.added_tokens_decoder.values()}
    unknown = tokenizer.unk_token if split == "default" else None
    types = {token: _type(token, is_special, unknown) for token in by_id.values()}
    fields: dict[str, Any] = {
        "tokenizer.ggml.model": "llama" if split == "default" else "gpt2",
        "tokenizer.ggml.pre": split,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [int(types.get(t, TokenType.UNUSED)) for t in tokens],
    }
    if split == "default":
        ranks = {left + right: -float(place) for place, (left, right) in enumerate(pairs)}
        fields["tokenizer.ggml.scores"] = [ranks.get(token, _NO_MERGE) for token in tokens]
    else:
        fields["tokenizer.ggml.merges"] = [" ".join(pair) for pair in pairs]
    ids = {
        "bos": tokenizer.bos_token_id,
        "eos": tokenizer.eos_token_id,
        "unknown": tokenizer.unk_token_id,
        "padding": tokenizer.pad_token_id,
    }
    for name, id in ids.items():
        if id is not None and id < rows:
            fields[f"tokenizer.ggml.{name}_token_id"] = id
    text = tokenizer("a")["input_ids"]
    fields["tokenizer.ggml.add_bos_token"] = text[0] == ids["bos"]
    fields["tokenizer.ggml.add_eos_token"] = text[-1] == ids["eos"]
    return fields


def _split(raw: Mapping[str, Any]) -> str | None:
    """Return llama.cpp's name for how a text is split, None if it has none."""
    parts, normalizers = _parts(raw["pre_tokenizer"]), _parts(raw["normalizer"])
    if raw["model"].get("byte_fallback"):
        kinds = [part["type"] for part in (*normalizers, *parts)]
        spaces = kinds == ["Prepend", "Replace"] or (
            kinds == ["Metaspace"]
            and not parts[0]["split"]
            and parts[0]["prepend_scheme"] != "never"
        )
        return "default" if spaces else None
    for part in parts:
        part.pop("trim_offsets", None)  # decides no token
    names = [name for name, split in _SPLITS.items() if split == parts and not normalizers]
    return next(iter(names), None)


def _parts(step: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Return the steps of a normalizer or pre-tokenizer one by one."""
    if step is None:
        return []
    if step["type"] != "Sequence":
        return [dict(step)]
    inner = step.get("pretokenizers", step.get("normalizers", []))
    return [part for one in inner for part in _parts(one)]


def _faults(raw: Mapping[str, Any], split: str | None) -> Iterator[str]:
    """Yield why llama.cpp would read another tokenizer, the clearest reason first."""
    model = raw["model"]
    if model["type"] != "BPE":
        yield f"is of the kind {model['type']}, not BPE"
    if split is None:
        yield "splits or changes texts in a way that has no name in GGUF"
    if model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        yield "marks the inside or the end of words"
    if bool(model.get("ignore_merges")) != (split == "llama-bpe"):
        yield "takes whole words without merges" if model["ignore_merges"] else "needs merges"
    if split == "default":
        pairs, vocabulary = _merges(model), model["vocab"]
        if sum(map(bool, map(_BYTE.fullmatch, vocabulary))) < 256:
            yield "lacks tokens for single bytes"
        # llama.cpp joins any two tokens whose joined token is there, and knows one score for it.
        possible = sum(
            token[:i] in vocabulary and token[i:] in vocabulary
            for token in vocabulary
            for i in range(1, len(token))
        )
        joined = [left + right for left, right in pairs]
        changes = sum(a != b for a, b in itertools.pairwise(joined))
        if len(set(pairs)) < possible or changes + 1 != len(set(joined)):
            yield "has merges that do not follow from scores of its tokens"


def _merges(model: Mapping[str, Any]) -> Sequence[tuple[str, str]]:
    return [tuple(pair.split(" ") if isinstance(pair, str) else pair) for pair in model["merges"]]


def _type(token: str, is_special: Mapping[str, bool], unknown: object) -> TokenType:
    if token in is_special:
        if token == unknown:
            return TokenType.UNKNOWN
        return TokenType.CONTROL if is_special[token] else TokenType.USER_DEFINED
    return TokenType.BYTE if _BYTE.fullmatch(token) else TokenType.NORMAL
