"""Make an artefact of a run whole or not at all, and find out whether it is current.

It is written under a temporary name, sealed when it is complete, moved into place, and last of all
described by a manifest: without one it is not finished. It is current if its manifest names the
present inputs and settings, and its files are as the manifest says.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nutgraf import __version__
from nutgraf.core.environment import library_versions, machine_info
from nutgraf.core.errors import Failure
from nutgraf.core.files import digest, files_in, move, read_json, sha256, sync, sync_all, write_json
from nutgraf.storage import work_claim

if TYPE_CHECKING:
    from nutgraf.storage.run_folder import RunFolder

UNFINISHED = ".making"  # with a folder for each artefact that is being made
SEALED = "manifest.json"  # is in an unfinished artefact once it is complete
_COPY = ".copy"  # of a finished artefact, on its way into an unfinished one


@dataclass(frozen=True)
class Artefact:
    """Files that one stage makes together, from the same inputs and settings."""

    folder: RunFolder
    name: str
    outputs: tuple[str, ...]
    inputs: tuple[str, ...]
    settings: dict[str, Any]
    replayed: Sequence[str] = ()
    recorded: dict[str, Any] = field(default_factory=dict)
    # Filled by the stage while it writes; the manifest has it, and nothing depends on it.
    measured: dict[str, Any] = field(default_factory=dict)

    @property
    def sources(self) -> set[str]:
        """The artefacts that its inputs are, or are parts of."""
        return {name.partition(":")[0] for name in self.inputs}

    @property
    def digests(self) -> dict[str, str]:
        """The inputs' hashes. Raises Failure if one has not been made."""
        return {name: self.folder.digest(name) for name in self.inputs}

    @property
    def is_current(self) -> bool:
        """Return whether it is finished, from the present inputs with the present settings."""
        return self.outdated is None

    @property
    def outdated(self) -> str | None:
        """Return why it has to be made: what differs from its manifest; None if nothing does.

        Raises Failure if an input has not been made.
        """
        return self._outdated(self.settings)

    @property
    def goes_on(self) -> bool:
        """Return whether it is finished but for settings that are `replayed`."""
        return bool(self.replayed and self.outdated) and self._outdated(self._fixed) is None

    @property
    def _fixed(self) -> dict[str, Any]:
        return {name: value for name, value in self.settings.items() if name not in self.replayed}

    def _outdated(self, settings: Mapping[str, Any]) -> str | None:
        digests = self.digests
        path = self.folder.manifest_path(self.name)
        try:
            manifest = read_json(path)
            files, old_settings = manifest["files"], manifest["settings"]
            if manifest["digest"] != digest(files):
                return f"{path} has been changed"
            inputs, version = manifest["inputs"], manifest["versions"]["nutgraf"]
        except FileNotFoundError:
            return "not made before"
        except (ValueError, KeyError, TypeError):
            return f"{path} is damaged"
        if version.split(".")[:2] != __version__.split(".")[:2]:  # a patch changes no result
            return f"made by nutgraf {version}, this is {__version__}"
        if inputs != digests:
            names = sorted(inputs.keys() | digests.keys())
            return f"changed: {', '.join(n for n in names if inputs.get(n) != digests.get(n))}"
        # What an earlier manifest has beside these decides nothing.
        old_settings = {name: old_settings[name] for name in settings if name in old_settings}
        if changes := work_claim.describe_changes(old_settings, settings):
            return changes
        for file, hashed in files.items():
            if not (self.folder / file).is_file():
                return f"{self.folder / file} is gone"
            if sha256(self.folder / file) != hashed:
                return f"{self.folder / file} is not as it was made"
        return None

    @property
    def is_unfinished(self) -> bool:
        """Return whether a stopped run left work on it."""
        return (self._scratch / work_claim.NAME).exists()

    @property
    def claim_mismatch(self) -> str | None:
        """Why a stopped run's work on it cannot be resumed; None if it can, or there is none."""
        if not self.is_unfinished:
            return None
        return work_claim.claim_mismatch(self._scratch, self._claim())

    @contextlib.contextmanager
    def writing(self, resume: bool = False) -> Iterator[Path]:
        """Yield a temporary folder for the outputs, under the names they have in the run.

        When the block ends, the outputs are moved into place and the manifest is written last.
        When it raises, what was made before stays. With `resume` the folder is as a stopped run
        left it, if that had the same inputs, settings and versions of the libraries; else empty,
        or with the outputs as they are if the artefact `goes_on`.
        """
        started = time.time()
        scratch = self._scratch
        resumed = False
        if resume:
            resumed = work_claim.claim_folder(scratch, self._claim(), self.name)
            if self.goes_on and not (scratch / self.name).exists():
                shutil.rmtree(scratch / _COPY, ignore_errors=True)
                shutil.copytree(self.folder / self.name, scratch / _COPY)
                move(scratch / _COPY, scratch / self.name)
                resumed = True
        else:
            shutil.rmtree(scratch, ignore_errors=True)
            scratch.mkdir(parents=True)
        yield scratch
        self._seal(scratch, started, resumed)
        put_in_place(self.folder, scratch)

    @property
    def _scratch(self) -> Path:
        return self.folder.path / UNFINISHED / self.name.replace("/", ".")

    def _claim(self) -> dict[str, Any]:
        inputs = {name: hashed[:16] for name, hashed in self.digests.items()}
        return {"inputs": inputs, "settings": self._fixed, "versions": library_versions()}

    def _seal(self, scratch: Path, started: float, resumed: bool) -> None:
        """Write the manifest into the scratch: from now on it is complete, and only to be moved."""
        missing = [name for name in self.outputs if not (scratch / name).exists()]
        if missing:
            raise Failure(f"{self.name} is unfinished: {', '.join(missing)} was not written")
        files = {}
        for name in self.outputs:
            sync_all(scratch / name)
            for path in files_in(scratch / name):
                files[str(path.relative_to(scratch))] = sha256(path)
        write_json(
            scratch / SEALED,
            {
                "artefact": self.name,
                "created": started,
                "seconds": round(time.time() - started, 2),
                "carried_on": resumed,  # then these seconds are not all
                "inputs": self.digests,
                "settings": self.settings,
                "without_effect": self.recorded,  # settings that decide nothing here
                "measured": self.measured,
                "versions": library_versions(),
                "machine": machine_info(),
                "outputs": self.outputs,
                "files": files,
                "digest": digest(files),
            },
        )


def put_in_place(folder: RunFolder, scratch: Path) -> None:
    """Move a sealed artefact into place; after a kill it can be done again.

    The order on the disk: old manifest gone, files in place, new manifest, scratch gone.
    """
    manifest = read_json(scratch / SEALED)
    path = folder.manifest_path(manifest["artefact"])
    if path.exists():
        path.unlink()
        sync(path.parent)
    for name in manifest["outputs"]:
        if (scratch / name).exists():
            move(scratch / name, folder.path / name)
    write_json(path, manifest)
    trash = scratch.with_name(f".{scratch.name}")  # half deleted, it is no scratch
    move(scratch, trash)
    shutil.rmtree(trash)
