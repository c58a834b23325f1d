"""The frozen base, in 4 bits or not, and the LoRA adapters on it.

LoRA: Hu et al. 2021 (arXiv:2106.09685). NF4 and double quantization: Dettmers et al. 2023, QLoRA
(arXiv:2305.14314).
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, cast

import torch
from bitsandbytes.nn import Linear4bit
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    set_seed,
)
from transformers.utils import logging as transformers_logging

from nutgraf.problems import Failure, UserError
from nutgraf.settings import LoraSettings, ModelConfig

transformers_logging.set_verbosity_error()
transformers_logging.disable_progress_bar()

SCORES_LIMIT = 2**30  # bytes; beyond it a CPU trains with torch's fused attention
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


@dataclass(frozen=True)
class Device:
    """Where to compute and in which number format."""

    name: str  # "cuda" or "cpu"
    dtype: torch.dtype

    @property
    def dtype_name(self) -> str:
        return next(name for name, dtype in DTYPES.items() if dtype == self.dtype)

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Matrix products in `dtype`, whatever the weights are held in."""
        return torch.autocast(self.name, dtype=self.dtype, enabled=self.dtype != torch.float32)


def choose_device(config: ModelConfig) -> Device:
    """The device and number format asked for, or the best there is.

    `auto` computes in bf16 where the device has instructions for it (NVIDIA since Ampere; x86
    with AVX512-BF16 or AMX), else in fp16 on a GPU and fp32 on a CPU. Raises UserError for what
    the machine cannot do.
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


def source(config: ModelConfig) -> str:
    """The folder or Hub id that `transformers` loads the base from."""
    if config.base == "pocket":
        return str(resources.files("nutgraf.pocket") / "checkpoint")
    return config.base


def identity(config: ModelConfig) -> dict[str, Any]:
    """What an adapter must find again to be the same model: base, revision, configuration hash.

    The hash is over the architecture only (shapes and the like), read without the weights.
    """
    with _plain_errors(config):
        shape = AutoConfig.from_pretrained(
            source(config), revision=config.revision, trust_remote_code=False
        ).to_diff_dict()
    for volatile in ("_name_or_path", "transformers_version", "dtype", "torch_dtype"):
        shape.pop(volatile, None)
    digest = hashlib.sha256(repr(sorted(shape.items())).encode()).hexdigest()[:16]
    return {"base": config.base, "revision": config.revision, "shape": digest}


def load_tokenizer(config: ModelConfig) -> PreTrainedTokenizerBase:
    """The base's tokenizer; where it has no padding token, the end of sequence pads too."""
    with _plain_errors(config):
        tokenizer = AutoTokenizer.from_pretrained(
            source(config), revision=config.revision, trust_remote_code=False
        )
    if tokenizer.pad_token is None:
        # Safe because padding is masked by position, never by id (prompts.py, inference.py).
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


@functools.lru_cache(maxsize=1)
def load_base(config: ModelConfig) -> PreTrainedModel:
    """The frozen base on its device, in eval mode; one is kept per process for the next caller.

    Weights are held in 4 bits (`nf4`) or in the device's number format; a CPU holds them in fp32
    and casts in each product, which costs less than the fp32 product. Only safetensors are read.
    Raises Failure where it cannot be loaded, with what to do.
    """
    device = choose_device(config)
    held = torch.float32 if device.name == "cpu" else device.dtype
    quantization = None
    if config.quantization == "nf4":
        held = device.dtype
        quantization = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=config.double_quantization,
            bnb_4bit_compute_dtype=device.dtype,
        )
    with _plain_errors(config):
        base = AutoModelForCausalLM.from_pretrained(
            source(config),
            revision=config.revision,
            dtype=held,
            quantization_config=quantization,
            device_map={"": device.name},
            use_safetensors=True,
            trust_remote_code=False,
        )
    for layer in base.modules():
        if isinstance(layer, Linear4bit):
            # On a CPU an evaluation would pack the weights for a fused kernel: scales rounded to
            # bf16 for good, and no gradient from then on (docs/log.md).
            layer.support_avx512bf16_for_cpu = False
    return base.requires_grad_(False).eval()


@contextlib.contextmanager
def fresh_adapter(
    base: PreTrainedModel, lora: LoraSettings, seed: int
) -> Iterator[PreTrainedModel]:
    """The base with a new LoRA adapter, which is taken off again at the end of the block.

    The adapter's weights are drawn from `seed` and held in fp32.
    """
    set_seed(seed)
    targets = lora.target_modules
    config = LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=targets if isinstance(targets, str) else list(targets),
        task_type="CAUSAL_LM",
    )
    try:
        model = get_peft_model(base, config)
    except ValueError as error:
        if "not found in the base model" in str(error):
            raise UserError(
                f"lora.target_modules is {targets!r} and the base has no such layers: "
                "use all-linear or names of its linear layers"
            ) from None
        raise
    with _taken_off(model, base):
        for weight in model.parameters():
            if weight.requires_grad:
                weight.data = weight.data.float()
        yield cast(PreTrainedModel, model)


@contextlib.contextmanager
def with_adapter(base: PreTrainedModel, path: Path) -> Iterator[PreTrainedModel]:
    """The base with the adapter saved at `path`, in eval mode, taken off again at the end.

    Raises UserError where its weights are not in safetensors: a pickle can run code when read.
    """
    with with_adapters(base, {"default": path}) as use:
        yield use("default")


@contextlib.contextmanager
def with_adapters(
    base: PreTrainedModel, paths: Mapping[str, Path]
) -> Iterator[Callable[[str | None], PreTrainedModel]]:
    """A function that gives the base with the adapter of a name in use, or with none for None.

    All share one base: a call changes what earlier calls gave, so one thread has to own it.
    `paths` are at least one folder by name; raises as `with_adapter` does.
    """
    for path in paths.values():
        if not (path / "adapter_model.safetensors").is_file():
            # peft itself would fall back to adapter_model.bin.
            raise UserError(
                f"{path} has no adapter_model.safetensors: pickles are not read, since they can "
                "run code; make the adapter again"
            )
    frozen: dict[str, Any] = {"is_trainable": False, "use_safetensors": True}
    (first, path), *others = paths.items()
    model = PeftModel.from_pretrained(base, str(path), adapter_name=first, **frozen)
    for name, path in others:
        model.load_adapter(str(path), adapter_name=name, **frozen)
    tuner = cast(Any, model.base_model)
    in_use: str | None = first

    def use(name: str | None) -> PreTrainedModel:
        nonlocal in_use
        if name != in_use:
            if name is None:
                tuner.disable_adapter_layers()
            else:
                tuner.enable_adapter_layers()
                model.set_adapter(name, inference_mode=True)
            in_use = name
        return cast(PreTrainedModel, model)

    with _taken_off(model, base):
        model.eval()
        yield use


@contextlib.contextmanager
def _taken_off(model: PeftModel, base: PreTrainedModel) -> Iterator[None]:
    had_forward = base.__dict__.get("forward")
    try:
        yield
    finally:
        model.unload()
        # A trainer may have patched the base's forward for its fused loss: start clean.
        base.__dict__.pop("forward", None)
        if had_forward is not None:
            base.forward = had_forward
        if hasattr(base, "peft_config"):
            del base.peft_config
        base.requires_grad_(False).eval()


@contextlib.contextmanager
def training_attention(
    model: PreTrainedModel, device: Device, rows: int, tokens: int
) -> Iterator[None]:
    """In the block, attention as it trains fastest with micro-batches of [rows, tokens].

    On a CPU plain products and a softmax take 14 to 21% less time than torch's fused kernel
    (docs/log.md), but keep all scores for the backward pass: done where these are few.
    """
    shape = model.config
    # One number format for the scores, fp32 for their softmax, and what autograd keeps of both.
    kept = shape.num_hidden_layers * shape.num_attention_heads * rows * tokens**2 * 10
    if device.name != "cpu" or kept > SCORES_LIMIT:
        yield
        return
    usual = shape._attn_implementation
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(usual)


@contextlib.contextmanager
def _plain_errors(config: ModelConfig) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise Failure(
            f"model.base {config.base!r} could not be loaded ({reason}): give `pocket`, a folder "
            "with safetensors and a tokenizer, or a Hub id that this machine reaches or has cached"
        ) from error
