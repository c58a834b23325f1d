"""Find the files of the base and hash its weights, without a library that could load them."""

from __future__ import annotations

import functools
import hashlib
import json
import re
from importlib import resources
from pathlib import Path

from nutgraf.config import ModelConfig
from nutgraf.core.errors import Failure, UserError, one_line
from nutgraf.modeling.model_folder import check_folder

# Files that tokenizers are loaded from; a base has some of them.
_TOKENIZER_FILES = (
    "tokenizer.json tokenizer.model tokenizer_config.json special_tokens_map.json "
    "added_tokens.json chat_template.jinja vocab.json vocab.txt merges.txt spiece.model"
).split()


def base_source(config: ModelConfig) -> str:
    """Return the folder or Hub id that `transformers` loads the base from.

    Raises UserError for a path at which there is no model.
    """
    if config.base == "pocket":
        return str(resources.files("nutgraf.pocket") / "checkpoint")
    check_folder("model.base", config.base)
    return config.base


def weights_fingerprint(config: ModelConfig) -> dict[str, str]:
    """Return a hash of the weights if the base can change without being renamed, else nothing.

    A local folder can, and a Hub id without a commit. Raises Failure as `hash_weights`.
    """
    return {"base_weights": hash_weights(config)} if _can_change(config) else {}


def tokenizer_fingerprint(config: ModelConfig) -> dict[str, str]:
    """Return a hash of the tokenizer's files if the base can change without being renamed.

    Else it is empty. Raises Failure if the files cannot be read.
    """
    if not _can_change(config):
        return {}
    hashed = hashlib.sha256()
    base_source(config)
    try:
        for path in filter(None, (_file(config, name) for name in _TOKENIZER_FILES)):
            hashed.update(path.name.encode() + path.read_bytes())
    except Exception as error:  # as in `load_errors`
        raise load_failure(config, error) from error
    return {"tokenizer_files": hashed.hexdigest()[:16]}


def hash_weights(config: ModelConfig) -> str:
    """Return a hash over samples of the weights.

    Of each file it covers the size, the table of tensors and 64 blocks of 4 KiB, spread evenly.
    Raises Failure if the files cannot be read.
    """
    try:
        files = _weight_files(config)
    except (MemoryError, UserError):
        raise
    except Exception as error:  # as in `load_errors`
        raise load_failure(config, error) from error
    hashed = hashlib.sha256()
    for path in files:
        size = path.stat().st_size
        hashed.update(str(size).encode())
        with path.open("rb") as file:
            header_length = int.from_bytes(file.read(8), "little")  # safetensors' table of tensors
            hashed.update(file.read(header_length))
            begin = file.tell()
            for k in range(64):
                file.seek(begin + (size - begin) * k // 64)
                hashed.update(file.read(4096))
    return hashed.hexdigest()[:16]


def load_failure(config: ModelConfig, error: Exception) -> Failure:
    """Return a Failure with transformers' reason for not loading the base, in one line."""
    reason = one_line(f"{type(error).__name__}: {error}", 300)
    return Failure(
        f"model.base {config.base!r} could not be loaded ({reason}): give `pocket`, a folder "
        "with safetensors and a tokenizer, or a Hub id that this machine reaches or has cached"
    )


def _can_change(config: ModelConfig) -> bool:
    pinned = re.fullmatch("[0-9a-f]{40}", config.revision or "")
    return config.base != "pocket" and not pinned


def _file(config: ModelConfig, name: str) -> Path | None:
    if Path(config.base).is_dir():
        path = Path(config.base) / name
        return path if path.is_file() else None
    return _hub_file(config.base, name, config.revision)


@functools.cache  # it is a request
def _hub_file(base: str, name: str, revision: str | None) -> Path | None:
    from transformers.utils import cached_file

    path = cached_file(base, name, revision=revision, _raise_exceptions_for_missing_entries=False)
    return Path(path) if path else None


def _weight_files(config: ModelConfig) -> list[Path]:
    from transformers.utils import cached_file  # takes a second, and most studies do not need it

    file = functools.partial(cached_file, base_source(config), revision=config.revision)
    if single := file("model.safetensors", _raise_exceptions_for_missing_entries=False):
        return [Path(single)]
    index = Path(str(file("model.safetensors.index.json"))).read_text(encoding="utf-8")
    shards = set(json.loads(index)["weight_map"].values())
    return [Path(str(file(shard))) for shard in sorted(shards)]
