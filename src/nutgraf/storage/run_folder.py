"""Name the files of a run, which are the interface between stages, and its artefacts."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nutgraf.core.errors import Failure
from nutgraf.core.files import digest, read_json
from nutgraf.storage.artefact import SEALED, UNFINISHED, Artefact, put_in_place

MANIFESTS = "manifests"


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
        """Return the folder of a trained model's adapter."""
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
            return _read_manifest(self.manifest_path(name))
        except FileNotFoundError:
            raise Failure(
                f"{self.path / name} has not been made: run `nutgraf run --run {self.path}` "
                "or the stage before"
            ) from None

    def check_made_from(self, name: str, source: str) -> None:
        """Raise Failure unless the artefact was made, from the `source` that is there now."""
        if not self.is_made_from(name, source):
            other = {"data:test": "test articles"}.get(source, source)
            raise Failure(
                f"{self.path / name} was made from other {other}: run `nutgraf run --run "
                f"{self.path}`, which makes it again"
            )

    def is_made_from(self, name: str, source: str) -> bool:
        """Return whether a finished artefact was made from the `source` that is there now.

        Raises Failure if one of both has not been made.
        """
        return bool(self.manifest(name)["inputs"].get(source) == self.digest(source))

    def has(self, name: str) -> bool:
        """Return whether the artefact was ever finished, from any inputs."""
        return self.manifest_path(name).exists()

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
                put_in_place(self, scratch)

    def manifest_path(self, name: str) -> Path:
        """Return the path of the manifest of an artefact."""
        return self.path / MANIFESTS / f"{name.replace('/', '.')}.json"


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        return read_json(path)
    except ValueError as error:
        raise Failure(
            f"{path} is damaged ({error}): delete it, and run `nutgraf run` again"
        ) from None
