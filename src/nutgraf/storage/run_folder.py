"""The run folder, the interface between stages: paths, records, manifests, atomic writes.

A stage reads earlier artefacts and makes its own: written under a temporary name, sealed when it is
whole, moved into place, and last of all described by a manifest. No manifest, not done. An artefact
is current when its manifest names the same inputs and the same settings as asked for now, and its
files are as the manifest says.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nutgraf import __version__
from nutgraf.core.environment import library_versions, machine_info
from nutgraf.core.errors import Failure
from nutgraf.core.files import (
    digest,
    files_in,
    move,
    read_json,
    sha256,
    sync,
    sync_all,
    write_json,
)
from nutgraf.storage import work_claim
from nutgraf.storage.work_claim import describe_changes, plain

MAKING = ".making"  # where artefacts are made, a folder each
MANIFESTS = "manifests"
SEALED = "manifest.json"  # lies in there once the artefact is whole


class RunFolder:
    """Paths of one run and the artefacts in it."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    @property
    def config(self) -> Path:
        """Every setting of the run, resolved."""
        return self.path / "config.yaml"

    def data(self, split: str) -> Path:
        return self.path / "data" / f"{split}.parquet"

    def tokens(self, split: str) -> Path:
        """The token ids of `data(split)`, row by row."""
        return self.path / "data" / f"{split}-tokens.parquet"

    def model(self, name: str) -> Path:
        """The adapter of `baseline` or `best`."""
        return self.path / "models" / name

    def summaries(self, system: str) -> Path:
        return self.path / "summaries" / f"{system}.jsonl"

    def scores(self, system: str) -> Path:
        return self.path / "scores" / f"{system}.jsonl"

    def artefact(
        self,
        name: str,
        *,
        outputs: Sequence[str] | None = None,
        inputs: Iterable[str] = (),
        settings: Mapping[str, Any] | None = None,
    ) -> Artefact:
        """The artefact `name`, made of `outputs` (paths in the run folder; `name` itself if None).

        `inputs` are names of earlier artefacts, `settings` the part of the configuration that
        decides the result.
        """
        return Artefact(self, name, tuple(outputs or [name]), tuple(inputs), dict(settings or {}))

    def manifest(self, name: str) -> dict[str, Any]:
        """The manifest of a finished artefact. Raises Failure where there is none."""
        try:
            return read_json(self._manifest_path(name))
        except FileNotFoundError:
            raise Failure(
                f"{self.path / name} has not been made: run `nutgraf run --run {self.path}` "
                "or the stage before"
            ) from None
        except ValueError as error:
            raise Failure(_damaged(self._manifest_path(name), error)) from None

    def has(self, name: str) -> bool:
        """Whether the artefact was ever finished, from whatever and however."""
        return self._manifest_path(name).exists()

    @property
    def is_begun(self) -> bool:
        """Whether anything was ever made here, if only in part."""
        return any((self.path / name).is_dir() for name in (MANIFESTS, MAKING))

    def manifests(self) -> dict[str, dict[str, Any]]:
        """All manifests by artefact, in the order in which they were made."""
        found = {}
        for path in (self.path / MANIFESTS).glob("*.json"):
            try:
                manifest = read_json(path)
            except ValueError as error:
                raise Failure(_damaged(path, error)) from None
            found[manifest["artefact"]] = manifest
        return dict(sorted(found.items(), key=lambda item: item[1]["created"]))

    def recover(self) -> None:
        """Move what was whole when a run was killed, and clear away what it had done with."""
        for scratch in sorted((self.path / MAKING).glob("*")):
            if (scratch / SEALED).exists() and not scratch.name.startswith("."):
                _put_in_place(self, scratch)
            elif scratch.name.startswith("."):
                shutil.rmtree(scratch)

    def _manifest_path(self, name: str) -> Path:
        return self.path / MANIFESTS / f"{name.replace('/', '.')}.json"


@dataclass(frozen=True)
class Artefact:
    """Files that are made together, by one stage, from the same inputs and settings."""

    folder: RunFolder
    name: str
    outputs: tuple[str, ...]
    inputs: tuple[str, ...]
    settings: dict[str, Any]

    @property
    def digests(self) -> dict[str, str]:
        """The inputs' hashes. Raises Failure where one has not been made."""
        return {given: self.folder.manifest(given)["digest"] for given in self.inputs}

    @property
    def is_current(self) -> bool:
        """Whether it was made from these inputs with these settings, and its files are there."""
        return self.stale is None

    @property
    def stale(self) -> str | None:
        """Why it has to be made, in words: what differs from its manifest; None if nothing does.

        Raises Failure where an input has not been made.
        """
        digests = self.digests
        path = self.folder._manifest_path(self.name)
        try:
            manifest = read_json(path)
            files, made = manifest["files"], manifest["settings"]
            if manifest["digest"] != digest(files):
                return f"{path} has been changed"
            inputs, version = manifest["inputs"], manifest["versions"]["nutgraf"]
        except FileNotFoundError:
            return "not made before"
        except (ValueError, KeyError, TypeError):
            return f"{path} is damaged"
        if _series(version) != _series(__version__):
            return f"made by nutgraf {version}, this is {__version__}"
        if inputs != digests:
            names = sorted(inputs.keys() | digests.keys())
            return f"changed: {', '.join(n for n in names if inputs.get(n) != digests.get(n))}"
        if made != (asked := plain(self.settings)):
            return "; ".join(describe_changes(made, asked))
        for file, hashed in files.items():
            if not (self.folder / file).is_file():
                return f"{self.folder / file} is gone"
            if sha256(self.folder / file) != hashed:
                return f"{self.folder / file} is not as it was made"
        return None

    @property
    def is_half_made(self) -> bool:
        """Whether a stopped run left something of it that may be carried on."""
        return (self._scratch / work_claim.NAME).exists()

    @property
    def abandoned(self) -> str | None:
        """Why what a stopped run left of it cannot be carried on; None if it can, or is nothing."""
        return (
            work_claim.claim_mismatch(self._scratch, self._claim()) if self.is_half_made else None
        )

    @contextlib.contextmanager
    def writing(self, resume: bool = False) -> Iterator[Path]:
        """A temporary folder to write the outputs into, under the names they have in the run.

        When the block ends well, the outputs are moved into place and the manifest is written,
        last. When it raises, what was made before stays as it was. With `resume` the folder is as
        a stopped run left it, where that was making the same from the same: inputs, settings and
        versions of the libraries; else, and without `resume`, it is empty.
        """
        started = time.time()
        scratch = self._scratch
        carried_on = resume and self.is_half_made and self.abandoned is None
        if resume:
            work_claim.claim_folder(scratch, self._claim(), self.name)
        else:
            shutil.rmtree(scratch, ignore_errors=True)
            scratch.mkdir(parents=True)
        yield scratch
        self._seal(scratch, started, carried_on)
        _put_in_place(self.folder, scratch)

    @property
    def _scratch(self) -> Path:
        return self.folder.path / MAKING / self.name.replace("/", ".")

    def _claim(self) -> dict[str, Any]:
        inputs = {name: hashed[:16] for name, hashed in self.digests.items()}
        return {"inputs": inputs, "settings": self.settings, "versions": library_versions()}

    def _seal(self, scratch: Path, started: float, carried_on: bool) -> None:
        """Write the manifest into the scratch: from here on it is whole, and only to be moved."""
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
                "carried_on": carried_on,  # so that these seconds are not all
                "inputs": self.digests,
                "settings": plain(self.settings),
                "versions": library_versions(),
                "machine": machine_info(),
                "outputs": self.outputs,
                "files": files,
                "digest": digest(files),
            },
        )


def _put_in_place(folder: RunFolder, scratch: Path) -> None:
    """Move a sealed artefact to where it belongs; killed anywhere in it, it can be done again.

    In this order on the disk, whenever the machine goes: the old manifest gone, the files in
    their place, the new manifest, the scratch gone.
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
    trash = scratch.with_name(f".{scratch.name}")  # so that no half of it is taken for a scratch
    move(scratch, trash)
    shutil.rmtree(trash)


def _series(version: str) -> list[str]:
    """The part of a version that says whether results are the same: 0.1 of 0.1.3."""
    return version.split(".")[:2]


def _damaged(path: Path, error: ValueError) -> str:
    return f"{path} is damaged ({error}): delete it, and run `nutgraf run` again"
