"""Where the base lies and which weights it holds, told without a library that could load them."""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from nutgraf.config import ModelConfig
from nutgraf.core.errors import Failure, one_line

# What tokenizers are loaded from, of which a base has some.
_TOKENIZER = (
    "tokenizer.json tokenizer.model tokenizer_config.json special_tokens_map.json "
    "added_tokens.json chat_template.jinja vocab.json vocab.txt merges.txt spiece.model"
).split()


def base_source(config: ModelConfig) -> str:
    """The folder or Hub id that `transformers` loads the base from."""
    if config.base == "pocket":
        return str(resources.files("nutgraf.pocket") / "checkpoint")
    return config.base


def weights_fingerprint(config: ModelConfig) -> dict[str, str]:
    """`sampled_weights` of a base that can change under its name, else nothing.

    That of a folder can, and of a Hub id without a commit; the embedded one comes with the program.
    """
    return {"base_weights": hash_weights(config)} if _moves(config) else {}


def tokenizer_fingerprint(config: ModelConfig) -> dict[str, str]:
    """Return a hash of the tokenizer's files if the base can change under its name, else nothing.

    Raises Failure if they cannot be had.
    """
    return {"tokenizer_files": _tokenizer_hash(config)} if _moves(config) else {}


def hash_weights(config: ModelConfig) -> str:
    """A hash over some of what the files of weights hold.

    Of each its size, its table of tensors and 64 stretches of 4 KiB, spread over the file. Raises
    Failure where they cannot be had.
    """
    try:
        files = _weight_files(config)
    except MemoryError:
        raise
    except Exception as error:  # as in model.py
        raise load_failure(config, error) from error
    return _sampled(files)


def load_failure(config: ModelConfig, error: Exception) -> Failure:
    """What transformers says of a base that it cannot load, in one line."""
    reason = one_line(f"{type(error).__name__}: {error}", 300)
    return Failure(
        f"model.base {config.base!r} could not be loaded ({reason}): give `pocket`, a folder "
        "with safetensors and a tokenizer, or a Hub id that this machine reaches or has cached"
    )


def _moves(config: ModelConfig) -> bool:
    pinned = re.fullmatch("[0-9a-f]{40}", config.revision or "")
    return config.base != "pocket" and not pinned


def _tokenizer_hash(config: ModelConfig) -> str:
    try:
        paths = [_file(config, name) for name in _TOKENIZER]
    except Exception as error:  # as in model.py
        raise load_failure(config, error) from error
    found = hashlib.sha256()
    for path in filter(None, paths):
        found.update(path.name.encode() + path.read_bytes())
    return found.hexdigest()[:16]


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
    from transformers.utils import cached_file  # a second, and most studies do not ask

    file = functools.partial(cached_file, base_source(config), revision=config.revision)
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
