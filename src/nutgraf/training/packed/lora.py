"""Apply many LoRA adapters over one frozen base: each row of a batch goes through its own one.

The base's products, and the unpacking of 4-bit weights, are done once for all rows; the stacked
adapters are added with batched products. docs/together.md has the equations.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedModel

from nutgraf.core.errors import Failure
from nutgraf.modeling.load import Device

_PEFT = "base_model.model."  # before a layer's name in a model of peft's


class PackedAdapter:
    """One run's adapter apart from the base: weights, scaling and dropout, by layer.

    `down` is peft's A, [r, in]; `up` is its B transposed, [r, out], so that each is contiguous in a
    stack of higher ranks.
    """

    def __init__(self, model: PreTrainedModel, seed: int, device: Device) -> None:
        """Copy the adapter of peft's `model`; it must be on linear layers inside, else Failure."""
        self.down: dict[str, nn.Parameter] = {}
        self.up: dict[str, nn.Parameter] = {}
        self.scaling: dict[str, float] = {}
        self.dropout = 0.0
        self.masks = DropoutMasks(seed, device)
        self._by_name: dict[str, tuple[nn.Parameter, bool]] = {}  # peft's name: (weight, is B)
        output = model.get_output_embeddings()
        for name, weight in model.named_parameters():
            if not weight.requires_grad:
                continue
            path, _, kind = name.partition(".lora_")
            layer, transposed = path.removeprefix(_PEFT), kind.startswith("B.")
            adapted = cast(Any, model.get_submodule(path))
            if kind.startswith("embedding") or not kind or adapted is output:
                raise Failure(
                    f"an adapter on {layer} is not trained together with others: take it out of "
                    "lora.target_modules, or set search.together to off"
                )
            copy = nn.Parameter(_transpose_if(weight.detach(), transposed).float().clone())
            (self.up if transposed else self.down)[layer] = copy
            self._by_name[name] = copy, transposed
            self.scaling[layer] = adapted.scaling["default"]
            self.dropout = getattr(adapted.lora_dropout["default"], "p", 0.0)

    @property
    def parameters(self) -> list[nn.Parameter]:
        """All that is trained, in peft's order."""
        return [weight for weight, _ in self._by_name.values()]

    def weights(self) -> dict[str, torch.Tensor]:
        """Return a copy by peft's names on the CPU, as `adapters.adapter_weights` does."""
        return {
            name: _transpose_if(weight.detach().to("cpu", copy=True), transposed).contiguous()
            for name, (weight, transposed) in self._by_name.items()
        }

    @torch.no_grad()
    def load_weights(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Set the weights to what `weights` returned."""
        for name, (weight, transposed) in self._by_name.items():
            weight.copy_(_transpose_if(weights[name], transposed))


class DropoutMasks:
    """The dropout masks of one run, drawn from a generator of its own.

    On a CPU they are those that `fit()` draws with the same seed; on a GPU, whose fused dropout
    kernel draws otherwise, they have the same distribution.
    """

    def __init__(self, seed: int, device: Device) -> None:
        self.device = device.name
        self.generator = torch.Generator(device.name).manual_seed(seed)
        # The loader of `fit()` takes a seed for its workers first.
        torch.empty((), dtype=torch.int64, device=device.name).random_(generator=self.generator)
        self._first_states: dict[str, torch.Tensor] = {}

    def begin(self) -> None:
        """Start a new pass: a layer that draws twice from now on is being recomputed."""
        self._first_states.clear()

    def draw(
        self, layer: str, shape: tuple[int, ...], share: float, recompute: bool
    ) -> torch.Tensor:
        """Return what to multiply a layer's input with: `share` of it 0, the rest 1 / (1 - share).

        If the forward pass is recomputed for the backward pass, a layer gets the same mask twice.
        """
        generator = self.generator
        if recompute and layer in self._first_states:
            generator = torch.Generator(self.device)
            generator.set_state(self._first_states[layer])
        elif recompute:
            self._first_states[layer] = generator.get_state()
        mask = torch.empty(shape, device=self.device).bernoulli_(1 - share, generator=generator)
        return mask.div_(1 - share)


@dataclass(frozen=True)
class BatchSlice:
    """Consecutive rows of a batch that belong to one run.

    `place` is its adapter's in the stack; `tokens` the longest row's, padding of others left out.
    """

    place: int
    rows: int
    tokens: int


class AdapterStack:
    """The adapters of all runs, stacked on the linear layers of a base."""

    def __init__(self, base: PreTrainedModel) -> None:
        """Raise Failure if the base has dropout of its own, which no run has a generator for."""
        self.base = base
        self.adapters: list[PackedAdapter] = []
        self._layers: dict[str, _Layer] = {}
        for name, module in base.named_modules():
            # A share is that of a layer, or a number that a module hands to a function.
            shares = [v for k, v in vars(module).items() if "drop" in k and isinstance(v, float)]
            if share := max([module.p if isinstance(module, nn.Dropout) else 0.0, *shares]):
                raise Failure(
                    f"the base drops {share:g} of its own numbers in {name}: its trainings "
                    "are not done together, set search.together to off"
                )

    def set_adapters(self, adapters: Sequence[PackedAdapter]) -> None:
        """Stack these and no others. Their weights and gradients move, their values stay."""
        for layer in self._layers.values():
            layer.remove()
        self.adapters = list(adapters)
        names = dict.fromkeys(name for adapter in adapters for name in adapter.down)
        self._layers = {
            name: _Layer(name, self.base.get_submodule(name), self.adapters) for name in names
        }

    @contextlib.contextmanager
    def apply(
        self, slices: Sequence[BatchSlice], training: bool = False, recompute: bool = False
    ) -> Iterator[None]:
        """Apply the adapters in the block, to batches of these slices.

        There is dropout in `training`; `recompute` is that of `DropoutMasks.draw`.
        """
        layout = _BatchLayout(self.adapters, slices, training, recompute)
        for part in slices:
            self.adapters[part.place].masks.begin()
        for layer in self._layers.values():
            layer.layout = layout
        try:
            yield
        finally:
            for layer in self._layers.values():
                layer.layout = None


class _BatchLayout:
    """Map each row of a batch to the adapter that it goes through.

    Products are batched over adapters if all have as many rows, else over rows.
    """

    def __init__(
        self,
        adapters: Sequence[PackedAdapter],
        slices: Sequence[BatchSlice],
        training: bool,
        recompute: bool,
    ) -> None:
        self.adapters, self.slices, self.recompute = adapters, slices, recompute
        self.dropout = training and any(adapters[part.place].dropout for part in slices)
        equal = len({part.rows for part in slices}) == 1
        places = [part.place for part in slices for _ in range(1 if equal else part.rows)]
        self.products = len(places)
        device = adapters[0].masks.device
        all_in_order = places == list(range(len(adapters)))
        self._places = None if all_in_order else torch.tensor(places, device=device)

    def select(self, stacked: torch.Tensor) -> torch.Tensor:
        """Return the adapter of each product, of a stack over all of them."""
        return stacked if self._places is None else stacked.index_select(0, self._places)


class _Layer:
    """One linear layer of the base, and what all adapters add to it."""

    def __init__(self, name: str, linear: nn.Module, adapters: Sequence[PackedAdapter]) -> None:
        self.name, self.linear = name, linear
        self.base_forward = linear.forward
        self.layout: _BatchLayout | None = None
        self.down = _stacked([adapter.down.get(name) for adapter in adapters])
        self.up = _stacked([adapter.up.get(name) for adapter in adapters])
        scaling = [adapter.scaling.get(name, 0.0) for adapter in adapters]
        self.scaling = torch.tensor(scaling, device=self.up.device).view(-1, 1, 1)
        # On the module itself, so that peft finds the layers and their names as ever.
        linear.forward = self.forward

    def remove(self) -> None:
        del self.linear.forward

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return x W' and, if a layout applies, each row's own s (x A') B' added."""
        layout = self.layout
        if layout is None:
            return cast(torch.Tensor, self.base_forward(x))
        own = self._drop(x, layout) if layout.dropout else x
        own = own.reshape(layout.products, -1, x.shape[-1])
        base: torch.Tensor = self.base_forward(x)
        up = layout.select(self.up * self.scaling)
        inner = torch.bmm(own, layout.select(self.down).transpose(1, 2).to(_product_dtype(own)))
        up = up.to(_product_dtype(inner))
        if base.dtype != inner.dtype:
            return base + torch.bmm(inner, up).view(base.shape)
        wide = base.view(layout.products, -1, base.shape[-1])
        return torch.baddbmm(wide, inner, up).view(base.shape)

    def _drop(self, x: torch.Tensor, layout: _BatchLayout) -> torch.Tensor:
        masks, first = torch.ones(x.shape, device=x.device), 0
        by_row = masks.view(sum(part.rows for part in layout.slices), -1, x.shape[-1])  # or flat
        for part in layout.slices:
            adapter = layout.adapters[part.place]
            if adapter.dropout and self.name in adapter.down:
                shape = (part.rows, part.tokens, x.shape[-1])
                mask = adapter.masks.draw(self.name, shape, adapter.dropout, layout.recompute)
                by_row[first : first + part.rows, : part.tokens] = mask
            first += part.rows
        return x * masks


def _product_dtype(x: torch.Tensor) -> torch.dtype:
    """Return the number format of products with x: autocast's, else that of x."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


def _stacked(weights: Sequence[nn.Parameter | None]) -> torch.Tensor:
    """Return [adapters, highest rank, width], zero beyond an adapter's rank; make them its views.

    The padding stays zero: its gradient is a product with zeros.
    """
    present = [weight for weight in weights if weight is not None]
    shape = (len(weights), max(len(weight) for weight in present), present[0].shape[1])
    stack = torch.zeros(shape, device=present[0].device)
    gradient = torch.zeros_like(stack)
    for place, weight in enumerate(weights):
        if weight is not None:
            view, gradient_view = stack[place, : len(weight)], gradient[place, : len(weight)]
            view.copy_(weight.detach())
            if weight.grad is not None:
                gradient_view.copy_(weight.grad)
            weight.grad = None
            weight.data, weight.grad = view, gradient_view
    stack.requires_grad_().grad = gradient
    return stack


def _transpose_if(weight: torch.Tensor, condition: bool) -> torch.Tensor:
    return weight.T if condition else weight
