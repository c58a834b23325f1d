"""Put together what gather.py gathered, without a network; needs Python and pip alone.

python3 join.py FOLDER      in the folder of the pieces; FOLDER is new
. FOLDER/env
"""

from __future__ import annotations

import argparse
import hashlib
import io
import shlex
import subprocess
import sys
import tarfile
from pathlib import Path

HASHES = "pieces.sha256"
# dill, by which datasets hashes, takes libraries in a folder of another name for a script's own.
SITE = "site-packages"


class Joined(io.RawIOBase):
    """The pieces as one stream."""

    def __init__(self, paths: list[Path]) -> None:
        self._files = (path.open("rb") for path in paths)
        self._file = next(self._files)

    def read(self, size: int = -1) -> bytes:
        while not (data := self._file.read(size)):
            if (following := next(self._files, None)) is None:
                return b""
            self._file = following
        return data


def unpack(pieces: Path, folder: Path) -> None:
    """Unpack the pieces in `pieces` into `folder`, which is new, if none is missing or damaged."""
    lines = (pieces / HASHES).read_text(encoding="utf-8").splitlines()
    hashes = {pieces / line.split()[1]: line.split()[0] for line in lines}
    for path, digest in hashes.items():
        if not path.exists() or hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            raise SystemExit(f"{path.name} is missing or damaged: copy it again")
    folder.mkdir(parents=True)
    with tarfile.open(fileobj=Joined(list(hashes)), mode="r|") as archive:
        archive.extractall(folder, filter="data")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pieces", type=Path, default=Path(__file__).parent)
    options = parser.parse_args()
    folder = options.folder.absolute()
    unpack(options.pieces, folder)
    site = folder / SITE
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
    pip += ["--no-compile", "--no-cache-dir", "--target", str(site)]
    subprocess.run([*pip, *map(str, sorted(folder.glob("wheels/*.whl")))], check=True)
    paths = [site, folder / "nutgraf" / "src", folder / "nutgraf" / "bench"]
    line = f"export PYTHONPATH={shlex.quote(':'.join(map(str, paths)))}\n"
    (folder / "env").write_text(line, encoding="utf-8")
    print(f". {folder}/env && python3 {folder}/nutgraf/bench/gpu.py --out results")


if __name__ == "__main__":
    main()
