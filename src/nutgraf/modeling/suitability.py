"""Decide whether a base can be trained here, and which of its layers an adapter can be on.

A base is a causal language model of text, in full weights.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.pytorch_utils import Conv1D
from transformers.utils import find_adapter_config_file

from nutgraf.config import LoraSettings, ModelConfig
from nutgraf.core.errors import UserError, did_you_mean

_LAYERS = {"full_attention", "sliding_attention", "chunked_attention"}


def check_no_adapter(setting: str, model: str, revision: str | None) -> None:
    """Raise UserError if an adapter lies with a model: transformers would apply it unasked."""
    if find_adapter_config_file(model, revision=revision):
        raise UserError(
            f"{setting} {model!r} holds an adapter (adapter_config.json), which would be applied "
            "unasked: give a model without one, such as the merged model"
        )


def check_architecture(config: ModelConfig, architecture: Any) -> None:
    """Raise UserError for a base of another kind, or one that is stored quantized."""
    causal = AutoModelForCausalLM._model_mapping
    layers = getattr(architecture, "layer_types", None) or ()
    what = None
    if architecture.get_text_config() is not architecture:
        what = "reads more than text"
    elif getattr(architecture, "is_encoder_decoder", False):
        what = "is an encoder-decoder, which can only be a rival (rivals.NAME.model)"
    elif (
        type(architecture) not in causal
        or type(architecture) in AutoModelForMaskedLM._model_mapping
        or getattr(architecture, "attn_type", None) == "bi"  # XLNet
    ):
        what = "is no causal language model"
    elif getattr(causal[type(architecture)], "_is_stateful", False) or set(layers) - _LAYERS:
        what = "has layers with a state, not attention alone"
    if what:
        raise UserError(
            f"model.base {config.base!r} ({architecture.model_type}) {what}: give a causal "
            "language model of text, such as Llama, Qwen, Mistral or GPT-2"
        )
    stored = getattr(architecture, "quantization_config", None) or getattr(
        architecture, "compression_config", None
    )
    if stored:
        method = dict(stored).get("quant_method", "bitsandbytes")
        raise UserError(
            f"model.base {config.base!r} is stored quantized ({method}), and an adapter on it "
            "cannot be merged: give the model that it was made from, which model.quantization nf4 "
            "holds in 4 bits"
        )


def check_vocabulary(config: ModelConfig, tokenizer: PreTrainedTokenizerBase, rows: int) -> None:
    """Raise UserError if a prompt or a summary may have a token that the base has no row for.

    Or if the tokenizer is empty: transformers makes such a one if its files are not there.

    Special tokens that no text has, such as one for images, may be beyond the `rows`.
    """
    if not tokenizer("a", add_special_tokens=False)["input_ids"]:
        raise UserError(
            f"model.base {config.base!r} has a tokenizer without tokens: give it its "
            "tokenizer.json or tokenizer.model"
        )
    needed = {tokenizer.bos_token_id, tokenizer.eos_token_id}
    beyond = [
        f"{token.content!r} ({id:,})"
        for id, token in tokenizer.added_tokens_decoder.items()
        if id >= rows
        and (
            not token.special or id in needed or token.content in str(tokenizer.chat_template or "")
        )
    ]
    if tokenizer.vocab_size > rows:
        beyond.append(f"{tokenizer.vocab_size:,} tokens")
    if beyond:
        raise UserError(
            f"model.base {config.base!r} has {beyond[0]} in its tokenizer and {rows:,} rows in its "
            "embedding: give the tokenizer that it was trained with"
        )


def check_targets(base: PreTrainedModel, lora: LoraSettings) -> list[str]:
    """Return the names of the linear layers that an adapter can be on: all but the output.

    The embedding can have one too. Raises UserError for a name in `lora.target_modules` that is
    none of them.
    """
    output, embedding = base.get_output_embeddings(), base.get_input_embeddings()
    linear = {
        name
        for name, module in base.named_modules()
        if isinstance(module, (torch.nn.Linear, Conv1D)) and module is not output
    }
    able = linear | {name for name, module in base.named_modules() if module is embedding}
    names = sorted({name.rpartition(".")[2] for name in linear})
    for target in () if lora.target_modules == "all-linear" else lora.target_modules:
        is_it = re.compile(rf"(.*\.)?{re.escape(target)}").fullmatch
        if any(map(is_it, able)):
            continue
        kinds = [type(module).__name__ for name, module in base.named_modules() if is_it(name)]
        what = "the base has no such layer" + did_you_mean(target, names)
        if kinds:
            what = f"that is a {kinds[0]}, which cannot have an adapter"
        raise UserError(
            f"lora.target_modules has {target!r}, and {what}: use all-linear, or names among "
            f"{', '.join(names)}"
        )
    return names
