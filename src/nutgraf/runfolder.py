"""The run folder, the interface between stages: paths, records, manifests, atomic writes.

A stage reads earlier artefacts and makes its own: written under a temporary name, moved into
place, and last of all described by a manifest. No manifest, not done. An artefact is current when
its manifest names the same inputs and the same settings as asked for now, and its files are as the
manifest says.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nutgraf.machine import machine, versions
from nutgraf.problems import Failure, UserError
from nutgraf.progress import say


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
        decides the result. Raises Failure where an input has not been made.
        """
        digests = {given: self.manifest(given)["digest"] for given in inputs}
        return Artefact(self, name, tuple(outputs or [name]), digests, dict(settings or {}))

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

    def manifests(self) -> dict[str, dict[str, Any]]:
        """All manifests by artefact, in the order in which they were made."""
        found = {}
        for path in (self.path / "manifests").glob("*.json"):
            try:
                manifest = read_json(path)
            except ValueError as error:
                raise Failure(_damaged(path, error)) from None
            found[manifest["artefact"]] = manifest
        return dict(sorted(found.items(), key=lambda item: item[1]["created"]))

    def _manifest_path(self, name: str) -> Path:
        return self.path / "manifests" / f"{name.replace('/', '.')}.json"


@dataclass(frozen=True)
class Artefact:
    """Files that are made together, by one stage, from the same inputs and settings."""

    folder: RunFolder
    name: str
    outputs: tuple[str, ...]
    inputs: dict[str, str]
    settings: dict[str, Any]

    @property
    def is_current(self) -> bool:
        """Whether it was made from these inputs with these settings, and its files are there."""
        return self.stale is None

    @property
    def stale(self) -> str | None:
        """Why it has to be made, in words: what differs from its manifest; None if nothing does."""
        path = self.folder._manifest_path(self.name)
        try:
            manifest = read_json(path)
            files, made = manifest["files"], manifest["settings"]
            if manifest["digest"] != _digest(files):
                return f"{path} has been changed"
            inputs = manifest["inputs"]
        except FileNotFoundError:
            return "not made before"
        except (ValueError, KeyError, TypeError):
            return f"{path} is damaged"
        if inputs != self.inputs:
            names = sorted(inputs.keys() | self.inputs.keys())
            return f"changed: {', '.join(n for n in names if inputs.get(n) != self.inputs.get(n))}"
        if made != (asked := _plain(self.settings)):
            return "; ".join(_differences(made, asked))
        for file, digest in files.items():
            if not (self.folder / file).is_file():
                return f"{self.folder / file} is gone"
            if _sha256(self.folder / file) != digest:
                return f"{self.folder / file} is not as it was made"
        return None

    @contextlib.contextmanager
    def writing(self) -> Iterator[Path]:
        """A temporary folder to write the outputs into, under the names they have in the run.

        When the block ends well, the outputs are moved into place and the manifest is written,
        last. When it raises, what was made before stays as it was.
        """
        if self.folder._manifest_path(self.name).exists() and (reason := self.stale):
            say(f"{self.name} is made again: {reason}")
        started = time.time()
        scratch = self.folder.path / ".making" / self.name.replace("/", ".")
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        yield scratch
        missing = [name for name in self.outputs if not (scratch / name).exists()]
        if missing:
            raise Failure(f"{self.name} is unfinished: {', '.join(missing)} was not written")
        manifest_path = self.folder._manifest_path(self.name)
        # On the disk in this order, whenever the machine goes: the new files whole, the old
        # manifest gone, the files in their place, the new manifest.
        for name in self.outputs:
            for path in _files(scratch / name):
                _sync(path)
        if manifest_path.exists():
            manifest_path.unlink()
            _sync(manifest_path.parent)
        for name in self.outputs:
            _move(scratch / name, self.folder.path / name)
        shutil.rmtree(scratch)
        files = {
            str(path.relative_to(self.folder.path)): _sha256(path)
            for name in self.outputs
            for path in _files(self.folder.path / name)
        }
        write_json(
            manifest_path,
            {
                "artefact": self.name,
                "created": started,
                "seconds": round(time.time() - started, 2),
                "inputs": self.inputs,
                "settings": _plain(self.settings),
                "versions": versions(),
                "machine": machine(),
                "files": files,
                "digest": _digest(files),
            },
        )


def read_json(path: Path) -> Any:
    """The value in a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write one JSON object, indented, in one atomic step."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a whole file or nothing: temporary name, fsync, rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    with scratch.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    scratch.replace(path)
    _sync(path.parent)


def read_records(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSONL file. Raises UserError naming the line that is not JSON."""
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
        if line:
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise UserError(f"{path} line {number} is not JSON: {error.msg}") from None
    return rows


def write_records(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows as JSONL, one object a line, in one atomic step."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def _plain(value: Any) -> Any:
    """The value as JSON would give it back, so that comparing with a manifest is exact."""
    return json.loads(json.dumps(value))


def _differences(made: Any, asked: Any, name: str = "") -> list[str]:
    """What differs between two trees of settings, a line each: `train.seed was 1, is now 2`."""
    if isinstance(made, dict) and isinstance(asked, dict):
        keys = sorted(made.keys() | asked.keys())
        trees = [(made.get(key), asked.get(key), f"{name}.{key}".lstrip(".")) for key in keys]
        return [line for tree in trees for line in _differences(*tree)]
    return [] if made == asked else [f"{name} was {json.dumps(made)}, is now {json.dumps(asked)}"]


def _damaged(path: Path, error: ValueError) -> str:
    return f"{path} is damaged ({error}): delete it, and run `nutgraf run` again"


def _sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _files(path: Path) -> list[Path]:
    return sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]


def file_hash(path: Path) -> str:
    """SHA-256 of a file's contents. Raises UserError for a file that is not there."""
    try:
        return _sha256(path)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: correct its path") from None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(files: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def _move(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_dir():
        shutil.rmtree(target)
    source.replace(target)
    _sync(target.parent)
