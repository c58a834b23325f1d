"""Many LoRA adapters over one frozen base: each row of a batch goes through its own member's.

The base's products, and the unpacking of 4-bit weights, are paid once for all rows; the adapters,
stacked, are added with batched products. docs/together.md has the equations.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedModel

from nutgraf.model import Device
from nutgraf.problems import Failure

_PEFT = "base_model.model."  # before a layer's name in a model of peft's


class Adapter:
    """A member's adapter apart from the base: weights by layer, what they count, dropout.

    `down` is peft's A, [r, in]; `up` is its B turned over, [r, out], so that in a stack of higher
    ranks each lies in one piece.
    """

    def __init__(self, model: PreTrainedModel, seed: int, device: Device) -> None:
        """That of a model of peft's. Raises Failure where it is not on linear layers inside."""
        self.down: dict[str, nn.Parameter] = {}
        self.up: dict[str, nn.Parameter] = {}
        self.scaling: dict[str, float] = {}
        self.dropout = 0.0
        self.masks = Masks(seed, device)
        self._names: dict[str, tuple[str, bool]] = {}  # peft's: the layer, and whether it is B
        output = model.get_output_embeddings()
        for name, weight in model.named_parameters():
            if not weight.requires_grad:
                continue
            path, _, kind = name.partition(".lora_")
            layer, turned = path.removeprefix(_PEFT), kind.startswith("B.")
            adapted = cast(Any, model.get_submodule(path))
            if kind.startswith("embedding") or not kind or adapted is output:
                raise Failure(
                    f"an adapter on {layer} is not trained together with others: take it out of "
                    "lora.target_modules, or set search.together to off"
                )
            self._names[name] = layer, turned
            side = self.up if turned else self.down
            side[layer] = nn.Parameter(_turned(weight.detach(), turned).float().clone())
            self.scaling[layer] = adapted.scaling["default"]
            self.dropout = getattr(adapted.lora_dropout["default"], "p", 0.0)

    @property
    def parameters(self) -> list[nn.Parameter]:
        """All that is trained, in peft's order."""
        return [self._of(name) for name in self._names]

    def weights(self) -> dict[str, torch.Tensor]:
        """A copy by peft's names in the memory of the CPU, as `adapter.weights` gives it."""
        return {
            name: _turned(self._of(name).detach(), turned).to("cpu", copy=True).contiguous()
            for name, (_, turned) in self._names.items()
        }

    @torch.no_grad()
    def put(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Set them to what `weights` gave."""
        for name, (_, turned) in self._names.items():
            self._of(name).copy_(_turned(weights[name], turned))

    def _of(self, name: str) -> nn.Parameter:
        layer, turned = self._names[name]
        return (self.up if turned else self.down)[layer]


class Masks:
    """The dropout masks of one member, drawn from a stream of its own.

    On a CPU they are those that `fit()` draws with the same seed; on a GPU, where its dropout is
    one fused kernel with another stream, they are others of the same kind.
    """

    def __init__(self, seed: int, device: Device) -> None:
        self.device = device.name
        self.stream = torch.Generator(device.name).manual_seed(seed)
        # The loader of `fit()` takes a seed for its workers first.
        torch.empty((), dtype=torch.int64, device=device.name).random_(generator=self.stream)
        self._before: dict[str, torch.Tensor] = {}

    def begin(self) -> None:
        """A new pass: from now on a layer that asks again is one that is computed again."""
        self._before.clear()

    def draw(self, layer: str, shape: tuple[int, ...], share: float, again: bool) -> torch.Tensor:
        """What to multiply a layer's input with: `share` of it 0, the rest 1 / (1 - share).

        Where passes are computed `again` for the backward pass, a layer gets the same twice.
        """
        stream = self.stream
        if again and layer in self._before:
            stream = torch.Generator(self.device)
            stream.set_state(self._before[layer])
        elif again:
            self._before[layer] = stream.get_state()
        kept = torch.empty(shape, device=self.device).bernoulli_(1 - share, generator=stream)
        return kept.div_(1 - share)


@dataclass(frozen=True)
class Part:
    """Rows of a batch that follow each other: of which member, how many, and their tokens.

    `member` is its place in the stack; `tokens` the longest row's, padding of others left out.
    """

    member: int
    rows: int
    tokens: int


class Stack:
    """The adapters of all members on the linear layers of a base, while the block lasts."""

    def __init__(self, base: PreTrainedModel) -> None:
        """Raise Failure where the base drops numbers of its own in training: of which row?"""
        self.base = base
        self.adapters: list[Adapter] = []
        self._layers: dict[str, _Layer] = {}
        for name, module in base.named_modules():
            shares = [getattr(module, "attention_dropout", 0.0)]
            shares += [module.p] if isinstance(module, nn.Dropout) else []
            if any(shares):
                raise Failure(
                    f"the base drops {max(shares):g} of its own numbers in {name}: its trainings "
                    "are not done together, set search.together to off"
                )

    def close(self) -> None:
        """Leave the base as it was."""
        self.put([])

    def put(self, adapters: Sequence[Adapter]) -> None:
        """Stack these and no others. Their weights and gradients move, and stay what they are."""
        for layer in self._layers.values():
            layer.take_off()
        self.adapters = list(adapters)
        names = dict.fromkeys(name for adapter in adapters for name in adapter.down)
        self._layers = {
            name: _Layer(name, self.base.get_submodule(name), self.adapters) for name in names
        }

    @contextlib.contextmanager
    def apply(
        self, parts: Sequence[Part], training: bool = False, again: bool = False
    ) -> Iterator[None]:
        """In the block, batches have these parts. Dropout in `training`; `again` as in Masks."""
        dropped = training and any(self.adapters[part.member].dropout for part in parts)
        turn = _Turn(self.adapters, list(parts), dropped, again)
        for layer in self._layers.values():
            layer.turn = turn
        for part in parts:
            self.adapters[part.member].masks.begin()
        try:
            yield
        finally:
            for layer in self._layers.values():
                layer.turn = None


class _Turn:
    """Whose rows are in the batch."""

    def __init__(
        self, adapters: Sequence[Adapter], parts: list[Part], dropped: bool, again: bool
    ) -> None:
        self.adapters, self.parts, self.dropped, self.again = adapters, parts, dropped, again
        whole = len({part.rows for part in parts}) == 1
        members = [part.member for part in parts for _ in range(1 if whole else part.rows)]
        # Products are batched over members where all have as many rows, else over rows.
        self.products = len(members)
        everybody = members == list(range(len(adapters)))
        device = adapters[0].masks.device
        self.chosen = None if everybody else torch.tensor(members, device=device)

    def of(self, stacked: torch.Tensor) -> torch.Tensor:
        """What belongs to each product, of a stack over all members."""
        return stacked if self.chosen is None else stacked.index_select(0, self.chosen)


class _Layer:
    """One linear layer of the base, and what all members add to it."""

    def __init__(self, name: str, linear: nn.Module, adapters: Sequence[Adapter]) -> None:
        self.name, self.linear = name, linear
        self.usual = linear.forward
        self.turn: _Turn | None = None
        self.down = _stacked([adapter.down.get(name) for adapter in adapters])
        self.up = _stacked([adapter.up.get(name) for adapter in adapters])
        scaling = [adapter.scaling.get(name, 0.0) for adapter in adapters]
        self.scaling = torch.tensor(scaling, device=self.up.device).view(-1, 1, 1)
        # On the module itself, so that peft finds the layers and their names as ever.
        linear.forward = self.forward

    def take_off(self) -> None:
        del self.linear.forward

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The base's product and, in a turn, each row's member's own: x W' + s (x A') B'."""
        turn = self.turn
        if turn is None:
            return cast(torch.Tensor, self.usual(x))
        own = self._dropped(x, turn) if turn.dropped else x
        own = own.reshape(turn.products, -1, x.shape[-1])
        base: torch.Tensor = self.usual(x)
        up = turn.of(self.up * self.scaling)
        inner = torch.bmm(own, turn.of(self.down).transpose(1, 2).to(_product(own)))
        up = up.to(_product(inner))
        if base.dtype != inner.dtype:
            return base + torch.bmm(inner, up).view(base.shape)
        wide = base.view(turn.products, -1, base.shape[-1])
        return torch.baddbmm(wide, inner, up).view(base.shape)

    def _dropped(self, x: torch.Tensor, turn: _Turn) -> torch.Tensor:
        kept, first = torch.ones(x.shape, device=x.device), 0
        for part in turn.parts:
            adapter = turn.adapters[part.member]
            if adapter.dropout and self.name in adapter.down:
                shape = (part.rows, part.tokens, x.shape[-1])
                mask = adapter.masks.draw(self.name, shape, adapter.dropout, turn.again)
                kept[first : first + part.rows, : part.tokens] = mask
            first += part.rows
        return x * kept


def _product(x: torch.Tensor) -> torch.dtype:
    """The format of products with x: under autocast its own, else that of x."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


def _stacked(weights: Sequence[nn.Parameter | None]) -> torch.Tensor:
    """[members, highest rank, width], zeros where a member's rank ends; all are parts of it then.

    What is padded stays zero: its gradient is a product with zeros.
    """
    known = [weight for weight in weights if weight is not None]
    shape = (len(weights), max(len(weight) for weight in known), known[0].shape[1])
    stack = torch.zeros(shape, device=known[0].device)
    gradient = torch.zeros_like(stack)
    for place, weight in enumerate(weights):
        if weight is not None:
            part, its_own = stack[place, : len(weight)], gradient[place, : len(weight)]
            part.copy_(weight.detach())
            if weight.grad is not None:
                its_own.copy_(weight.grad)
            weight.grad = None
            weight.data, weight.grad = part, its_own
    stack.requires_grad_().grad = gradient
    return stack


def _turned(weight: torch.Tensor, turned: bool) -> torch.Tensor:
    return weight.T if turned else weight
