"""Create, load, save and merge LoRA adapters on a frozen base.

LoRA: Hu et al. 2021 (arXiv:2106.09685).
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch

# Before peft, which imports bitsandbytes too (`four_bits`).
from nutgraf.modeling.load import (
    frozen_weight,
    is_plain_linear,
    load_architecture,
    load_base,
    load_weights,
)

# isort: split
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import SafetensorError
from safetensors.torch import save_file
from transformers import PreTrainedModel, set_seed

from nutgraf.config import LoraSettings, ModelConfig
from nutgraf.core.errors import Failure, UserError, library_errors, one_line
from nutgraf.core.files import written_by_others
from nutgraf.modeling.suitability import check_targets

# peft warns of an adapter on tied weights, which `merge_adapter` parts, or on an embedding, and
# misses the config.json of a GGUF file.
for message in ("Model .* `tie_word_emb", "Input and output emb", "Setting `save_embedding_",
                "Could not find a config file in .*[.]gguf"):  # fmt: skip
    warnings.filterwarnings("ignore", message=message)

# Errors of the libraries for a damaged adapter.
_DAMAGED = (OSError, ValueError, TypeError, KeyError, RuntimeError, UserWarning, SafetensorError)


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
    """Yield the base with a new LoRA adapter in fp32, drawn from `seed`; remove it at the end.

    Raises UserError if one of `lora.target_modules` is no layer that an adapter can be on.
    """
    names = check_targets(base, lora)
    set_seed(seed)
    change = f"use names among {', '.join(names)}"
    fact = f"no adapter can be on lora.target_modules {lora.target_modules}"
    with library_errors(fact, change), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what peft decides for GPT-2's layers; experts are below
        model = get_peft_model(base, lora_config(lora))
    with _removed(model, base):
        # peft has a set here, and its order would differ in the files of two processes.
        config = cast(Any, model.peft_config["default"])
        config.target_modules = sorted(config.target_modules or ())
        if config.target_parameters:
            raise UserError(
                f"lora.target_modules is {lora.target_modules} and takes in the experts of a "
                f"mixture, which get no adapter: {change}"
            )
        for weight in model.parameters():
            if weight.requires_grad:
                weight.data = weight.data.float()
        yield cast(PreTrainedModel, model)


@contextlib.contextmanager
def with_adapter(base: PreTrainedModel, path: Path) -> Iterator[PreTrainedModel]:
    """Yield the base with the adapter saved at `path`, in eval mode; remove it at the end.

    Raises UserError if it is damaged, of another base, or not in safetensors, since a pickle can
    run code when it is read.
    """
    with with_adapters(base, {"default": path}) as use:
        yield use("default")


@contextlib.contextmanager
def with_adapters(
    base: PreTrainedModel, paths: Mapping[str, Path]
) -> Iterator[Callable[[str | None], PreTrainedModel]]:
    """Yield a function that returns the base with the named adapter, or with none for None.

    It changes and returns the same object each time, so one thread must own it. `paths` are folders
    by name, at least one. Raises as `with_adapter` does.
    """
    model = _load_adapters(base, paths)
    tuner = cast(Any, model.base_model)

    def use(name: str | None) -> PreTrainedModel:
        if name is None:
            tuner.disable_adapter_layers()
        else:
            tuner.enable_adapter_layers()
            model.set_adapter(name, inference_mode=True)
        return cast(PreTrainedModel, model)

    with _removed(model, base):
        model.eval()
        yield use


def merge_adapter(config: ModelConfig, adapter: Path, out: Path) -> None:
    """Save the base at `out` with the adapter saved at `adapter` added into its weights.

    The sum is in fp32, never in 4 bits, and is saved in the base's own number format. If embedding
    and output layer share weights and one of them has an adapter, they are parted. Raises UserError
    as `with_adapter` does, Failure if a merged weight is not finite.
    """
    dtype = load_architecture(config).dtype or torch.float32
    base = load_weights(config, dtype=torch.float32)
    model = _load_adapters(base, {"default": adapter})
    embedding, output = base.get_input_embeddings(), base.get_output_embeddings()
    adapted = isinstance(embedding, BaseTunerLayer) or isinstance(output, BaseTunerLayer)
    if adapted and output is not None and output.weight is embedding.weight:
        layer: Any = output.get_base_layer() if isinstance(output, BaseTunerLayer) else output
        layer.weight = torch.nn.Parameter(layer.weight.clone())
    try:
        merged = cast(Any, model).merge_and_unload(safe_merge=True).to(dtype)
    except ValueError as error:
        raise Failure(f"{adapter} cannot be merged: {error}") from error
    with written_by_others(out.parent):
        merged.save_pretrained(str(out))


@dataclass(frozen=True)
class LoraLinear:
    """A frozen linear layer, with the LoRA adapter that is active on it if there is one."""

    base: torch.nn.Module
    adapter: tuple[torch.nn.Parameter, torch.nn.Parameter] | None = None  # A [r, in], B [out, r]
    scaling: float = 0.0
    dropout: float = 0.0

    @property
    def weight(self) -> torch.Tensor:
        """The frozen weights, [out, in]; in 4 bits they are unpacked each time."""
        return cast(torch.Tensor, frozen_weight(self.base))

    @classmethod
    def of(cls, module: Any) -> LoraLinear | None:
        """Return the parts of a linear layer, or None if it or its adapter is of another kind."""
        if not isinstance(module, LoraLayer):
            return cls(module) if is_plain_linear(module) else None
        layer: Any = module
        if not is_plain_linear(layer.base_layer) or layer.merged:
            return None
        if layer.disable_adapters:
            return cls(layer.base_layer)
        if len(layer.active_adapters) != 1:
            return None
        (name,) = layer.active_adapters
        if layer.lora_variant.get(name) or layer.lora_bias.get(name):
            return None
        if name not in layer.lora_A:  # it is on other layers only
            return cls(layer.base_layer)
        dropout = getattr(layer.lora_dropout[name], "p", 0.0)
        adapter = layer.lora_A[name].weight, layer.lora_B[name].weight
        return cls(layer.base_layer, adapter, layer.scaling[name], dropout)


def base_of(model: PreTrainedModel) -> PreTrainedModel:
    """Return the model without peft's wrapper, but with the adapters in its layers."""
    base: PreTrainedModel = model.get_base_model() if isinstance(model, PeftModel) else model
    return base


def _load_adapters(base: PreTrainedModel, paths: Mapping[str, Path]) -> PeftModel:
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
            # An adapter without its weights would silently do nothing.
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


def adapter_weights(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Return a copy of the trained weights on the CPU, by name."""
    return {
        name: weight.detach().to("cpu", copy=True)
        for name, weight in model.named_parameters()
        if weight.requires_grad
    }


@torch.no_grad()
def set_adapter_weights(model: PreTrainedModel, weights: Mapping[str, torch.Tensor]) -> None:
    """Set the trained weights to what `adapter_weights` returned."""
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            weight.copy_(weights[name])


def load_trainable(model: PreTrainedModel, path: Path) -> None:
    """Set the trained weights of `fresh_adapter` to those of the adapter saved at `path`."""
    weights: dict[str, Any] = {"is_trainable": True, "use_safetensors": True}
    cast(Any, model).load_adapter(str(path), "default", **weights)


def save_adapter(model: PreTrainedModel, out: Path) -> None:
    """Write the adapter as peft does, without its empty model card."""
    # `state_dict()` of a sharded base would release, in this process alone, what others still use.
    with written_by_others(out.parent):
        cast(Any, model).save_pretrained(
            str(out), safe_serialization=True, state_dict=adapter_weights(model)
        )
    (out / "README.md").unlink()


def save_adapter_weights(
    weights: Mapping[str, torch.Tensor], lora: LoraSettings, out: Path
) -> None:
    """Write what `adapter_weights` returned as `save_adapter` does, without the model in memory."""
    # peft leaves the adapter's own name out of those of its weights.
    named = {name.replace(".default.", "."): weight for name, weight in weights.items()}
    with written_by_others(out.parent):
        lora_config(lora).save_pretrained(str(out))
        save_file(named, out / "adapter_model.safetensors")
