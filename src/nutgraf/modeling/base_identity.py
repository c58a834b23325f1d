"""Identify the base that an adapter belongs to, without loading its weights."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from nutgraf.config import ModelConfig
from nutgraf.modeling.base_files import SMOLLM2, base_revision, base_source, hash_weights, is_gguf
from nutgraf.modeling.load import load_architecture


def base_identity(config: ModelConfig) -> dict[str, Any]:
    """Return what an adapter's base must equal: name, revision, and two hashes.

    `shape` is a hash of the architecture, `weights` of samples of the weights (`hash_weights`). A
    base that was trained on differs there; a single changed number may not be noticed. `gguf` is
    the name of the file, if it is one.
    """
    source = base_source(config)
    gguf = {"gguf": Path(source).name} if is_gguf(source) else {}
    name = SMOLLM2[0] if config.base == "smollm2" and not gguf else config.base
    architecture = load_architecture(config).to_diff_dict()
    for volatile in ("_name_or_path", "transformers_version", "dtype", "torch_dtype"):
        architecture.pop(volatile, None)
    shape = hashlib.sha256(repr(sorted(architecture.items())).encode()).hexdigest()[:16]
    return {
        "base": name,
        "revision": None if gguf else base_revision(config),
        **gguf,
        "shape": shape,
        "weights": hash_weights(config),
    }
