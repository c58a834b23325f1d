"""Name what lies in a folder that is to be a model, before a library looks for it on the Hub."""

from __future__ import annotations

import os
import re
from pathlib import Path

from nutgraf.core.errors import UserError, library_errors
from nutgraf.core.files import LFS_POINTER, read_json

WEIGHTS = "model.safetensors"
GGUF = ".gguf"
_OTHER_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", GGUF)
_READ = ("*.safetensors", "*.json", "*.model", "*.jinja")  # of a model


def check_folder(setting: str, model: str, whole: bool = True, gguf: bool = False) -> None:
    """Raise UserError if `model` is a path and no folder with a model in the form of the Hub.

    With `gguf` it may be a GGUF file. An adapter alone and pointers of Git LFS are named. If it
    need not be `whole`, a tokenizer is enough. The id of a repository passes if it is in the cache
    or the Hub answers, else Failure is raised.
    """
    path = Path(model)
    if not os.path.isabs(model) and not path.is_dir():
        from nutgraf.core.hub import check_reachable  # with its library

        return check_reachable(setting, model)
    what = _fault(path, whole, gguf) if path.is_dir() else _not_a_folder(path, gguf)
    if what:
        raise UserError(f"{setting} {model!r} {what}")


def check_pointers(folder: Path) -> None:
    """Raise UserError if a file of a model is a pointer of Git LFS."""
    for pattern in _READ:
        for path in sorted(folder.glob(pattern)):
            with path.open("rb") as file:
                if file.read(len(LFS_POINTER)) == LFS_POINTER:
                    raise UserError(
                        f"{path} is a pointer of Git LFS, not the file itself: run `git lfs pull` "
                        "in that folder"
                    )


def _not_a_folder(path: Path, gguf: bool) -> str | None:
    if not path.exists():
        return "is not there: correct the path, which is one of the folder of the command"
    with path.open("rb") as file:
        begin = file.read(len(LFS_POINTER))
    named = path.suffix.lower() == GGUF
    if named and begin == LFS_POINTER:
        return "is a pointer of Git LFS, not the file itself: run `git lfs pull` in its folder"
    if begin[:4] != b"GGUF":
        if gguf and named:
            return "is no GGUF file: it begins with other bytes; download it again"
        return "is a file: give the folder of the model"
    if not gguf:
        return "is a GGUF file: give the folder of the model in safetensors that it is made of"
    if not named:
        return f"is a GGUF file: let its name end in {GGUF}"
    if part := re.search(r"-(\d+)-of-(?!0*1\.)(\d+)\.", path.name):
        return (
            f"is part {int(part[1])} of {int(part[2])} of a GGUF file: join them with llama.cpp's "
            "`llama-gguf-split --merge`"
        )
    return None


def _fault(folder: Path, whole: bool, gguf: bool) -> str | None:
    check_pointers(folder)
    if not whole and (folder / "tokenizer_config.json").is_file():
        return None
    if (folder / "config.json").is_file():
        if (folder / WEIGHTS).is_file() or (folder / f"{WEIGHTS}.index.json").is_file():
            return None
        others = [p.name for p in sorted(folder.iterdir()) if p.suffix in _OTHER_WEIGHTS]
        held = f" and holds {others[0]}" if others else ""
        return (
            f"has no {WEIGHTS}{held}: give the model in safetensors, under this name; pickles are "
            "not read, since they can run code"
        )
    if (folder / "adapter_config.json").is_file():
        with library_errors(f"{folder}/adapter_config.json cannot be read", "give another folder"):
            base = read_json(folder / "adapter_config.json").get("base_model_name_or_path")
        return f"is an adapter, no model: give its base, {base!r}, or the merged model"
    names = sorted(path.name for path in folder.iterdir())
    if files := [name for name in names if name.lower().endswith(GGUF)]:
        instead = "the path of that file, or " if gguf else ""
        return (
            f"holds a GGUF file ({files[0]}): give {instead}the folder of the model in safetensors"
        )
    inside = [path.parent.name for path in sorted(folder.glob("*/config.json"))]
    if inside:
        return f"has no config.json: is it {folder / inside[0]}?"
    held = f"holds {', '.join(names[:3])}" if names else "is empty"
    return f"has no config.json and {held}: give the folder of a model"
