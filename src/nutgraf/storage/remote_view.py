"""Look at a study in a storage: a folder with what its page needs, without weights and data."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import time
from pathlib import Path, PurePosixPath

from nutgraf.core.errors import without_secrets
from nutgraf.core.files import write_text
from nutgraf.storage.artefact import UNFINISHED
from nutgraf.storage.remote_copy import is_index, read_index
from nutgraf.storage.remote_files import RemoteFiles
from nutgraf.storage.remote_lease import EXPIRY, LEASE
from nutgraf.storage.run_folder import MANIFESTS

_NEEDED = re.compile(
    r"(trial|rouge|together|plan|claim|card|errors)\.json|.*\.curves\.json|"
    r"(.*\.)?samples\.json|"
    r"(trials|history)\.csv|error\.txt|report\.html|steers\.jsonl"
)
_SINGLE = ("config.yaml", "log.jsonl", LEASE)


class RemoteView:
    """The study at `uri`, as far as `folder` has it; nothing there is changed."""

    def __init__(self, uri: str, folder: Path) -> None:
        self._files, self._folder = RemoteFiles(uri), folder
        self.uri = without_secrets(uri)
        self._had: dict[str, str | bytes] = {}
        self._lease: tuple[bytes | None, float] = (None, 0.0)

    def update(self) -> None:
        """Fetch what is new. Raises Unreachable, after which it can be called again."""
        names = self._files.names()
        for name in sorted(names):
            if name in _SINGLE:
                self._keep(name)
            elif is_index(name, UNFINISHED) or is_index(name, MANIFESTS):
                with contextlib.suppress(FileNotFoundError):  # the study goes on meanwhile
                    self._fetch_listed(name)
        for path in (self._folder / UNFINISHED).glob("*"):
            if f"{UNFINISHED}/{path.name}.json" not in names:
                shutil.rmtree(path)
                self._had = {n: v for n, v in self._had.items() if f"/{path.name}/" not in n}

    def _fetch_listed(self, index: str) -> None:
        """Fetch what a manifest or index lists. Raises FileNotFoundError if it is there no more."""
        content, files = read_index(self._files, index)
        if is_index(index, UNFINISHED):
            place = f"{UNFINISHED}/{PurePosixPath(index).stem}"
            for file, hashed in files.items():
                self._fetch(f"{place}/{hashed}", f"{place}/{file}", hashed)
            return
        for file, hashed in files.items():
            self._fetch(file, file, hashed)
        if self._had.get(index) != content:
            write_text(self._folder / index, content.decode())
            self._had[index] = content

    def holder(self) -> str | None:
        """Return who runs the study, by the lease that changes as long as they live."""
        content, since = self._lease
        if content is None or time.monotonic() - since > EXPIRY:
            return None
        lease = json.loads(content)
        if lease["released"]:
            return None
        return f"process {lease['process']} on {lease['host']} since {lease['since']}"

    def _keep(self, name: str) -> None:
        content = self._files.read(name)
        if content is None or self._had.get(name) == content:
            return
        self._had[name] = content
        if name == LEASE:
            self._lease = content, time.monotonic()
        else:
            write_text(self._folder / name, content.decode())

    def _fetch(self, source: str, target: str, hashed: str) -> None:
        """Fetch a file that the page needs, unless it is there; one that is gone comes later."""
        if not _NEEDED.fullmatch(PurePosixPath(target).name) or self._had.get(target) == hashed:
            return
        with contextlib.suppress(FileNotFoundError):
            self._had[target] = self._files.get(source, self._folder / target)
