"""What an adapter must find again: which base it was trained on, told without loading weights."""

from __future__ import annotations

import hashlib
from typing import Any

from nutgraf.config import ModelConfig
from nutgraf.modeling.base_files import hash_weights
from nutgraf.modeling.load import load_architecture


def base_identity(config: ModelConfig) -> dict[str, Any]:
    """What an adapter must find again to be the same model: base, revision, and two hashes.

    `shape` is over the architecture, `weights` over some of what the files of weights hold
    (`sampled_weights`). A model that was trained on differs there; a single changed number may not
    be seen.
    """
    form = load_architecture(config).to_diff_dict()
    for volatile in ("_name_or_path", "transformers_version", "dtype", "torch_dtype"):
        form.pop(volatile, None)
    digest = hashlib.sha256(repr(sorted(form.items())).encode()).hexdigest()[:16]
    return {
        "base": config.base,
        "revision": config.revision,
        "shape": digest,
        "weights": hash_weights(config),
    }
