"""Download models from the Hugging Face Hub and upload them, and look into its cache."""

from __future__ import annotations

import functools
import os
import urllib.error
import urllib.request
from pathlib import Path

from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import EntryNotFoundError
from huggingface_hub.utils import disable_progress_bars

from nutgraf.core.errors import Failure, UserError, one_line

TIMEOUT = 3.0  # seconds

# The files of a model: no code and no pickle is downloaded.
_FILES = ["*.json", "*.safetensors", "*.jinja", "*.model", "README.md"]


def download(repository: str, revision: str | None) -> Path:
    """Return a folder with a copy of a repository, from the cache if nothing has changed.

    Raises Failure if it cannot be downloaded.
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
    """Upload the files of a folder into a repository in one commit; return the commit's address.

    A new repository is private. The token is that of `hf auth login` or HF_TOKEN. Raises Failure
    with the Hub's answer, UserError for an invalid name.
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


def connection_error() -> str | None:
    """Return why the Hub cannot be reached, in a few words; None if it answers anything."""
    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    request = urllib.request.Request(constants.ENDPOINT, method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=TIMEOUT).close()
    except urllib.error.HTTPError:
        return None
    except (OSError, ValueError) as error:
        return _reason(getattr(error, "reason", None) or error, 100)
    return None


def check_reachable(setting: str, repository: str) -> None:
    """Raise Failure if a model is not in the cache, and the Hub cannot be reached.

    The libraries would try each of its files for a minute.
    """
    if constants.HF_HUB_OFFLINE or is_cached(repository, "model"):
        return  # offline they try nothing
    if error := _first_connection_error():
        raise Failure(
            f"{setting} {repository!r} is no folder here, not in the cache, and the Hub cannot be "
            f"reached ({error}): give a folder, or connect this machine"
        )


@functools.cache
def _first_connection_error() -> str | None:
    return connection_error()


def is_cached(repository: str, kind: str) -> bool:
    """Return whether the cache has a `model` with weights, or a prepared `dataset`."""
    if kind == "dataset":
        cache = os.environ.get("HF_DATASETS_CACHE") or Path(constants.HF_HOME) / "datasets"
        return (Path(cache) / repository.replace("/", "___")).is_dir()
    folder = Path(constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}"
    return any(folder.glob("snapshots/*/*.safetensors"))


def _reason(error: object, max_length: int = 300) -> str:
    return one_line(error, max_length) or type(error).__name__
