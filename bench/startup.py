"""How soon something happens: `nutgraf --help`, and the first summary from a cold start.

python bench/startup.py [--model runs/pocket]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

NUTGRAF = Path(sys.executable).with_name("nutgraf")


def seconds(command: list[str], repeats: int) -> float:
    """The median wall time of a command."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True, env=os.environ)
        times.append(time.perf_counter() - started)
    return sorted(times)[repeats // 2]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="runs/pocket", help="a finished run folder")
    options = parser.parse_args()
    from nutgraf.pocket import newswire

    bare = seconds([sys.executable, "-c", "pass"], 9)
    timed = {"python -c pass": bare, "nutgraf --help": seconds([str(NUTGRAF), "--help"], 9)}
    timed["import torch"] = seconds([sys.executable, "-c", "import torch"], 3)
    imports = "import peft, transformers.models.llama.modeling_llama"
    timed["import torch, transformers, peft"] = seconds([sys.executable, "-c", imports], 3)
    with tempfile.TemporaryDirectory() as scratch:
        article = Path(scratch) / "article.txt"
        article.write_text(newswire.stories("test", 1, seed=1)[0].article, encoding="utf-8")
        command = [str(NUTGRAF), "summarize", "--model", options.model, str(article)]
        timed["nutgraf summarize, one article"] = seconds(command, 3)
    print(f"{'':<36}{'seconds':>9}")
    for name, took in timed.items():
        print(f"{name:<36}{took:9.2f}")
    print(json.dumps({name: round(took, 3) for name, took in timed.items()}))


if __name__ == "__main__":
    main()
