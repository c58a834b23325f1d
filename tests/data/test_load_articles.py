"""Articles: every row is drawn, rejected with a reason, or counted; nothing changes wording."""

import bz2
import csv
import gzip
import json
import lzma
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.places import SHARED

from nutgraf.config import DataConfig
from nutgraf.core.errors import Failure, UserError
from nutgraf.data import article_store, data_card, load, names, sources, tables
from nutgraf.data.rows import Article, count_reasons
from nutgraf.data.text import clean_text

SPLITS = sources.SPLITS


def rows(n: int, start: int = 0) -> list[dict[str, Any]]:
    return [
        {"id": f"r{i}", "article": f"Story {i}, told at length.", "highlights": f"Story {i}."}
        for i in range(start, start + n)
    ]


def jsonl(path: Path, records: list[Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in records), encoding="utf-8")
    return str(path)


def of(path: str, **settings: Any) -> DataConfig:
    return DataConfig(train=path, validation=path, test=path, **settings)


@pytest.mark.parametrize("suffix", tables.SUFFIXES)
def test_each_kind_of_file_gives_the_same_articles(tmp_path, suffix):
    records = rows(7)
    records[2]["article"] = 'He said, "yes",\nand left.'
    path = tmp_path / f"a{suffix}"
    if suffix in (".jsonl", ".json"):
        jsonl(path, records)
    elif suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(records), path)
    else:
        with path.open("w", newline="", encoding="utf-8") as file:
            delimiter = "\t" if suffix == ".tsv" else ","
            names = ["id", "article", "highlights"]
            writer = csv.DictWriter(file, names, delimiter=delimiter)
            writer.writeheader()
            writer.writerows(records)
    split = load.load_articles(of(str(path)), "train")
    assert sorted(a.id for a in split.articles) == [f"r{i}" for i in range(7)]
    assert {a.id: a.article for a in split.articles}["r2"] == records[2]["article"]
    assert (split.rows_read, split.requested, split.rejected) == (
        7,
        DataConfig().train_examples,
        [],
    )


def table(text: Callable[[str], str] = str) -> str:
    return f"id{text(',')}article{text(',')}highlights\n1{text(',')}Café “x”{text(',')}y\n"


ROW = {"id": "1", "article": "Café “x”", "highlights": "y"}
LINE = json.dumps(ROW, ensure_ascii=False)
FORMS: dict[str, bytes] = {
    "upper.CSV": table().encode(),
    "excel.csv": table(lambda _: ";").encode("utf-8-sig"),
    "sep.csv": f"sep=;\r\n{table(lambda _: ';')}".encode("cp1252"),
    "windows.csv": table(lambda _: ";").encode("cp1252"),
    "tabs.csv": table(lambda _: "\t").encode("utf-16"),
    "no_mark.tsv": table(lambda _: "\t").encode("utf-16-le"),
    "filled.csv": table().replace("y\n", "y,,\n").encode(),
    "empty_rows.csv": (table(lambda _: ";") + ";;\n;;\n").encode(),
    "spaces.csv": table().replace(",article", ",\ufeff article ").encode(),
    "a.TSV.gz": gzip.compress(table(lambda _: "\t").encode(), mtime=0),
    "a.jsonl.bz2": bz2.compress(LINE.encode()),
    "a.ndjson.xz": lzma.compress(LINE.encode()),
    "a.jsonl.zst": pa.Codec("zstd").compress(LINE.encode(), asbytes=True),
    "lines.json": f"{LINE}\n".encode(),
    "lines.csv": f"{LINE}\n".encode(),
    "array.csv": f"[{LINE}]\n".encode(),
    "powershell.jsonl": f"{LINE}\r\n".encode("utf-16"),
    "array.jsonl": f"[{LINE}]".encode(),
    "lines_of_array.jsonl": f"[{LINE}\n]".encode(),
    "one.json": LINE.encode(),
    "below.json": json.dumps({"version": "1", "data": [ROW]}, indent=1).encode(),
    "hub.json": json.dumps({"features": [{"name": "id"}], "rows": [{"row": ROW}]}).encode(),
    "deep.json": json.dumps({"response": {"docs": [ROW]}}).encode(),
    "below.jsonl": json.dumps({"data": [ROW]}).encode(),
    "blank.csv": ("\r\n" + table(lambda _: ";")).encode(),
    "pandas.json": json.dumps({name: {"0": cell} for name, cell in ROW.items()}).encode(),
    "columns.json": json.dumps({name: [cell] for name, cell in ROW.items()}).encode(),
    "split.json": json.dumps({"columns": [*ROW], "data": [[*ROW.values()]]}).encode(),
    "by_id.json": json.dumps({"1": {k: ROW[k] for k in ("article", "highlights")}}).encode(),
    "jq.json": f"{json.dumps(ROW, indent=1)}\n".encode(),
}


@pytest.mark.parametrize("name", FORMS)
def test_rows_are_read_in_the_forms_that_people_have(tmp_path, name):
    (tmp_path / name).write_bytes(FORMS[name])
    assert list(tables.read_rows(tmp_path / name)) == [ROW]
    assert tables.is_table(tmp_path / name)


def test_parquet_is_known_by_its_content(tmp_path):
    pq.write_table(pa.Table.from_pylist([ROW, ROW]), tmp_path / "a.download")
    assert list(tables.read_rows(tmp_path / "a.download")) == [ROW, ROW]
    packed = tmp_path / "a.parquet.gz"
    packed.write_bytes(gzip.compress((tmp_path / "a.download").read_bytes()))
    assert list(tables.read_rows(packed)) == [ROW, ROW]


def test_commas_in_names_part_no_columns_beside_semicolons(tmp_path):
    (tmp_path / "a.csv").write_text("id;text;score, mean, of, 3\n1;A, b, c;0,5\n")
    (row,) = tables.read_rows(tmp_path / "a.csv")
    assert row == {"id": "1", "text": "A, b, c", "score, mean, of, 3": "0,5"}
    (tmp_path / "a.csv").write_text('"The\ntext";"Its\nid"\nA, b;1\nx\n')
    records = list(tables.read_rows_or_broken(tmp_path / "a.csv"))
    assert records[0] == {"The\ntext": "A, b", "Its\nid": "1"}
    assert str(records[1]).startswith("line 5 is ragged")
    assert names.find_column("its id", records[0]) == "Its\nid"
    assert names.find_column("r\u00e9sum\u00e9", ["Re\u0301sume\u0301"])
    (tmp_path / "a.csv").write_text('a,b\n1,2\n"He said \\"no\\", twice",x\n')
    with pytest.raises(UserError, match=r"a.csv line 3 is not CSV: .* in a quoted text, \" is"):
        list(tables.read_rows(tmp_path / "a.csv"))


def test_rows_one_after_another_are_all_read(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(ROW, indent=1) * 2)
    assert list(tables.read_rows(tmp_path / "a.json")) == [ROW, ROW]
    (tmp_path / "joined.jsonl").write_text(f"\ufeff{LINE}\n\ufeff{LINE}\n", encoding="utf-8")
    assert list(tables.read_rows(tmp_path / "joined.jsonl")) == [ROW, ROW]
    (tmp_path / "b.json").write_text(json.dumps({"train": [ROW], "dev": [ROW]}))
    records = list(tables.read_rows(tmp_path / "b.json"))
    assert records == [{"split": "train", **ROW}, {"split": "dev", **ROW}]


def test_the_draw_is_seeded_random_and_longer_draws_begin_with_shorter_ones(tmp_path):
    path = jsonl(tmp_path / "a.jsonl", rows(200))

    def ids(n: int | None, seed: int = 1, split: str = "train") -> list[str]:
        drawn = load.load_articles(of(path, train_examples=n, test_examples=n, seed=seed), split)
        return [a.id for a in drawn.articles]

    assert ids(20) == ids(20)
    assert ids(None)[:20] == ids(20) == ids(60)[:20]
    assert len(set(ids(None))) == 200
    assert ids(20) != ids(20, seed=2)
    assert ids(20) != ids(20, split="test")
    places = [int(name[1:]) for name in ids(60)]
    assert places != sorted(places)
    assert 70 < sum(places) / 60 < 130  # from the whole file, not its top


def test_unusable_rows_are_counted_by_reason(tmp_path):
    bad = [
        {"id": "1", "article": None, "highlights": "x"},
        {"id": "2", "article": 5, "highlights": "x"},
        {"id": "3", "article": "x", "highlights": ["x"]},
        {"id": "4", "article": " \r\n\u00a0", "highlights": "x"},
        {"id": "5", "article": "x", "highlights": ""},
        {"id": "6", "article": "x"},
        {"id": "r0", "article": "another text", "highlights": "x"},
    ]
    data = of(jsonl(tmp_path / "a.jsonl", rows(3) + bad), max_rejected=1)
    split = load.load_articles(data, "train")
    assert count_reasons(split.rejected) == {
        "article empty": 1,
        "article missing": 1,
        "article not text": 1,
        "id of an earlier row": 1,
        "summary empty": 1,
        "summary missing": 1,
        "summary not text": 1,
    }
    assert split.rows_read == len(split.articles) + len(split.rejected)
    warnings = data_card.build_card({"train": split})["warnings"]
    assert any("of 10 rows rejected: 1 article empty, " in line for line in warnings)


def test_rows_without_an_id_are_numbered_by_their_place(tmp_path):
    records = [{"article": f"a {i}", "highlights": "s"} for i in range(3)]
    split = load.load_articles(of(jsonl(tmp_path / "a.jsonl", records)), "validation")
    assert {a.id: a.article for a in split.articles} == {
        f"validation-{i + 1:06d}": f"a {i}" for i in range(3)
    }


def test_one_file_with_a_split_column(tmp_path):
    records = [row | {"part": split} for split in SPLITS for row in rows(4)]
    path = jsonl(tmp_path / "a.jsonl", records)
    config = DataConfig(source=path, split_column="part")
    assert [load.load_articles(config, split).rows_read for split in SPLITS] == [4, 4, 4]
    with pytest.raises(UserError, match=r"no column 'split'.*it has id, .*data\.split_column"):
        load.load_articles(DataConfig(source=path), "train")
    path = jsonl(tmp_path / "b.jsonl", [row | {"split": "dev"} for row in rows(2)])
    with pytest.raises(UserError, match=r"no row with 'test' in column 'split': there is 'dev'"):
        load.load_articles(DataConfig(source=path), "test")


WORDS = {
    "train": ["Train", "TRAINING ", "trn", "train_set"],
    "validation": ["valid", "val", "Dev", "development", "eval", "dev-set"],
    "test": ["Test", "testing", "held-out", "holdout", "Test Set"],
    "unlabelled": ["unlabelled", "test2", "0"],
}
LOADERS = {
    "a.csv": lambda path, records: pd.DataFrame(records).to_csv(path, index=False),
    "a.json": lambda path, records: path.write_text(json.dumps({"data": records})),
    "a.jsonl": jsonl,
    "a.parquet": lambda path, records: pq.write_table(pa.Table.from_pylist(records), path),
}


@pytest.mark.parametrize("name", LOADERS)
def test_every_row_is_counted_once_whatever_names_its_split(tmp_path, name):
    words = [word for group in WORDS.values() for word in group]
    records = [row | {"Split": words[i % len(words)]} for i, row in enumerate(rows(90))]
    records[0]["highlights"] = ""
    records[20]["article"] = records[21]["article"]
    path = tmp_path / name
    LOADERS[name](path, records)
    data = DataConfig(source=str(path), train_examples=5, max_rejected=0.5)
    splits: dict[str, load.Split] = {}
    for split in reversed(SPLITS):
        splits[split] = load.load_articles(data, split, splits)
    card = data_card.build_card(splits)
    reasons = ("rejected", "removed")
    for split, counts in card["splits"].items():
        left_out = sum(n for reason in reasons for n in counts[reason].values())
        assert counts["rows_read"] == counts["sampled"] + counts["not_drawn"] + left_out
        expected = [i for i in range(90) if words[i % len(words)] in WORDS[split]]
        assert counts["rows_read"] - counts["removed"].get("row of another split", 0) == len(
            expected
        )
    assert sum(counts["rows_read"] for counts in card["splits"].values()) == 90
    train = card["splits"]["train"]
    assert train["removed"]["row of another split"] == 15
    assert (train["sampled"], train["not_drawn"], train["rejected"]) == (
        5,
        13,
        {"summary empty": 1},
    )
    for warning in (
        "train: column 'Split' names other splits, left out: 5 'unlabelled', 5 'test2', 5 '0'",
        "validation: rows of 5 'valid', 5 'val', 5 'Dev', 5 'development', 5 'eval', … are taken",
    ):
        assert any(line.startswith(warning) for line in card["warnings"])


def test_columns_by_their_usual_names_are_taken_and_named(tmp_path):
    for article, summary in (
        ("Article", "Highlights"),
        ("text", "summary"),
        (" Document", "ABSTRACT"),
        ("Article Text", "reference_summary"),
        ("dialogue", "reference"),
    ):
        records = [{"ID": n, article: f"a {n}", summary: f"s {n}"} for n in range(3)]
        split = load.load_articles(of(jsonl(tmp_path / "a.jsonl", records)), "test")
        assert sorted(a.id for a in split.articles) == ["0", "1", "2"]
        assert {a.reference for a in split.articles} == {"s 0", "s 1", "s 2"}
        note = f"column {article!r} is taken for data.article_column ('article' is not there)"
        assert note in split.notes
        assert f"test: {note}" in data_card.build_card({"test": split})["warnings"]
    records = [{"text": "a", "body": "b", "summary": "s"}]
    with pytest.raises(UserError, match=r"no column 'article' .*it has text, body, summary"):
        load.load_articles(of(jsonl(tmp_path / "a.jsonl", records)), "test")


def test_files_of_a_folder_are_splits_by_their_names(tmp_path):
    for n, name in enumerate(("cnn-Train-00.jsonl", "cnn-Train-01.jsonl", "dev.v2.jsonl")):
        jsonl(tmp_path / name, rows(3, 10 * n))
    data = DataConfig(source=str(tmp_path))
    pd.DataFrame(rows(2, 30)).to_csv(tmp_path / "Held_Out.TSV", sep="\t", index=False)
    jsonl(tmp_path / "more.jsonl", rows(2, 40))
    splits = {split: load.load_articles(data, split) for split in SPLITS}
    assert [split.rows_read for split in splits.values()] == [6, 3, 2]
    note = f"1 files of {tmp_path} name none of the splits: more.jsonl"
    assert all(note in split.notes for split in splits.values())


def test_other_column_names(tmp_path):
    records = [{"uid": i, "body": f"b {i}", "tldr": f"t {i}"} for i in range(3)]
    path = jsonl(tmp_path / "a.jsonl", records)
    named = {"article_column": "body", "summary_column": "tldr", "id_column": "uid"}
    drawn = load.load_articles(of(path, **named), "train").articles
    assert sorted(drawn, key=lambda a: a.id)[1] == Article("1", "b 1", "t 1")
    for setting, wrong in (("article_column", "bodi"), ("id_column", "uidd")):
        right = named[setting]
        expected = rf"no column '{wrong}': did you mean '{right}'\?.*it has .*data\.{setting}"
        with pytest.raises(UserError, match=expected):
            load.load_articles(of(path, **{**named, setting: wrong}), "train")


def test_the_same_file_three_times_is_shouted_where_it_is_allowed(tmp_path):
    path = jsonl(tmp_path / "a.jsonl", [*rows(50), {"id": "twin", **_text(3)}])
    config = of(
        path, train_examples=None, validation_examples=20, test_examples=50, allow_overlap=True
    )
    card = data_card.build_card({split: load.load_articles(config, split) for split in SPLITS})
    train = card["splits"]["train"]
    assert (train["sampled"], train["duplicates"]) == (51, 1)
    assert train["shared"]["validation"] == card["splits"]["validation"]["shared"]["train"] == 20
    assert train["shared"]["test"] >= 49
    assert any(line.startswith("OVERLAP: ") and "test" in line for line in card["warnings"])
    assert (train["article_words_mean"], train["summary_words_mean"]) == (5.0, 2.0)


def _text(i: int) -> dict[str, str]:
    row = rows(1, i)[0]
    return {"article": row["article"].upper().replace(" ", "  "), "highlights": row["highlights"]}


def test_fewer_than_asked_are_all_taken_and_said_so(tmp_path):
    config = of(jsonl(tmp_path / "a.jsonl", rows(5)), train_examples=9)
    card = data_card.build_card({"train": load.load_articles(config, "train")})
    assert card["splits"]["train"]["sampled"] == 5
    assert card["splits"]["train"]["asked"] == 9
    assert card["warnings"] == [
        "train has 5 usable articles, data.train_examples asks for 9: all are taken"
    ]


def test_cleaning_leaves_wording_alone():
    assert clean_text("\ufeffA\r\nb\rc\u2028d\x00\x07 \n") == "A\nb\nc\nd"
    assert clean_text("lone \ud800 half") == "lone \ufffd half"
    assert clean_text("co\u00adoperate Wa\u200bles\u2060 10\u00a0000\u202fm") == (
        "cooperate Wales 10 000 m"
    )
    assert clean_text("Nor\u034fwick\ufffc \u206aAB\U000e0041") == "Norwick AB"
    text = "Tab\there, “quotes” — naïve  spaces, e\u0301, 你好 \U0001f600 \u200d."
    assert clean_text(text) == text


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"article": "x"\n', r"a\.jsonl has no .*1 row not JSON .*row 1: .* line 1"),
        ("a.jsonl", b"[1]\n", r"a\.jsonl has no .*1 row no object .*line 1: list found"),
        ("a.jsonl", b'{"article": "\xff"}\n', r"a\.jsonl has no .*1 row not UTF-8 .*byte 14"),
        ("a.csv", b"article,highlights\na, b, c\n", r"1 row ragged .*line 2: 3 cells, .* has 2"),
        ("a.parquet", b"not parquet", r"a\.parquet cannot be read"),
        (
            "a.txt",
            b"x",
            r"a\.txt is of an unknown kind: give \.jsonl, \.json, \.csv",
        ),
        (
            "a.csv",
            "article\nСухопутные войска".encode("cp1251"),
            "neither UTF-8 nor Windows-1252: save it",
        ),
        ("a.jsonl", b"", r"a\.jsonl has no usable row for train: 0 read"),
        ("a.jsonl", b'{"article": "", "highlights": ""}', r"1 read, rejected 1 article empty"),
    ],
)
def test_broken_files_are_one_line_errors(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        load.load_articles(of(str(path)), "train")
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"gone\.csv does not exist"):
        load.load_articles(of(str(tmp_path / "gone.csv")), "train")


def test_a_folder_in_the_form_of_the_hub_loads_through_datasets(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "ne[w]s" / "data"
    folder.mkdir(parents=True)
    for number, name in enumerate(("train", "dev", "test")):
        pq.write_table(pa.Table.from_pylist(rows(3, 10 * number)), folder / f"{name}.parquet")
    data = DataConfig(source=str(folder.parent))
    own = load.load_articles(data, "validation")  # the names of the files are enough
    config = ["---", "configs:", "- config_name: default", "  data_files:"]
    for name in ("train", "dev"):
        config += [f"  - split: {name}", f"    path: data/{name}.parquet"]
    plain = folder.parent.rename(tmp_path / "news")
    (plain / "README.md").write_text("\n".join([*config, "---", ""]))
    data = DataConfig(source=str(plain))
    split = load.load_articles(data, "validation")
    assert sorted(a.id for a in split.articles) == ["r10", "r11", "r12"]
    assert list(own.articles) == list(split.articles)
    assert split.revision is None
    assert split.notes == (f"split 'dev' of {plain} is taken",)
    with pytest.raises(UserError, match=r"cannot give its split 'test'.*Unknown split"):
        load.load_articles(data, "test")
    (folder := tmp_path / "bare").mkdir()
    with pytest.raises(UserError, match=r"bare' is a folder without data files; correct it"):
        load.load_articles(DataConfig(source=str(folder)), "test")
    with pytest.raises(UserError, match=r"has \[, \* or \? in its path.*: rename the folder"):
        load.load_articles(DataConfig(source=str(plain.rename(tmp_path / "[new]"))), "validation")
    plain = (tmp_path / "[new]").rename(plain)
    (plain / "data" / "train.parquet").write_bytes(b"no rows")
    with pytest.raises(UserError, match=r"news cannot give its split 'train': ArrowInvalid"):
        load.load_articles(data, "train")


def test_the_revision_is_read_from_what_was_downloaded():
    commit = "96df5e686bee6baa90b8bee7c28b81fa3fa6223d"
    address = f"hf://datasets/abisee/cnn_dailymail@{commit}/3.0.0/test-00000-of-00001.parquet"
    assert sources._revision({address: {"num_bytes": 1}}) == commit
    assert sources._revision({"/home/me/a.parquet": {}}) is None
    assert sources._revision(None) is None


def test_a_hub_out_of_reach_is_one_line_with_what_to_do(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(Failure, match=r"Hub did not give 'a/b'.*data\.train") as caught:
        load.load_articles(DataConfig(source="a/b"), "train")
    assert "\n" not in str(caught.value)


def test_the_newswire_needs_a_number():
    with pytest.raises(ValueError, match=r"set data\.train_examples to a number"):
        DataConfig(train_examples=None)
    split = load.load_articles(DataConfig(train_examples=3, max_rejected=1), "train")
    assert (len(split.articles), len(split.spare)) == (3, 0)


def test_the_newswire_gives_what_is_asked():
    split = load.load_articles(DataConfig(test_examples=5), "test")
    assert len({a.id for a in split.articles}) == len(split.articles) == split.rows_read == 5
    assert split.source == "newswire"


def test_what_is_written_reads_back_equal(tmp_path):
    articles = [Article("1", "a\nb\t“c”", "s\nt"), Article("2", "\U0001f600", "x")]
    article_store.write_split(articles, tmp_path / "data" / "train.parquet")
    assert article_store.read_split(tmp_path / "data" / "train.parquet") == articles
    columns = pq.read_schema(tmp_path / "data" / "train.parquet").names
    assert columns == ["id", "article", "highlights"]


@pytest.mark.skipif(not SHARED.exists(), reason=f"{SHARED} is not there")
def test_real_articles_keep_their_wording():
    path = SHARED / "cnndm-train-100.parquet"
    split = load.load_articles(of(str(path), train_examples=None), "train")
    originals = {row["id"]: row for row in pq.read_table(path).to_pylist()}
    assert len(split.articles) == 100
    for a in split.articles:
        assert a.article.split() == originals[a.id]["article"].split()
        assert a.reference == originals[a.id]["highlights"].replace("\xa0", " ").strip()


def test_neither_torch_nor_datasets_is_imported_for_local_files(tmp_path):
    path = jsonl(tmp_path / "a.jsonl", rows(3))
    code = (
        "import sys; from nutgraf.data import data_card, load\n"
        "from nutgraf.config import DataConfig\n"
        f"c = DataConfig(train={path!r}, validation={path!r}, test={path!r})\n"
        "data_card.build_card({'train': load.load_articles(c, 'train')})\n"
        "print([m for m in ('torch', 'transformers', 'datasets') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
