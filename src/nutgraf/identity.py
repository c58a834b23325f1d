"""What an adapter must find again: which base it was trained on, told without loading weights."""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers.utils import cached_file

from nutgraf.model import architecture, plain_errors, source
from nutgraf.settings import ModelConfig


def identity(config: ModelConfig) -> dict[str, Any]:
    """What an adapter must find again to be the same model: base, revision, and two hashes.

    `shape` is over the architecture, `weights` over some of what the files of weights hold: of
    each its size, its table of tensors and 64 stretches of 4 KiB, spread over the file. A model
    that was trained on differs there; a single changed number may not be seen.
    """
    form = architecture(config).to_diff_dict()
    for volatile in ("_name_or_path", "transformers_version", "dtype", "torch_dtype"):
        form.pop(volatile, None)
    digest = hashlib.sha256(repr(sorted(form.items())).encode()).hexdigest()[:16]
    return {
        "base": config.base,
        "revision": config.revision,
        "shape": digest,
        "weights": _sampled(_weight_files(config)),
    }


def moving_weights(config: ModelConfig) -> dict[str, str]:
    """The `weights` of `identity` for a base that can change under its name, else nothing.

    That of a folder can, and of a Hub id without a commit; the embedded one comes with the program.
    """
    if config.base == "pocket" or re.fullmatch("[0-9a-f]{40}", config.revision or ""):
        return {}
    return {"base_weights": _sampled(_weight_files(config))}


def _weight_files(config: ModelConfig) -> list[Path]:
    with plain_errors(config):
        file = functools.partial(cached_file, source(config), revision=config.revision)
        if single := file("model.safetensors", _raise_exceptions_for_missing_entries=False):
            return [Path(single)]
        index = Path(str(file("model.safetensors.index.json"))).read_text(encoding="utf-8")
        shards = set(json.loads(index)["weight_map"].values())
        return [Path(str(file(shard))) for shard in sorted(shards)]


def _sampled(files: Sequence[Path]) -> str:
    found = hashlib.sha256()
    for path in files:
        size = path.stat().st_size
        found.update(str(size).encode())
        with path.open("rb") as file:
            length = file.read(8)  # of the table of tensors, which is behind it
            found.update(file.read(int.from_bytes(length, "little")))
            begin = file.tell()
            for k in range(64):
                file.seek(begin + (size - begin) * k // 64)
                found.update(file.read(4096))
    return found.hexdigest()[:16]
