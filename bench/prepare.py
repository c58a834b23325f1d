"""How much memory `prepare` takes with more articles than the memory holds, and how long it takes.

Each article is made of three stories of the embedded newswire and a sentence of its own, so no two
are the same. They are written first, as JSONL or as a Parquet file of a single row group, which a
reader must not take whole. What is measured is `prepare` in a process of its own, with all articles
drawn for training. Its base is a tokenizer of whole words, made here, since the pocket model's
takes several times as long; memory does not depend on it.

    python bench/prepare.py                  10,000, 100,000 and 1,000,000 articles
    python bench/prepare.py --sizes 2000 --base pocket
    python bench/prepare.py --place DIR      where its files lie; 10 GB for 1,000,000
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

STORIES = 4_000
HELD_OUT = 1_000


def articles(n: int) -> Iterator[dict[str, str]]:
    """`n` different articles for training, and behind them those of validation and test."""
    from nutgraf.pocket import newswire

    stories = newswire.stories("train", STORIES, seed=1)
    for i in range(n + 2 * HELD_OUT):
        one, two, three = (stories[(i + k * (1 + i // STORIES)) % STORIES] for k in range(3))
        yield {
            "id": f"{i:08d}",
            "article": f"{one.article} {two.article} {three.article} Report {i} ends here.",
            "highlights": one.reference,
            "split": "train" if i < n else ("validation", "test")[i % 2],
        }


def make(n: int, path: Path) -> None:
    if path.suffix == ".jsonl":
        with path.open("w") as file:
            file.writelines(json.dumps(row) + "\n" for row in articles(n))
    else:
        rows = articles(n)
        parts = iter(lambda: list(itertools.islice(rows, 10_000)), [])
        table = pa.concat_tables([pa.Table.from_pylist(part) for part in parts])
        pq.write_table(table, path, row_group_size=len(table))


def words(folder: Path) -> str:
    """The folder of a tokenizer whose tokens are words and signs."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    known = ["</s>", "?", "\n", "Summarize", "Summary", ":", ".", ","]
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(known)}, unk_token="?"))
    core.pre_tokenizer = pre_tokenizers.Split(" ", "removed")
    PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>").save_pretrained(folder)
    return str(folder)


def measure(path: Path, base: str) -> dict[str, Any]:
    """Seconds of `prepare`, and the most memory that this process had."""
    from nutgraf.config import load
    from nutgraf.pipeline.runner import run_stage
    from nutgraf.storage.run_folder import RunFolder

    settings = load.build_config(
        {
            "data": {
                "source": str(path),
                "train_examples": None,
                "validation_examples": HELD_OUT,
                "test_examples": HELD_OUT,
            },
            "model": {"base": base},
        }
    )
    with tempfile.TemporaryDirectory(dir=path.parent) as run:
        started, used = time.perf_counter(), time.process_time()
        run_stage("prepare", settings, RunFolder(run))
        seconds, processor = time.perf_counter() - started, time.process_time() - used
        card = json.loads((Path(run) / "data" / "card.json").read_text())["splits"]["train"]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "seconds": seconds,
        "processor": processor,
        "peak_mb": peak * 1024 / 1e6,
        "drawn": card["sampled"],
        "words": card["article_words_mean"],
    }


def in_a_process(*words: str) -> str:
    """What this script prints with such words. It stays small: a child's peak has it in it."""
    command = [sys.executable, __file__, *words]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", nargs="+", type=int, default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--kind", choices=["parquet", "jsonl"], default="parquet")
    parser.add_argument("--base", help="a base, like `pocket`; without it a tokenizer of words")
    parser.add_argument("--place", type=Path)
    parser.add_argument("--words", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--make", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--only", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.words:
        return print(words(options.words))
    if options.make:
        return make(int(options.make[0]), Path(options.make[1]))
    if options.only:
        return print(json.dumps(measure(Path(options.only[0]), options.only[1])))
    print(
        f"{options.kind + ' of':>16}{'words':>7}{'file MB':>9}{'seconds':>9}{'processor s':>13}"
        f"{'peak MB':>9}{'more, bytes an article':>24}"
    )
    with tempfile.TemporaryDirectory(dir=options.place) as scratch:
        base = options.base or in_a_process("--words", f"{scratch}/words").strip()
        path = Path(scratch) / f"news.{options.kind}"
        before: tuple[int, float] | None = None
        for n in options.sizes:
            in_a_process("--make", str(n), str(path))
            measured = json.loads(in_a_process("--only", str(path), base).strip().splitlines()[-1])
            assert measured["drawn"] == n, measured
            more = ""
            if before:
                more = f"{1e6 * (measured['peak_mb'] - before[1]) / (n - before[0]):,.0f}"
            before = n, measured["peak_mb"]
            print(
                f"{n:>16,}{measured['words']:7.0f}{path.stat().st_size / 1e6:9,.0f}"
                f"{measured['seconds']:9,.0f}{measured['processor']:13,.0f}{measured['peak_mb']:9,.0f}"
                f"{more:>24}",
                flush=True,
            )


if __name__ == "__main__":
    main()
