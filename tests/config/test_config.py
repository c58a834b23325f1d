"""The configuration: typed, nothing unknown accepted, errors that name what to change."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.places import CONFIGS
from pydantic import ValidationError

from nutgraf.config import Config, RivalConfig
from nutgraf.config.load import (
    ConfigError,
    build_config,
    load_config,
    load_config_values,
    setting_fields,
    to_yaml,
    with_overrides,
)
from nutgraf.config.types import Choices, Range
from nutgraf.core.errors import UserError


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "c.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def changed(one: Config, other: Config) -> set[str]:
    """Dotted names of the fields that differ."""
    a, b = one.model_dump(), other.model_dump()
    return {
        f"{section}.{name}"
        for section in a
        if isinstance(a[section], dict)
        for name in a[section]
        if a[section][name] != b[section][name]
    } | ({"run"} if one.run != other.run else set())


# What is read.


def test_the_defaults_are_the_pocket_study():
    assert load_config(None) == build_config({}) == load_config(CONFIGS / "pocket.yaml")
    assert with_overrides(Config(), {"lora.r": 16}) == Config()


def test_a_shipped_configuration_goes_by_its_name_unless_a_file_has_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pocket").mkdir()
    assert load_config(Path("pocket")) == build_config({})
    assert load_config(Path("tinyllama-cnndm")) == load_config(CONFIGS / "tinyllama-cnndm.yaml")
    (tmp_path / "tinyllama-cnndm").write_text("search: {trials: 9}")
    assert load_config(Path("tinyllama-cnndm")).search.trials == 9
    with pytest.raises(ConfigError, match=r"^pockt does not exist: .* original-notebook or pocket"):
        load_config(Path("pockt"))


# cluster.yaml is for Ray's launcher: tests/parallel/test_scale.py.
STUDIES = sorted({*CONFIGS.glob("*.yaml")} - {CONFIGS / "cluster.yaml"})


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.name)
def test_every_shipped_file_loads_and_opens_with_its_command(path):
    config = load_config(path)
    text = path.read_text(encoding="utf-8")
    assert f"#   nutgraf run configs/{path.name}" in text.split("\nrun:")[0]
    assert Path(config.run).name == path.stem


def test_the_shipped_settings():
    big = load_config(CONFIGS / "tinyllama-cnndm.yaml")
    assert (big.model.base, big.data.source, big.data.name) == (
        "TinyLlama/TinyLlama-1.1B-Chat-v1.0",
        "abisee/cnn_dailymail",
        "3.0.0",
    )
    assert (big.model.quantization, big.model.double_quantization) == ("nf4", True)
    assert (big.lora.r, big.lora.alpha, big.lora.target_modules) == (16, 32, "all-linear")
    assert big.prompt.max_tokens == 1024
    assert big.model.dtype == "auto"  # a T4 computes in fp16, a CPU cannot
    original = load_config(CONFIGS / "original-notebook.yaml")
    assert original.prompt.max_tokens == 256
    assert original.lora.model_dump() == {
        "r": 8,
        "alpha": 16.0,
        "dropout": 0.1,
        "target_modules": ("q_proj", "v_proj"),
    }
    train = original.train
    assert (train.micro_batch_size, train.max_steps, train.warmup_steps) == (1, 25, 5)
    assert (train.learning_rate, train.gradient_accumulation_steps) == (2e-4, 8)
    assert train.weight_decay == 0.01
    assert original.search.trials == 4
    assert original.search.space == {
        "train.learning_rate": Range(low=1e-4, high=5e-4, log=True),
        "train.gradient_accumulation_steps": Choices(choices=(4, 8, 16)),
        "train.weight_decay": Range(low=1e-3, high=1e-1, log=True),
    }
    assert big.data.revision
    assert big.model.revision
    assert "PLANNED, NOT MEASURED" in (CONFIGS / "tinyllama-cnndm.yaml").read_text("utf-8")


@pytest.mark.parametrize("path", [None, *STUDIES], ids=str)
def test_what_is_saved_reads_back_equal(tmp_path, path):
    config = load_config(path)
    assert load_config(written(tmp_path, to_yaml(config))) == config


def test_an_empty_file_is_the_defaults(tmp_path):
    assert load_config(written(tmp_path, "# nothing\n")) == build_config({})


@pytest.mark.parametrize("text", ["2e-4", "2.0e-4", "0.0002", "2E-4"])
def test_a_number_in_any_spelling(tmp_path, text):
    file = load_config(written(tmp_path, f"train:\n  learning_rate: {text}\n"))
    assert file.train.learning_rate == 2e-4
    assert load_config(None, {"train.learning_rate": text}) == file
    space = f"search:\n  space:\n    train.learning_rate: {{low: {text}, high: 1e-2, log: true}}\n"
    assert load_config(written(tmp_path, space)).search.space == {
        "train.learning_rate": Range(low=2e-4, high=1e-2, log=True)
    }


# Paths.

PATHS = ("run", "storage", "model.base", "data.source", "data.train", "data.validation",
         "data.test", "rivals.x.model", "rivals.x.file")  # fmt: skip


def value(config: Config, name: str) -> str:
    """Of the setting `name`, as a person gives it."""
    part: Any = config.model_dump()
    for key in name.split("."):
        part = part[key]
    return part


def with_path(name: str, path: Any) -> dict[str, Any]:
    """Settings with a path in one of them, and what goes with it."""
    splits = ("train", "validation", "test")
    others = {f"data.{split}": "/other" for split in splits} if name[5:] in splits else {}
    return {**others, name: path}


def test_every_setting_that_is_a_path_is_among_these():
    words = re.compile(r"\bfolder|\bfile\b|\.jsonl")
    said = {name for name, text, _ in setting_fields() if words.search(text)}
    columns = {"data.id_column", "data.split_column", "rivals.NAME.id", "rivals.NAME.summary"}
    assert said - columns == {name.replace(".x.", ".NAME.") for name in PATHS}


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("path", ["in/here", "./in/here", "in/../in/here", "~/in/here", "in/[x] y"])
def test_a_path_is_that_of_the_folder_in_which_the_study_began(monkeypatch, tmp_path, name, path):
    for folder in ("in/here", "in/[x] y"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    values = with_path(name, path)
    config = load_config_values(None, values)
    right = str(tmp_path / ("in/[x] y" if "[" in path else "in/here"))
    assert value(config, name) == right
    assert value(load_config_values(None, with_path(name, Path(path))), name) == right
    assert load_config(written(tmp_path, to_yaml(config))) == config
    assert load_config(None, {key: json.dumps(text) for key, text in values.items()}) == config
    saved = written(tmp_path, to_yaml(config))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert load_config(saved) == config  # a run folder's configuration, from another folder
    assert with_overrides(config, {"lora.r": 2}).model_dump() | {"lora": 0} == (
        config.model_dump() | {"lora": 0}
    )


def test_a_link_stays_a_link_and_is_followed_before_two_dots(monkeypatch, tmp_path):
    (tmp_path / "far" / "deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "far" / "deep")
    monkeypatch.chdir(tmp_path)
    assert load_config(None, {"model.base": "./link"}).model.base == str(tmp_path / "link")
    (tmp_path / "far" / "base").mkdir()
    base = load_config(None, {"model.base": "link/../base"}).model.base
    assert Path(base).samefile(tmp_path / "far" / "base")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("model.base", "pocket"), ("model.base", "gpt2"), ("model.base", "someone/some.model-1b"),
        ("data.source", "newswire"), ("data.source", "abisee/cnn_dailymail"),
        ("rivals.x.model", "facebook/bart-large-cnn"), ("storage", "s3://bucket/studies"),
        ("storage", "memory://x"),
    ],
)  # fmt: skip
def test_a_name_stays_a_name(monkeypatch, tmp_path, name, text):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pocket").mkdir()
    (tmp_path / "newswire").mkdir()
    assert value(load_config(None, {name: text}), name) == text


@pytest.mark.parametrize("base", ["a/b/c", "./gpt2", "../gpt2", "~/gpt2", "someone/[x]", "a b"])
def test_what_cannot_be_an_id_of_the_hub_is_a_path_even_if_nothing_is_there(base):
    assert Path(load_config(None, {"model.base": base}).model.base).is_absolute()


@pytest.mark.parametrize("name", ["run", "storage", "data.train", "rivals.x.file", "model.base"])
def test_for_a_cluster_seen_from_outside_a_path_is_given_from_the_root(name):
    at = {"ray.address": "ray://head:10001", "run": "/srv/study", "storage": "/srv/storage"}
    with pytest.raises(ConfigError, match=r"read on a cluster \(ray.address\): give an absolute"):
        load_config_values(None, {**at, **with_path(name, "./rows")})
    whole = load_config_values(None, {**at, **with_path(name, "/srv/rows")})
    assert value(whole, name) == "/srv/rows"


@pytest.mark.parametrize("folder", ["2026", "~", "[x]", "a: b", "null", "1e3", "'q", "#x"])
def test_a_run_folder_on_the_command_line_is_text_as_it_stands(monkeypatch, tmp_path, folder):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    expected = tmp_path if folder == "~" else tmp_path / folder
    assert load_config(None, run=folder).run == str(expected)


@pytest.mark.parametrize(
    "text",
    ["Summarize the article:", "Write: # 3 lines", "[INST] Sum up", "null", "Résumez :", "12"],
)
def test_a_request_on_the_command_line_is_text_as_it_stands(tmp_path, text):
    config = load_config(None, {"prompt.request": text})
    assert config.prompt.request == text
    assert load_config(None, {"prompt.request": json.dumps(text)}) == config
    assert load_config(written(tmp_path, to_yaml(config))) == config


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "at least 1 character"),
        ("Sum up: ", "'Sum up: ' begins or ends in white space: leave that out"),
        ("  ", "white space"),
        ("Sum \ue000up:", r"holds the character '\ue000': leave it out"),
        ("Sum\tup:", r"holds the character '\t'"),
    ],
)
def test_a_request_that_would_not_stay_as_it_is_written_is_refused(text, said):
    with pytest.raises(ConfigError, match=rf"^prompt\.request.*{re.escape(said)}"):
        load_config(None, {"prompt.request": text})


# Overrides.


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("run", "runs/other"),
        ("data.seed", "1"),
        ("prompt.template", "chat"),
        ("model.double_quantization", "false"),
        ("lora.target_modules", "[o_proj]"),
        ("train.learning_rate", "1e-3"),
        ("search.trials", "9"),
        ("search.concurrent", "7"),
        ("generate.num_beams", "4"),
        ("score.resamples", "100"),
    ],
)
@pytest.mark.parametrize("path", [None, CONFIGS / "original-notebook.yaml"], ids=str)
def test_an_override_changes_one_field_and_no_sibling(path, name, text):
    assert changed(load_config(path, {name: text}), load_config(path)) == {name}


@pytest.mark.parametrize("path", [None, CONFIGS / "original-notebook.yaml"], ids=str)
def test_overriding_one_searched_field_keeps_the_others(path):
    name = "search.space.train.learning_rate"
    before = load_config(path).search.space
    after = load_config(path, {name: "{low: 1e-3, high: 2e-3}"}).search.space
    assert after == before | {"train.learning_rate": Range(low=1e-3, high=2e-3)}
    added = load_config(path, {"search.space.lora.r": "{choices: [8, 16]}"}).search.space
    assert added == before | {"lora.r": Choices(choices=(8, 16))}


def test_a_file_that_names_one_searched_field_searches_that_alone(tmp_path):
    path = written(tmp_path, "search:\n  space:\n    lora.r: {choices: [8, 16]}\n")
    assert set(load_config(path).search.space) == {"lora.r"}
    assert load_config(path).search.trials == Config().search.trials


def test_null_and_lists_are_values():
    config = load_config(None, {"train.max_examples": "null", "train.max_steps": "25"})
    assert (config.train.max_examples, config.train.max_steps) == (None, 25)


def test_replace_keeps_the_original_and_the_siblings():
    config = Config()
    other = with_overrides(config, {"train.learning_rate": 1e-3, "lora.r": 8})
    assert changed(other, config) == {"train.learning_rate", "lora.r"}
    assert config == Config()
    with pytest.raises(ConfigError, match=r"lora\.r is 0: .*greater than or equal to 1"):
        with_overrides(config, {"lora.r": 0})


def test_settings_are_immutable():
    with pytest.raises(ValidationError, match="frozen"):
        Config().train.seeds = (1,)


# Mistakes.


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("train.learning_rat", "1", r"is not a setting: did you mean 'train\.learning_rate'\?"),
        ("learning_rate", "1", r"is not a setting: did you mean 'train\.learning_rate'\?"),
        ("train", "fast", r"'train' is not a setting"),
        ("train.micro_batch_size", "four", r"train\.micro_batch_size is 'four': .*integer"),
        ("train.micro_batch_size", "2.5", r"train\.micro_batch_size is 2\.5: .*integer"),
        ("train.learning_rate", "-1", r"train\.learning_rate is -1: .*greater than 0"),
        ("train.learning_rate", "fast", r"train\.learning_rate is 'fast': .*number"),
        ("lora.dropout", "1", r"lora\.dropout is 1: .*less than 1"),
        ("score.resamples", "1000001", r"score\.resamples is 1000001: .*equal to 1000000"),
        ("score.tokenizer", "ascii", r"score\.tokenizer is 'ascii': .*'rouge-score' or 'unicode'"),
        ("train.schedule", "cosin", r"train\.schedule is 'cosin': .*'cosine'"),
        ("generate.no_repeat_ngram", "-1", r"no_repeat_ngram is -1: .*equal to 0"),
        ("generate.min_new_tokens", "96", r"min_new_tokens is 96, max_new_tokens 96: the first"),
        ("train.max_steps", "25", r"max_examples is 896 and max_steps 25: set exactly one"),
        ("train.max_examples", "null", r"None and max_steps None: set exactly one"),
        ("data.train", "a.csv", r"only train given: set data\.validation, data\.test"),
        ("prompt.max_tokens", "700", r"max_article_tokens is 736, max_tokens 700: .*lower prompt"),
        ("data.validation_examples", "8", r"train\.eval_examples is 48, .*_examples 8"),
        ("search.space.train.lr", "{low: 1, high: 2}", r"'train\.lr' cannot be searched"),
        ("search.space.lora.rank", "{choices: [8]}", r"'lora\.rank' cannot be searched"),
        ("search.space.train.seeds", "{choices: [1]}", r"'train\.seeds' cannot be searched"),
        ("search.space.lora.r", "{low: 8, high: 4}", r"low is 8\.0, high 4\.0: low must be"),
        ("search.space.lora.alpha", "{low: 0, high: 1, log: true}", r"starts above 0"),
        ("search.space.lora.r", "{choices: [8, none]}", r"lora\.r is 'none': .*integer"),
        ("search.space.lora.dropout", "{low: 0.1, high: 2}", r"lora\.dropout is 2\.0: .*than 1"),
        ("train.seeds", "[1", r"train\.seeds: '\[1' cannot be read as a value"),
    ],
)
def test_a_mistake_in_an_override_is_named(name, text, message):
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(None, {name: text})
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train:\n  learning_rat: 1\n", r"'train\.learning_rat' is not a setting: did you mean"),
        ("trian:\n  seed: 1\n", r"'trian' is not a setting: did you mean 'train'\?"),
        ("train: 5\n", r"train is 5: "),
        ("- a\n- b\n", r"c\.yaml holds a list"),
        ("train: {seed: 1\n", r"c\.yaml cannot be read: line 2: "),
        ("train:\n  seed: 1\n  seed: 2\n", r"c\.yaml cannot be read: line 2: seed stands twice"),
        (
            "train: {seed: 1}\nlora: {r: 8}\ntrain: {r: 1}\n",
            r"c\.yaml cannot be read: line 1: train stands twice",
        ),
        (
            "data:\n\tseed: 1\n",
            r"c\.yaml cannot be read: line 2: .*indent with spaces, not with tabs",
        ),
        ("run: 2024-99-99\n", r"line 1: '2024-99-99' cannot be read \(month .*text in quotes"),
        ("run: 0x_\n", r"line 1: '0x_' cannot be read"),
        (f"data: {{seed: {'9' * 5_000}}}", r"line 1: '9{40}' cannot be read \(Exceeds the limit"),
        ("a: &x [1]\nb: *x\n", r"line 1: anchors and aliases are not taken, write the value out"),
        (
            "a: !!python/object/apply:os.system [ls]\n",
            r"line 1: the tag .*os\.system' is not taken",
        ),
        ("{" * 5_000, r"c\.yaml cannot be read: nested too deeply"),
        ("? [a, b]\n: 1\n", r"line 1: found unhashable key"),
        ("1: 2\n", r"'1' is not a setting"),
        ("a: " + "x" * 100_000, r"longer than 100,000 characters: that is no configuration"),
        ("data: {source: null}\n", r"data\.source is null: text is wanted"),
        ("data: {source: ''}\n", r"data\.source is '': string should have at least 1 character"),
        ("data: {name: 3.0}\n", r"data\.name is 3\.0: text is wanted, write '\"3\.0\"'"),
        ("train: null\n", r"train is null: give its fields"),
        ("data: {seed: -1}\n", r"data\.seed is -1: .*greater than or equal to 0"),
        ("data: {seed: true}\n", r"data\.seed: true is not a number"),
        ("data: {max_rejected: 1.5}\n", r"data\.max_rejected is 1\.5: .*less than or equal to 1"),
        ("data: {allow_overlap: maybe}\n", r"data\.allow_overlap is 'maybe': .*boolean"),
        ("train: {learning_rate: .inf}\n", r"learning_rate is inf: .*finite"),
        ("train: {max_examples: 1_000_000_001}\n", r"max_examples is 1000000001: .*1000000000"),
        ("lora: {target_modules: []}\n", r"lora\.target_modules is \[\]: .*at least 1 item"),
        ("rivals: {1: {file: x}}\n", r"rivals\.1 is 1: text is wanted"),
    ],
)
def test_a_mistake_in_a_file_is_named(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(written(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_or_not_text(tmp_path):
    with pytest.raises(ConfigError, match=r"gone\.yaml does not exist"):
        load_config(tmp_path / "gone.yaml")
    path = tmp_path / "c.yaml"
    path.write_bytes(b"run: \xff\n")
    for unreadable in (path, Path("a" * 300)):
        with pytest.raises(ConfigError, match=f"{unreadable} cannot be read"):
            load_config(unreadable)


def test_several_mistakes_are_told_at_once():
    with pytest.raises(ConfigError, match=r"lora\.r is 0: .*; train\.seeds\.0 is 'x': "):
        build_config({"train": {"seeds": ["x"]}, "lora": {"r": 0}})


# Help.


def test_every_field_has_a_sentence_and_a_default():
    fields = list(setting_fields())
    assert len({name for name, _, _ in fields}) == len(fields) > 50
    for name, sentence, _ in fields:
        assert sentence.endswith("."), name
        assert len(sentence.split()) >= 2, name
    flat = yaml.safe_load(to_yaml(Config()))
    names = {
        f"{section}.{field}" if isinstance(values, dict) else section
        for section, values in flat.items()
        for field in (values if isinstance(values, dict) else [""])
    }
    rivals = {name for name, _, _ in fields if name.startswith("rivals.NAME.")}
    assert names - {"rivals"} == {name for name, _, _ in fields} - rivals
    assert rivals == {f"rivals.NAME.{field}" for field in RivalConfig.model_fields}


def test_a_rival_can_be_named_on_the_command_line():
    config = load_config(None, {"rivals.bart.model": "a/b", "rivals.bart.batch_size": "4"})
    assert (config.rivals["bart"].model, config.rivals["bart"].batch_size) == ("a/b", 4)
    with pytest.raises(ConfigError, match=r"'rivals\.bart\.modell' is not a setting"):
        load_config(None, {"rivals.bart.modell": "a/b"})


def test_variables_in_paths_are_read_as_a_shell_reads_them(tmp_path, monkeypatch):
    monkeypatch.setenv("NEWS", str(tmp_path))
    config = build_config({"run": "$NEWS/run", "model": {"base": "${NEWS}/base"}})
    assert (config.run, config.model.base) == (f"{tmp_path}/run", f"{tmp_path}/base")
    (tmp_path / "$5 ~").mkdir()
    assert build_config({"run": f"{tmp_path}/$5 ~"}).run == f"{tmp_path}/$5 ~"
    for path, said in (
        ("$NO_SUCH/run", r"\$NO_SUCH/run has \$NO_SUCH, and there is no such environment variable"),
        ("~nobody-there/run", "~nobody-there, and there is no such user: correct the path"),
    ):
        with pytest.raises(UserError, match=said):
            build_config({"run": path})
