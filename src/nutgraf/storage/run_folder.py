"""Hold the files of a run: the interface between stages, each of which reads and writes artefacts.

An artefact is written under a temporary name, sealed when it is complete, moved into place, and
last of all described by a manifest: without one it is not finished. It is current if its manifest
names the present inputs and settings, and its files are as the manifest says.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nutgraf import __version__
from nutgraf.core.environment import library_versions, machine_info
from nutgraf.core.errors import Failure
from nutgraf.core.files import digest, files_in, move, read_json, sha256, sync, sync_all, write_json
from nutgraf.storage import work_claim

UNFINISHED = ".making"  # with a folder for each artefact that is being made
MANIFESTS = "manifests"
SEALED = "manifest.json"  # is in an unfinished artefact once it is complete
_COPY = ".copy"  # of a finished artefact, on its way into an unfinished one


class RunFolder:
    """Paths of one run and the artefacts in it."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    @property
    def config(self) -> Path:
        """Return the path of the run's configuration, every field resolved."""
        return self.path / "config.yaml"

    def data(self, split: str) -> Path:
        """Return the path of a split's articles and references."""
        return self.path / "data" / f"{split}.parquet"

    def tokens(self, split: str) -> Path:
        """Return the path of the token ids of `data(split)`, row by row."""
        return self.path / "data" / f"{split}-tokens.parquet"

    @property
    def frame(self) -> Any:
        """The fixed text of every prompt, before and after the article; None if not recorded."""
        path = self.path / "data" / "frame.json"
        return read_json(path) if path.exists() else None

    def model(self, name: str) -> Path:
        """Return the folder of the adapter of `baseline` or `best`."""
        return self.path / "models" / name

    def summaries(self, system: str) -> Path:
        """Return the path of a system's summaries."""
        return self.path / "summaries" / f"{system}.jsonl"

    def scores(self, system: str) -> Path:
        """Return the path of a system's scores, a row an article."""
        return self.path / "scores" / f"{system}.jsonl"

    def artefact(
        self,
        name: str,
        *,
        outputs: Sequence[str] | None = None,
        inputs: Iterable[str] = (),
        settings: Mapping[str, Any] | None = None,
        replayed: Sequence[str] = (),
        recorded: Mapping[str, Any] | None = None,
    ) -> Artefact:
        """Return the artefact `name`, finished or not.

        Args:
            name: The artefact, also the name of its manifest.
            outputs: Its files and folders, relative to the run folder; None is `name` itself.
            inputs: Names of the earlier artefacts that it is made from. `data:train` is made from
                those files of `data` alone whose names begin with `train`.
            settings: What decides the result, by dotted name.
            replayed: Those of them whose change leaves work of use, which the stage goes through.
            recorded: Other settings, for the manifest alone.
        """
        made_from = (tuple(outputs or [name]), tuple(inputs), dict(settings or {}))
        return Artefact(self, name, *made_from, replayed, dict(recorded or {}))

    def digest(self, name: str) -> str:
        """Return the hash of an input: an artefact, or a part of it. Raises Failure if not made."""
        artefact, _, part = name.partition(":")
        manifest = self.manifest(artefact)
        if not part:
            return str(manifest["digest"])
        files = manifest["files"].items()
        return digest({file: h for file, h in files if Path(file).name.startswith(part)})

    def manifest(self, name: str) -> dict[str, Any]:
        """Return the manifest of a finished artefact. Raises Failure if there is none."""
        try:
            return _read_manifest(self._manifest_path(name))
        except FileNotFoundError:
            raise Failure(
                f"{self.path / name} has not been made: run `nutgraf run --run {self.path}` "
                "or the stage before"
            ) from None

    def has(self, name: str) -> bool:
        """Return whether the artefact was ever finished, from any inputs."""
        return self._manifest_path(name).exists()

    @property
    def is_begun(self) -> bool:
        """Return whether any artefact was ever begun."""
        return any((self.path / name).is_dir() for name in (MANIFESTS, UNFINISHED))

    def manifests(self) -> dict[str, dict[str, Any]]:
        """Return all manifests by artefact, the oldest first."""
        manifests = map(_read_manifest, (self.path / MANIFESTS).glob("*.json"))
        return {m["artefact"]: m for m in sorted(manifests, key=lambda m: m["created"])}

    def recover(self) -> None:
        """Put artefacts in place that were sealed when a run was killed; delete moved ones."""
        for scratch in sorted((self.path / UNFINISHED).glob("*")):
            if scratch.name.startswith("."):
                shutil.rmtree(scratch)
            elif (scratch / SEALED).exists():
                _put_in_place(self, scratch)

    def _manifest_path(self, name: str) -> Path:
        return self.path / MANIFESTS / f"{name.replace('/', '.')}.json"


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
        path = self.folder._manifest_path(self.name)
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
        _put_in_place(self.folder, scratch)

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
                "versions": library_versions(),
                "machine": machine_info(),
                "outputs": self.outputs,
                "files": files,
                "digest": digest(files),
            },
        )


def _put_in_place(folder: RunFolder, scratch: Path) -> None:
    """Move a sealed artefact into place; after a kill it can be done again.

    The order on the disk: old manifest gone, files in place, new manifest, scratch gone.
    """
    manifest = read_json(scratch / SEALED)
    path = folder._manifest_path(manifest["artefact"])
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


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        return read_json(path)
    except ValueError as error:
        raise Failure(
            f"{path} is damaged ({error}): delete it, and run `nutgraf run` again"
        ) from None
