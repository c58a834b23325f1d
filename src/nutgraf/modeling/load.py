"""Load the frozen base, in 4 bits or not, with its tokenizer, on a device."""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch.nn import Linear
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    GenerationConfig,
    GPT2Tokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging as transformers_logging

from nutgraf.config import ModelConfig
from nutgraf.core.environment import ignore_launchers
from nutgraf.core.errors import Failure, UserError, one_line
from nutgraf.core.files import read_json
from nutgraf.modeling.base_files import (
    base_revision,
    base_source,
    find_file,
    is_gguf,
    load_failure,
)
from nutgraf.modeling.end_tokens import find_end_tokens, named_ends
from nutgraf.modeling.four_bits import Linear4bit, dequantize_4bit
from nutgraf.modeling.gguf_file import load_gguf, read_architecture, read_tokenizer
from nutgraf.modeling.suitability import check_architecture, check_no_adapter, check_vocabulary

if not torch.distributed.is_initialized():  # else they are Ray's, for one training
    ignore_launchers()  # those of a cluster's node
transformers_logging.set_verbosity_error()
transformers_logging.disable_progress_bar()
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


@dataclass(frozen=True)
class Device:
    """Say where to compute and in which number format."""

    name: str  # "cuda" or "cpu"
    dtype: torch.dtype

    @property
    def dtype_name(self) -> str:
        """The number format: `bf16`, `fp16` or `fp32`."""
        return next(name for name, dtype in DTYPES.items() if dtype == self.dtype)

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Return a context in which matrix products are in `dtype`, whatever the weights are in."""
        return torch.autocast(self.name, dtype=self.dtype, enabled=self.dtype != torch.float32)


def choose_device(config: ModelConfig) -> Device:
    """Return the device and number format of the configuration, or the best for `auto`.

    `auto` is bf16 if the device has instructions for it (NVIDIA since Ampere; x86 with AVX512-BF16
    or AMX), else fp16 on a GPU and fp32 on a CPU. Raises UserError for what the machine lacks.
    """
    has_gpu = torch.cuda.is_available()
    if config.device == "cuda" and not has_gpu:
        raise UserError("model.device is 'cuda' and there is no CUDA device: set it to auto or cpu")
    name = "cuda" if has_gpu and config.device != "cpu" else "cpu"
    if config.dtype != "auto":
        if (name, config.dtype) == ("cpu", "fp16"):
            raise UserError(
                "model.dtype is 'fp16' and the device a CPU: set it to auto, bf16, fp32"
            )
        return Device(name, DTYPES[config.dtype])
    if name == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
        return Device(name, torch.bfloat16 if fast else torch.float16)
    return Device(name, torch.bfloat16 if _cpu_has_bf16() else torch.float32)


def _cpu_has_bf16() -> bool:
    has = torch.cpu.get_capabilities()
    return bool(has.get("avx512_bf16") or has.get("amx_bf16"))


def load_tokenizer(config: ModelConfig, saved: Path | None = None) -> PreTrainedTokenizerBase:
    """Return the tokenizer in the folder `saved`, or else the base's.

    If it has no end of sequence, that is the first end that the base names. Its padding token is
    one that the base has a row for: else the end of sequence pads too. Raises as
    `load_architecture`, and UserError if the tokenizer is of another base, or empty.
    """
    rows = load_architecture(config).vocab_size
    source = str(saved) if saved else base_source(config)
    revision = None if saved else base_revision(config)
    with load_errors(config):
        if is_gguf(source):
            tokenizer = read_tokenizer(Path(source))
        else:
            tokenizer = _load_tokenizer(source, revision)
        if tokenizer.eos_token is None and (ends := named_ends(config, rows)):
            tokenizer.eos_token = tokenizer.convert_ids_to_tokens(ends[0])
    if tokenizer.pad_token is None or tokenizer.pad_token_id >= rows:
        # Safe because padding is masked by position, never by id.
        tokenizer.pad_token = tokenizer.eos_token
    check_vocabulary(config, tokenizer, rows)
    return tokenizer


def _load_tokenizer(source: str, revision: str | None) -> Any:
    """Return the tokenizer in a folder or on the Hub, which splits texts as its tokenizer.json.

    transformers makes a `GPT2Tokenizer` of its vocabulary alone, and texts are split as GPT-2's. So
    other tokens would come than SmolLM2 and others were trained with.
    """
    tokenizer = AutoTokenizer.from_pretrained(source, revision=revision, trust_remote_code=False)
    if type(tokenizer) is not GPT2Tokenizer:
        return tokenizer
    if (file := find_file(source, revision, "tokenizer.json")) is None:
        return tokenizer
    parts = ("normalizer", "pre_tokenizer")
    in_file, loaded = read_json(file), json.loads(tokenizer.backend_tokenizer.to_str())
    if all(in_file.get(part) == loaded.get(part) for part in parts):
        return tokenizer
    return cast(Any, PreTrainedTokenizerFast).from_pretrained(
        source, revision=revision, **tokenizer.special_tokens_map
    )


@functools.lru_cache(maxsize=4)
def end_tokens(config: ModelConfig) -> tuple[int, ...]:
    """Return the ids of all tokens that end a summary. Raises as `load_tokenizer`."""
    tokenizer = load_tokenizer(config)
    with load_errors(config):
        return find_end_tokens(config, tokenizer, load_architecture(config).vocab_size)


def load_architecture(config: ModelConfig) -> Any:
    """Return the base's configuration, without its weights.

    Every use of a base comes through here. Raises Failure if it is not there, UserError if it is
    none that can be trained.
    """
    source, revision = base_source(config), base_revision(config)
    with load_errors(config):
        if is_gguf(source):
            architecture = read_architecture(Path(source))
        else:
            check_no_adapter("model.base", source, revision)
            architecture = AutoConfig.from_pretrained(
                source, revision=revision, trust_remote_code=False
            )
    check_architecture(config, architecture)
    if (getattr(architecture, "pad_token_id", None) or 0) >= architecture.vocab_size:
        architecture.pad_token_id = None  # no embedding can be made with it
    return architecture


@functools.lru_cache(maxsize=1)
def load_base(config: ModelConfig) -> PreTrainedModel:
    """Return the frozen base on its device, in eval mode; one is cached per process.

    Weights are in 4 bits (`nf4`) or in the device's number format; on a CPU those of linear layers
    only, the others in fp32. Raises Failure, with what to do, if it cannot be loaded.
    """
    device = choose_device(config)
    dtype: torch.dtype | str = "auto" if device.name == "cpu" else device.dtype
    quantization = None
    if config.quantization == "nf4":
        dtype = device.dtype
        quantization = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=config.double_quantization,
            bnb_4bit_compute_dtype=device.dtype,
        )
    base = load_weights(
        config, dtype=dtype, quantization_config=quantization, device_map={"": device.name}
    )
    if device.name == "cpu":
        _cast_for_cpu(base, device.dtype)
        if (output := base.get_output_embeddings()) is not None:
            output.register_forward_pre_hook(_contiguous)
    return base.requires_grad_(False).eval()


def load_weights(config: ModelConfig, **kwargs: Any) -> PreTrainedModel:
    """Return the base as `from_pretrained` loads it with `kwargs`, from safetensors or GGUF only.

    Its `generation_config` has the ends of its texts and nothing else. Raises UserError if the
    files lack a weight, which transformers would draw at random.
    """
    architecture, source = load_architecture(config), base_source(config)
    with load_errors(config):
        if is_gguf(source):
            base, info = load_gguf(Path(source), architecture, **kwargs)
        else:
            base, info = cast(Any, AutoModelForCausalLM).from_pretrained(
                source,
                config=architecture,
                revision=base_revision(config),
                use_safetensors=True,
                trust_remote_code=False,
                ignore_mismatched_sizes=True,  # or the sizes would be in no message
                output_loading_info=True,
                **kwargs,
            )
    missing = [*sorted(info["missing_keys"]), *(key for key, *_ in sorted(info["mismatched_keys"]))]
    if missing:
        raise UserError(
            f"model.base {config.base!r} lacks weights of a {type(base).__name__} or has them in "
            f"another shape ({len(missing)}, the first {missing[0]}): give a whole causal language "
            "model"
        )
    base.generation_config = GenerationConfig(eos_token_id=list(end_tokens(config)))
    return base


def _cast_for_cpu(base: PreTrainedModel, dtype: torch.dtype) -> None:
    """Convert weights to the formats in which a CPU computes fastest, with sums in fp32."""
    embedding = base.get_input_embeddings().weight
    for layer in base.modules():
        if isinstance(layer, Linear4bit):
            # An evaluation would pack the weights for a fused kernel: scales stay rounded to
            # bf16, and there is no gradient any more (docs/log.md).
            layer.support_avx512bf16_for_cpu = False
        elif isinstance(layer, Linear) and layer.weight is not embedding:
            layer.to(dtype)  # autocast would cast fp32 weights in every product
        else:
            for weight in layer.parameters(recurse=False):
                weight.data = weight.data.float()


def is_plain_linear(layer: torch.nn.Module) -> bool:
    """Return whether a layer is a product with weights and nothing else, in 4 bits or not."""
    changed = "forward" in vars(layer)  # adapters that are trained together hang there
    return type(layer) in (Linear, Linear4bit) and layer.bias is None and not changed


def frozen_weight(linear: torch.nn.Module) -> torch.Tensor:
    """Return the weights [out, in] of a linear layer; those in 4 bits are unpacked."""
    weight: Any = linear.weight
    if isinstance(linear, Linear4bit):
        weight = dequantize_4bit(weight.data, weight.quant_state)
    return cast(torch.Tensor, weight)


def _contiguous(output: torch.nn.Module, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
    """Copy the positions that get logits: for a slice torch would copy the weights."""
    return (inputs[0].clone(memory_format=torch.contiguous_format),)


@contextlib.contextmanager
def load_errors(config: ModelConfig) -> Iterator[None]:
    """Raise `load_failure` for anything that transformers raises if it cannot load the base.

    Raises Failure if the device has too little memory for it.
    """
    try:
        yield
    except (MemoryError, UserError):
        raise
    except torch.OutOfMemoryError as error:
        raise Failure(
            f"no memory on the device for model.base {config.base!r} ({one_line(error, 120)}): "
            "free some, set model.quantization to nf4, or model.device to cpu"
        ) from None
    except Exception as error:  # a damaged file can make the libraries raise anything
        raise load_failure(config, error) from error
