"""Articles on the disk: the same as in a list, and memory does not grow with their number."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nutgraf.config import DataConfig
from nutgraf.data import article_store, load, sources, tables
from nutgraf.data.article_store import Spool, StoredArticles
from nutgraf.data.rows import Article


def some(n: int) -> list[Article]:
    return [Article(f"a{i}", f"Story {i}\nof “{i % 7}”.", f"Told {i}.") for i in range(n)]


@pytest.mark.parametrize(("rows", "characters"), [(3, 10**6), (10**6, 60), (10**6, 1)])
def test_a_file_of_many_pieces_reads_as_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int, characters: int
) -> None:
    articles = some(20)
    article_store.write_split(articles, tmp_path / "whole.parquet")
    monkeypatch.setattr(article_store, "GROUP_ROWS", rows)
    monkeypatch.setattr(article_store, "GROUP_CHARACTERS", characters)
    article_store.write_split(iter(articles), tmp_path / "pieces.parquet")
    pieces = pq.ParquetFile(tmp_path / "pieces.parquet").metadata.num_row_groups
    assert pq.ParquetFile(tmp_path / "whole.parquet").metadata.num_row_groups == 1 < pieces
    read = article_store.read_split(tmp_path / "pieces.parquet")
    assert read == article_store.read_split(tmp_path / "whole.parquet") == articles
    shuffled = random.Random(1).sample(range(-20, 20), 40)
    assert [read[i] for i in shuffled] == [articles[i] for i in shuffled]
    assert (read[5:11], read[::-3], read[:99]) == (articles[5:11], articles[::-3], articles)
    assert read != articles[:-1]
    assert read != [*articles[:-1], articles[0]]
    with pytest.raises(IndexError):
        read[20]


def test_a_spool_gives_what_was_put_into_it_by_key_and_of_equal_keys_the_earlier(
    tmp_path: Path,
) -> None:
    spool, articles = Spool(tmp_path), some(6)
    for number, (key, article) in enumerate(zip([5, 1, 5, 0.5, 1, 7], articles, strict=True), 1):
        spool.add(key, 10 * number, article)
    assert list(spool.sorted_by_key()) == [3, 1, 4, 0, 2, 5]
    assert StoredArticles(spool.read, range(6)) == articles
    assert list(spool.rows) == [10, 20, 30, 40, 50, 60]
    assert not list(tmp_path.iterdir())  # nothing stays behind, however it ends


# What `prepare` does with files, without a tokenizer. It prints the most memory since the process
# began, so the smaller file goes first; Arrow's own allocator would keep what it once had.
GROWTH = """
import re, sys
from pathlib import Path
from nutgraf.config import DataConfig
from nutgraf.data import article_store, data_card, load, sources
article_store.GROUP_CHARACTERS = 2**18
other, *paths = sys.argv[1:]
for path in paths:
    data = DataConfig(train=path, validation=other, test=other, train_examples=None)
    found = {}
    for split in ("test", "train"):
        found[split] = load.load_articles(data, split, others=found, folder=Path(path).parent)
    data_card.build_card(found)
    out = Path(path).with_suffix(".out")
    article_store.write_split(found["train"].articles, out)
    characters = sum(len(a.article) for a in article_store.read_split(out))
    most = re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]
    print(characters, int(most) * 1024)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_memory_does_not_grow_with_the_articles(tmp_path: Path) -> None:
    text = "The mayor of Leeds spoke on Monday about 12 bridges. " * 380
    paths = []
    for n in (5, 200, 1_000):
        paths.append(tmp_path / f"{n}.jsonl")
        rows = [{"article": f"{n}, {i}: {text}", "highlights": "Told."} for i in range(n)]
        paths[-1].write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = subprocess.run(
        [sys.executable, "-c", GROWTH, *map(str, paths)],
        env={**os.environ, "ARROW_DEFAULT_MEMORY_POOL": "system"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    (few, small), (many, large) = (map(int, line.split()) for line in done.stdout.splitlines())
    assert many - few > 16_000_000
    assert large - small < 6_000_000


def test_a_draw_of_few_from_many_puts_few_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.jsonl"
    rows = [{"article": f"Story {i}.", "highlights": f"Told {i}."} for i in range(2_000)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    put: list[Article] = []
    add = Spool.add

    def counted(self: Spool, key: float, row: int, article: Article) -> None:
        put.append(article)
        add(self, key, row, article)

    monkeypatch.setattr(Spool, "add", counted)
    whole = dict.fromkeys(sources.SPLITS, str(path))
    everything = load.load_articles(DataConfig(**whole, train_examples=None), "train").articles
    assert len(put) == 2_000
    put.clear()
    few = load.load_articles(DataConfig(**whole, train_examples=10), "train").articles
    assert few == everything[:10]
    assert 10 < len(put) < 200  # 11 x (1 + ln(2,000 / 11)) = 68 are expected


def test_a_parquet_file_of_one_row_group_is_not_read_in_one_piece(tmp_path: Path) -> None:
    draw = random.Random(1)
    texts = [draw.randbytes(512).hex() for _ in range(20_000)]
    table = pa.table({"article": texts, "highlights": ["Told."] * len(texts)})
    path = tmp_path / "a.parquet"
    pq.write_table(table, path, row_group_size=len(texts), compression="none", use_dictionary=False)
    del table
    before = pa.total_allocated_bytes()
    rows = tables.read_rows(path)
    assert next(rows)["article"] == texts[0]
    assert path.stat().st_size > 20_000_000
    assert pa.total_allocated_bytes() - before < 8_000_000
    assert [row["article"] for row in rows] == texts[1:]
