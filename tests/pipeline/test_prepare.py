"""The prepare stage: what it leaves in the run folder, and when it does so again."""

import json
import shutil
import weakref
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, PreTrainedTokenizerFast

from nutgraf.config import Config
from nutgraf.config.load import build_config
from nutgraf.core.errors import UserError
from nutgraf.core.files import read_json, read_records
from nutgraf.data import article_store, data_card, load, sources
from nutgraf.data.prompts import Frame, Renderer
from nutgraf.data.token_store import TokenFile
from nutgraf.modeling.load import load_tokenizer
from nutgraf.pipeline import artifacts
from nutgraf.pipeline.runner import run_stage
from nutgraf.storage.run_folder import RunFolder


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A base without weights, whose tokenizer has one token a byte."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(["</s>", *letters])}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    folder = tmp_path_factory.mktemp("base")
    PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>").save_pretrained(folder)
    LlamaConfig(vocab_size=len(vocabulary)).save_pretrained(folder)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "model.safetensors").touch()  # a base has weights, which no test here reads
    return str(folder)


def study(tmp_path: Path, base: str, **prompt: int | str) -> tuple[Config, RunFolder]:
    path = tmp_path / "news.jsonl"
    if not path.exists():
        rows = [{"article": "a" * 50 * i, "highlights": "b" * 10} for i in range(1, 5)]
        rows.append({"id": "none", "article": "", "highlights": "x"})
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = build_config(
        {
            "run": str(tmp_path / "run"),
            "data": {
                **dict.fromkeys(sources.SPLITS, str(path)),
                "allow_overlap": True,
                "max_rejected": 0.2,
            },
            "model": {"base": base},
            "prompt": {"max_tokens": 200, "max_article_tokens": 120} | prompt,
        }
    )
    return config, RunFolder(config.run)


def test_articles_and_card_are_made_once(tmp_path, base):
    config, folder = study(tmp_path, base)
    assert run_stage("prepare", config, folder)
    for split in sources.SPLITS:
        assert len(article_store.read_split(folder.data(split))) == 4
    card = read_json(folder / "data" / "card.json")
    train = card["splits"]["train"]
    assert (train["rows_read"], train["rejected"]) == (5, {"article empty": 1})
    # Articles of 51, 101, 151 and 201 tokens with their space; two are cut to 120.
    tokens = train["tokens"]
    assert (tokens["rows_trimmed"], tokens["tokens_trimmed"]) == (2, 31 + 81)
    assert (tokens["article_mean"], tokens["summary_mean"]) == (126.0, 12.0)
    assert tokens["row_longest"] <= 200
    assert any(line.startswith("OVERLAP") for line in card["warnings"])
    left_out = {"row": 5, "id": "none", "reason": "article empty", "detail": ""}
    assert read_records(folder / "data" / "rejects.jsonl") == [
        {"split": split, **left_out} for split in sources.SPLITS
    ]
    assert not run_stage("prepare", config, folder)
    assert run_stage("prepare", config, folder, force=True)


def test_a_changed_file_or_setting_is_read_again(tmp_path, base):
    config, folder = study(tmp_path, base)
    run_stage("prepare", config, folder)
    with Path(config.data.train).open("a") as file:
        file.write('{"article": "new", "highlights": "n"}\n')
    assert run_stage("prepare", config, folder)
    assert len(article_store.read_split(folder.data("train"))) == 5
    shorter, _ = study(tmp_path, base, max_article_tokens=60)
    assert run_stage("prepare", shorter, folder)
    assert read_json(folder / "data" / "card.json")["splits"]["test"]["tokens"]["rows_trimmed"] == 3


def test_what_is_stored_are_the_ids_that_are_served_and_trained_on(tmp_path, base):
    config, folder = study(tmp_path, base, max_tokens=140)
    run_stage("prepare", config, folder)
    renderer = Renderer(load_tokenizer(config.model), config.prompt)
    shorter = 0
    for split in sources.SPLITS:
        stored = TokenFile(folder.tokens(split))
        texts = article_store.read_split(folder.data(split))
        assert len(stored) == len(texts) == 4
        for ids, article in zip(stored.first(), texts, strict=True):
            example = renderer.example(article.article, article.reference)
            assert ids.prompt == renderer.prompt(article.article)
            assert ids.example == example
            shorter += ids.prompt.ids != example.input_ids[: example.prompt_tokens]
    assert shorter > 0


def test_an_article_is_tokenized_once(tmp_path, base, monkeypatch):
    config, folder = study(tmp_path, base)
    tokenized: list[str] = []
    ids = Renderer._article

    def counted(self: Renderer, article: str) -> list[int]:
        tokenized.append(article)
        return ids(self, article)

    monkeypatch.setattr(Renderer, "_article", counted)
    run_stage("prepare", config, folder)
    drawn = [a.article for s in sources.SPLITS for a in article_store.read_split(folder.data(s))]
    assert sorted(tokenized) == sorted(drawn)


def test_what_was_drawn_is_on_the_disk_twice_for_one_split_at_a_time(tmp_path, base, monkeypatch):
    config, folder = study(tmp_path, base)
    copies: weakref.WeakSet[article_store.Spool] = weakref.WeakSet()
    there: list[int] = []
    build = data_card.build_card

    def spool(place: Path | None) -> article_store.Spool:
        there.append(len(copies))
        copy = article_store.Spool(place)
        copies.add(copy)
        return copy

    def card(splits: dict[str, load.Split]) -> dict[str, object]:
        there.append(len(copies))
        return build(splits)

    monkeypatch.setattr(load, "Spool", spool)
    monkeypatch.setattr(data_card, "build_card", card)
    run_stage("prepare", config, folder)
    first, *later, end = there
    assert (first, end) == (0, 0)
    assert len(later) == 2
    assert max(later) <= 1


def test_another_tokenizer_or_prompt_makes_other_ids(tmp_path, base):
    own = tmp_path / "base"
    shutil.copytree(base, own)
    config, folder = study(tmp_path, str(own))
    run_stage("prepare", config, folder)
    assert not run_stage("prepare", config, folder)
    file = own / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "model_max_length": 77}))
    (data,) = artifacts.prepare(config, folder)
    assert "tokenizer_files was" in str(data.outdated)
    assert run_stage("prepare", config, folder)
    assert not run_stage("prepare", config, folder)


def test_a_template_that_writes_the_time_is_rendered_once_a_study(tmp_path, base, caplog):
    own = shutil.copytree(base, tmp_path / "base")
    template = own / "chat_template.jinja"
    template.write_text(
        "{{ strftime_now('%S.%f') }}{{ messages[0].content }} {{ range(9)|random }}:"
    )
    config, folder = study(tmp_path, str(own), template="chat")
    run_stage("prepare", config, folder)
    first = folder.frame
    assert "the chat template writes the time" in caplog.text
    with Path(config.data.train).open("a") as file:
        file.write('{"article": "new", "highlights": "n"}\n')
    run_stage("prepare", config, folder)
    assert folder.frame == first
    renderer = Renderer(load_tokenizer(config.model), config.prompt, Frame(*first))
    texts = article_store.read_split(folder.data("test"))
    for ids, article in zip(TokenFile(folder.tokens("test")).first(), texts, strict=True):
        assert ids.prompt == renderer.prompt(article.article)
    template.write_text("{{ strftime_now('%S') }} {{ messages[0].content }} now:")
    (data,) = artifacts.prepare(config, folder)
    assert "chat_template was" in str(data.outdated)
    run_stage("prepare", config, folder)
    assert folder.frame[1] == " now:"
    asked, _ = study(tmp_path, str(own), template="chat", request="Sum up:")
    run_stage("prepare", asked, folder)
    assert folder.frame[0].endswith(" Sum up:")


def test_summaries_that_cannot_fit_are_a_mistake_where_they_are_many(tmp_path, base):
    config, folder = study(tmp_path, base, max_tokens=32, max_article_tokens=5)
    said = (
        r"4 of 4 drawn test articles are rejected, more than 20%: 4 summary too long; the first is "
        r"row \d \('test-00000\d'\): .*, summary is 12 tokens, .*raise prompt.max_tokens"
    )
    with pytest.raises(UserError, match=said):
        run_stage("prepare", config, folder)
    assert not (folder / "data").exists()


def test_a_summary_that_cannot_fit_is_counted_where_it_is_one_of_many(tmp_path, base):
    rows = [{"id": f"{i}", "article": f"a{i}", "highlights": "b" * 10} for i in range(30)]
    rows[7]["highlights"] = "b" * 300
    (tmp_path / "news.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config, folder = study(tmp_path, base)
    run_stage("prepare", config, folder)
    assert "7" not in {a.id for a in article_store.read_split(folder.data("train"))}
    card = read_json(folder / "data" / "card.json")
    assert card["splits"]["train"]["rejected"] == {"summary too long": 1}
    assert any("rows rejected: 1 summary too long" in line for line in card["warnings"])
    fewer = config.model_copy(
        update={"data": config.data.model_copy(update={"train_examples": 28})}
    )
    run_stage("prepare", fewer, folder)
    assert len(article_store.read_split(folder.data("train"))) == 28


def test_a_study_that_is_moved_with_its_files_is_not_made_again(tmp_path, base):
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    rows = [{"id": f"{i}", "article": f"a{i}", "highlights": "b" * 10} for i in range(30)]
    (here / "news.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    shutil.copytree(base, here / "base")
    config, folder = study(here, str(here / "base"))
    assert run_stage("prepare", config, folder)
    shutil.copytree(here, there)
    moved, folder = study(there, str(there / "base"))
    assert not run_stage("prepare", moved, folder)
    (there / "news.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:29]))
    assert run_stage("prepare", moved, folder)
