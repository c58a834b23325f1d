"""The frozen base, in 4 bits or not, and the LoRA adapters on it.

LoRA: Hu et al. 2021 (arXiv:2106.09685). NF4 and double quantization: Dettmers et al. 2023, QLoRA
(arXiv:2305.14314).
"""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from bitsandbytes.nn import Linear4bit
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import SafetensorError
from torch.nn import Linear
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

from nutgraf.base import source, unloadable
from nutgraf.files import written_by_others
from nutgraf.problems import Failure, UserError, one_line
from nutgraf.settings import LoraSettings, ModelConfig

transformers_logging.set_verbosity_error()
transformers_logging.disable_progress_bar()

# What reading a damaged adapter may end in.
_DAMAGED = (OSError, ValueError, TypeError, KeyError, RuntimeError, UserWarning, SafetensorError)
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


@dataclass(frozen=True)
class Device:
    """Where to compute and in which number format."""

    name: str  # "cuda" or "cpu"
    dtype: torch.dtype

    @property
    def dtype_name(self) -> str:
        """`bf16`, `fp16` or `fp32`."""
        return next(name for name, dtype in DTYPES.items() if dtype == self.dtype)

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Return a context in which matrix products are in `dtype`, whatever the weights are in."""
        return torch.autocast(self.name, dtype=self.dtype, enabled=self.dtype != torch.float32)


def choose_device(config: ModelConfig) -> Device:
    """Return the device and number format of the settings, or the best that are available.

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


def load_tokenizer(config: ModelConfig) -> PreTrainedTokenizerBase:
    """Return the base's tokenizer; without a padding token, the end of sequence pads too."""
    with plain_errors(config):
        tokenizer = AutoTokenizer.from_pretrained(
            source(config), revision=config.revision, trust_remote_code=False
        )
    if tokenizer.pad_token is None:
        # Safe because padding is masked by position, never by id (prompts.py, inference.py).
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def architecture(config: ModelConfig) -> Any:
    """Return the base's configuration, without its weights. Raises Failure if it is not there."""
    with plain_errors(config):
        return AutoConfig.from_pretrained(
            source(config), revision=config.revision, trust_remote_code=False
        )


@functools.lru_cache(maxsize=1)
def load_base(config: ModelConfig) -> PreTrainedModel:
    """Return the frozen base on its device, in eval mode; one is cached per process.

    Weights are held in 4 bits (`nf4`) or in the device's number format; on a CPU those of linear
    layers only, the others in fp32. Only safetensors are read. Raises Failure if it cannot be
    loaded, with what to do.
    """
    device = choose_device(config)
    held: torch.dtype | str = "auto" if device.name == "cpu" else device.dtype
    quantization = None
    if config.quantization == "nf4":
        held = device.dtype
        quantization = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=config.double_quantization,
            bnb_4bit_compute_dtype=device.dtype,
        )
    base = weights(
        config, dtype=held, quantization_config=quantization, device_map={"": device.name}
    )
    if device.name == "cpu":
        _hold_on_cpu(base, device.dtype)
        if (output := base.get_output_embeddings()) is not None:
            output.register_forward_pre_hook(_contiguous)
    return base.requires_grad_(False).eval()


def weights(config: ModelConfig, **held: Any) -> PreTrainedModel:
    """Return the base as transformers loads it with the `held` arguments; safetensors only."""
    with plain_errors(config):
        return AutoModelForCausalLM.from_pretrained(
            source(config),
            revision=config.revision,
            use_safetensors=True,
            trust_remote_code=False,
            **held,
        )


def _hold_on_cpu(base: PreTrainedModel, dtype: torch.dtype) -> None:
    """Convert weights to the formats in which a CPU computes fastest, with sums in fp32."""
    embedding = base.get_input_embeddings().weight
    for layer in base.modules():
        if isinstance(layer, Linear4bit):
            # An evaluation would pack the weights for a fused kernel: scales rounded to bf16 for
            # good, and no gradient from then on (docs/log.md).
            layer.support_avx512bf16_for_cpu = False
        elif isinstance(layer, Linear) and layer.weight is not embedding:
            layer.to(dtype)  # autocast would cast fp32 weights in every product
        else:
            for weight in layer.parameters(recurse=False):
                weight.data = weight.data.float()


def _contiguous(output: torch.nn.Module, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
    """Copy the positions that get logits: for a slice torch would copy the weights."""
    return (inputs[0].clone(memory_format=torch.contiguous_format),)


def lora_config(lora: LoraSettings) -> LoraConfig:
    """Return peft's configuration of an adapter with these settings."""
    targets = lora.target_modules
    return LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=targets if isinstance(targets, str) else list(targets),
        task_type="CAUSAL_LM",
    )


@contextlib.contextmanager
def fresh_adapter(
    base: PreTrainedModel, lora: LoraSettings, seed: int
) -> Iterator[PreTrainedModel]:
    """The base with a new LoRA adapter in fp32, drawn from `seed`; taken off again at the end."""
    set_seed(seed)
    try:
        model = get_peft_model(base, lora_config(lora))
    except ValueError as error:
        if "not found in the base model" in str(error):
            raise UserError(
                f"lora.target_modules is {lora.target_modules!r} and the base has no such layers: "
                "use all-linear or names of its linear layers"
            ) from None
        raise
    with _removed(model, base):
        # A set in peft, whose order differs from process to process, and so would the file's.
        config = cast(Any, model.peft_config["default"])
        config.target_modules = sorted(config.target_modules or ())
        for weight in model.parameters():
            if weight.requires_grad:
                weight.data = weight.data.float()
        yield cast(PreTrainedModel, model)


@contextlib.contextmanager
def with_adapter(base: PreTrainedModel, path: Path) -> Iterator[PreTrainedModel]:
    """Yield the base with the adapter saved at `path`, in eval mode; remove it at the end.

    Raises UserError if its weights are not in safetensors, since a pickle can run code when read,
    and if they or their settings are damaged or of another base.
    """
    with with_adapters(base, {"default": path}) as use:
        yield use("default")


@contextlib.contextmanager
def with_adapters(
    base: PreTrainedModel, paths: Mapping[str, Path]
) -> Iterator[Callable[[str | None], PreTrainedModel]]:
    """Yield a function that returns the base with the adapter of a name, or with none for None.

    It returns the same object each time, changed, so one thread must own it. `paths` are folders by
    name, at least one. Raises as `with_adapter` does.
    """
    model = _adapted(base, paths)
    tuner = cast(Any, model.base_model)
    in_use: str | None = next(iter(paths))

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

    with _removed(model, base):
        model.eval()
        yield use


def merge(config: ModelConfig, adapter: Path, out: Path) -> None:
    """Save the base at `out` with the adapter saved at `adapter` added into its weights.

    It is added in fp32 to the base in full precision, never in 4 bits, and saved in the number
    format that the base comes in. Raises UserError as `with_adapter` does, Failure where a merged
    weight is not finite.
    """
    own = architecture(config).dtype or torch.float32
    adapted = _adapted(weights(config, dtype=torch.float32), {"default": adapter})
    try:
        merged = cast(Any, adapted).merge_and_unload(safe_merge=True).to(own)
    except ValueError as error:
        raise Failure(f"{adapter} cannot be merged: {error}") from error
    with written_by_others(out.parent):
        merged.save_pretrained(str(out))


def _adapted(base: PreTrainedModel, paths: Mapping[str, Path]) -> PeftModel:
    """Return the base with the adapters of all `paths`, the first one active."""
    for path in paths.values():
        if not (path / "adapter_model.safetensors").is_file():
            # peft itself would fall back to adapter_model.bin.
            raise UserError(
                f"{path} has no adapter_model.safetensors: pickles are not read, since they can "
                "run code; make the adapter again"
            )
    frozen: dict[str, Any] = {"is_trainable": False, "use_safetensors": True}
    (first, path), *others = paths.items()
    try:
        with warnings.catch_warnings():
            # Without its weights an adapter would do nothing, and the base would write alone.
            warnings.filterwarnings("error", message=".*Found missing adapter keys")
            model = PeftModel.from_pretrained(base, str(path), adapter_name=first, **frozen)
            for name, path in others:
                model.load_adapter(str(path), adapter_name=name, **frozen)
            return model
    except torch.OutOfMemoryError:
        raise
    except _DAMAGED as error:
        load_base.cache_clear()  # parts of the adapter may be on it
        reason = one_line(f"{type(error).__name__}: {error}", 200)
        raise UserError(
            f"{path} is damaged or of another base ({reason}): make the model again"
        ) from None


@contextlib.contextmanager
def _removed(model: PeftModel, base: PreTrainedModel) -> Iterator[None]:
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
def plain_errors(config: ModelConfig) -> Iterator[None]:
    """Turn what transformers raises for a base that it cannot load into one Failure."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:  # a damaged file can make the libraries raise anything
        raise unloadable(config, error) from error
