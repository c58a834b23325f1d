"""Read and write faster on a CPU: fused layers, attention in blocks, a cache that is not copied.

Summaries are those of transformers' own layers up to rounding.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from transformers import Cache, PreTrainedModel

from nutgraf.modeling.attention import NAME, block_attention
from nutgraf.modeling.cache import BufferedLayer
from nutgraf.modeling.fused.inference import FusedInference
from nutgraf.modeling.load import Device


class FastInference:
    """How a model reads and writes fastest, with the adapter that is active now.

    It is for a CPU, and for models in which each layer attends to all tokens by torch's fused
    attention: others compute as they did. Layers of the Llama family are computed fused.
    """

    def __init__(self, model: PreTrainedModel, device: Device) -> None:
        config = model.config
        usual = device.name == "cpu" and config._attn_implementation in ("sdpa", NAME)
        kinds = set(getattr(config, "layer_types", None) or ())
        self._model, self._is_used = model, usual and not kinds - {"full_attention"}
        self._fused = FusedInference.of(model, device) if self._is_used else None

    @property
    def is_fused(self) -> bool:
        """Return whether the layers are those of the Llama family, which are computed fused."""
        return self._fused is not None

    @contextlib.contextmanager
    def used(self) -> Iterator[None]:
        """Compute the model's forward passes fast in the context."""
        if not self._is_used:
            yield
            return
        with block_attention(self._model), self._fused or contextlib.nullcontext():
            yield

    def cache(self) -> Cache | None:
        """Return an empty cache for one batch, or None if transformers' own is to be used."""
        return Cache(layer_class_to_replicate=BufferedLayer) if self._is_used else None


@contextlib.contextmanager
def fast_inference(model: PreTrainedModel, device: Device) -> Iterator[Cache | None]:
    """Compute fast in the context, and yield an empty cache for one batch, as `FastInference`."""
    fast = FastInference(model, device)
    with fast.used():
        yield fast.cache()
