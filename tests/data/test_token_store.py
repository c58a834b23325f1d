"""Token ids on the disk: what is read is what was written, whichever rows are asked for."""

from __future__ import annotations

import random
from array import array
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from nutgraf.data import token_store
from nutgraf.data.examples import Encoded, Example
from nutgraf.data.token_store import TokenFile


def some(n: int) -> list[Encoded]:
    draw = random.Random(1)
    rows = []
    for i in range(n):
        ids = array("i", draw.choices(range(2**31), k=6 + i))
        prompt = array("i", range(5 + i)) if i % 3 == 0 else None
        rows.append(Encoded(Example(ids, 3 + i, 2 * i + 2), 5 + 3 * i, prompt))
    return rows


def write(rows: list[Encoded], path: Path) -> TokenFile:
    with token_store.open_writer(path) as add:
        for i, row in enumerate(rows):
            add(f"a{i}", row)
    return TokenFile(path)


@pytest.mark.parametrize("group", [3, 5, 1_000])
def test_rows_are_read_as_they_were_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group: int
) -> None:
    monkeypatch.setattr(token_store, "GROUP_ROWS", group)
    rows = some(10)
    stored = write(rows, tmp_path / "data" / "train-tokens.parquet")
    assert len(stored) == 10
    assert stored.first() == rows
    assert stored.first(4) == rows[:4]
    assert stored.select([7, 2, 7]) == {2: rows[2], 7: rows[7]}
    examples = stored.rows([9, 0, 9])
    assert (len(examples), examples[9], examples[0]) == (10, rows[9].example, rows[0].example)
    names = pq.read_table(tmp_path / "data" / "train-tokens.parquet")["id"].to_pylist()
    assert names == [f"a{i}" for i in range(10)]


def test_a_prompt_is_that_of_the_training_row_unless_it_has_its_own(tmp_path: Path) -> None:
    own, usual = some(2)
    assert usual.prompt.ids == usual.example.input_ids[:4]
    assert (usual.prompt.trimmed_tokens, usual.prompt.article_tokens) == (4, 4)
    assert own.prompt.ids == list(range(5))
    assert (own.prompt.trimmed_tokens, own.prompt.article_tokens) == (0, 5)
