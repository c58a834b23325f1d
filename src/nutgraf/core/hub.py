"""The Hub: models from it and to it, whether it answers, what of it is in the cache."""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from pathlib import Path

from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import EntryNotFoundError
from huggingface_hub.utils import disable_progress_bars

from nutgraf.core.errors import Failure, UserError

PATIENCE = 3.0  # seconds that the Hub has for an answer

# What a model is made of; nothing else is taken, no code and no pickle.
_FILES = ["*.json", "*.safetensors", "*.jinja", "*.model", "README.md"]


def download(repository: str, revision: str | None) -> Path:
    """Return a folder with a copy of a repository, from the cache if nothing has changed.

    Raises Failure if it cannot be had.
    """
    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=_FILES))
    except (OSError, ValueError, EntryNotFoundError) as error:
        raise Failure(
            f"{repository} is no folder here, and could not be taken from the Hub "
            f"({_reason(error)}): give a folder, or a Hub id that this machine reaches or has "
            "cached"
        ) from error


def upload(folder: Path, repository: str) -> str:
    """Put the files of a folder into a repository in one commit; return the commit's address.

    A repository that is not there yet is made, and private. The token is the one that
    `hf auth login` or HF_TOKEN gives. Raises Failure with the Hub's answer,
    UserError for a name that cannot be one.
    """
    api = HfApi()
    disable_progress_bars()
    try:
        api.create_repo(repository, private=True, exist_ok=True)
        commit = api.upload_folder(
            folder_path=folder, repo_id=repository, commit_message="A model made by nutgraf"
        )
    except OSError as error:
        raise Failure(
            f"{repository} could not be pushed ({_reason(error)}): log in with `hf auth login`, or "
            "set HF_TOKEN to a token that may write there"
        ) from error
    except ValueError as error:
        raise UserError(f"{repository} could not be pushed: {_reason(error)}") from error
    return commit.commit_url


def trouble() -> str | None:
    """Return why the Hub cannot be reached, in a few words; None if it answers at all."""
    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    request = urllib.request.Request(constants.ENDPOINT, method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=PATIENCE).close()
    except urllib.error.HTTPError:
        return None
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        return " ".join(str(reason).split())[:100] or type(error).__name__
    return None


def in_cache(repository: str, kind: str) -> bool:
    """Whether the cache has it: a `model` with weights, a `dataset` as `datasets` prepares it."""
    if kind == "dataset":
        own = os.environ.get("HF_DATASETS_CACHE") or Path(constants.HF_HOME) / "datasets"
        return (Path(own) / repository.replace("/", "___")).is_dir()
    folder = Path(constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}"
    return any(folder.glob("snapshots/*/*.safetensors"))


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
