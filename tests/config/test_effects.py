"""What each setting decides: a change makes that again, and nothing else."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from nutgraf.config import Config, effects
from nutgraf.config.load import ConfigError, build_config, load_config_values, setting_fields
from nutgraf.config.systems import start_of_round
from nutgraf.pipeline import artifacts
from nutgraf.storage.run_folder import RunFolder

CHANGED: dict[str, Any] = {
    "storage": "other", "data.source": "news.jsonl", "data.name": "3.0.0", "data.revision": "main",
    "data.train": "news.jsonl", "data.validation": "news.jsonl", "data.test": "news.jsonl",
    "prompt.template": "chat", "model.revision": "0" * 40, "model.quantization": "none",
    "model.dtype": "fp32", "lora.dropout": 0.1, "model.device": "cpu",
    "lora.target_modules": ["q_proj"],
    "train.max_examples": 800, "train.max_steps": 112, "train.schedule": "cosine",
    "train.warmup_steps": 3, "train.seeds": [7],
    "search.space": {"train.learning_rate": {"low": 1e-3, "high": 2e-3}},
    "search.together": "on", "search.trial_minutes": 3.0,
    "generate.choose": "support", "generate.max_sentences": 3,
    "tracking.to": [], "ray.address": "auto", "ray.workers": 3, "ray.fsdp": True,
}  # fmt: skip
OWN = [name for name, _, _ in setting_fields() if not name.startswith(("rivals.", "train.rounds"))]


def with_setting(config: Config, name: str) -> Config:
    """The configuration with another value of one setting, be it valid with the others or not."""
    section, _, field = name.rpartition(".")
    part: Any = getattr(config, section) if section else config
    other = CHANGED.get(name, value := getattr(part, field))
    if name not in CHANGED:
        other = (
            not value
            if isinstance(value, bool)
            else f"{value}+"
            if value == str(value)
            else (value / 2 if 0 < value < 1 else value + 1)
        )
    part = part.model_copy(update={field: other})
    return config.model_copy(update={section: part}) if section else part


def settings(config: Config) -> dict[str, dict[str, Any]]:
    """What decides each artefact of a study with this configuration."""
    return {
        artefact.name: json.loads(json.dumps(artefact.settings, default=str))
        for stage in artifacts.BY_STAGE.values()
        for artefact in stage(config, RunFolder(config.run))
    }


def study(**raw: Any) -> dict[str, dict[str, Any]]:
    return settings(build_config({"run": "run", **raw}))


@pytest.fixture(autouse=True)
def news(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("news.jsonl").write_text("{}\n")


def test_every_setting_has_a_row() -> None:
    assert list(effects.DECIDES) == [name for name, _, _ in setting_fields()]


@pytest.mark.parametrize("name", OWN)
def test_a_changed_setting_makes_again_what_it_decides_and_nothing_else(name: str) -> None:
    # Of a base on the Hub its name and commit stand for what is in it.
    pinned = {"base": "some/base", "revision": "1" * 40, "quantization": "nf4"}
    space = {} if name == "search.space" else {"space": {}}
    budget = {"max_examples": None, "max_steps": 96} if name == "train.max_steps" else {}
    budget["rounds"] = 1
    raw = {"run": "run", "model": pinned, "search": space, "train": budget}
    raw["facts"] = {"articles": 8}
    of_beams = name in ("generate.num_beams", "generate.length_penalty")
    decoding = {"num_beams": 2} if of_beams else {"candidates": 3, "choose": "fitted"}
    config = build_config({**raw, "generate": decoding})
    if name in ("data.validation", "data.test"):
        config = with_setting(config, "data.train")
    before, after = settings(config), settings(with_setting(config, name))
    made_again = {
        "rounds" if start_of_round(n.partition("/")[2]) and n.startswith("models/")
        else n.partition("/")[0]
        for n in before | after
        if before.get(n) != after.get(n)
    }  # fmt: skip
    decides = set(effects.DECIDES[name].split())
    described = {"final_best_model", "report"} if decides - {"report"} else decides
    assert made_again == decides | described


def test_a_further_round_makes_no_earlier_model_again() -> None:
    none, one, two = (study(train={"rounds": n}) for n in range(3))
    new = {f"{kind}/best_round1" for kind in ("models", "summaries", "scores")}
    assert one.keys() - none.keys() == new
    for before, after in ((none, one), (one, two)):
        changed = {name for name in before if before[name] != after[name]}
        assert changed == {"final_best_model", "report"}
    config = build_config({"train": {"rounds": 1}, "generate": {"candidates": 3}})
    inputs = {a.name: a.inputs for a in artifacts.generate(config, RunFolder("run"))}
    assert "summaries/best_round1" in inputs["summaries/best_chosen"]
    drawn = study(train={"rounds": 1}, generate={"seed": 7})  # of candidates
    assert {n for n in one if one[n] != drawn[n] and "best" in n} == {
        "models/best_round1", "final_best_model",
    }  # fmt: skip


def test_a_searched_setting_decides_neither_trials_nor_the_best() -> None:
    before, after = study(), study(train={"learning_rate": 1e-4})
    assert before["search"] == after["search"]
    assert before["models/baseline"] != after["models/baseline"]


def test_micro_batches_decide_a_result_by_their_product_and_their_dropout() -> None:
    def models(micro_batch: int, accumulated: int, dropout: float) -> Any:
        train = {"micro_batch_size": micro_batch, "gradient_accumulation_steps": accumulated}
        by_artefact = study(train=train, lora={"dropout": dropout}, search={"space": {}})
        return {name: by_artefact[name] for name in ("search", "models/best", "report")}

    assert models(4, 2, 0.0) == models(2, 4, 0.0)
    for one, other in (
        (models(4, 2, 0.0), models(4, 4, 0.0)),
        (models(4, 2, 0.1), models(2, 4, 0.1)),
    ):
        assert all(one[name] != other[name] for name in one)


def test_a_rival_is_what_is_in_it(tiny_base: Path) -> None:
    base = shutil.copytree(tiny_base, Path("bart"))
    Path("theirs.jsonl").write_text("{}\n")
    rivals = {"file": {"file": "theirs.jsonl"}, "bart": {"model": str(base)}}
    before = study(rivals=rivals)
    rivals["bart"]["batch_size"] = 3
    assert study(rivals=rivals) == before
    Path("theirs.jsonl").write_text('{"id": 1}\n')
    (base / "generation_config.json").write_text('{"num_beams": 4}')
    after = study(rivals=rivals)
    assert {name for name in before if before[name] != after[name]} == {
        "summaries/file", "summaries/bart",
    }  # fmt: skip


def test_a_base_in_a_folder_is_what_is_in_it(tmp_path: Path, tiny_base: Path) -> None:
    base = shutil.copytree(tiny_base, tmp_path / "base")
    moved = shutil.copytree(tiny_base, tmp_path / "moved")
    there, elsewhere = study(model={"base": str(base)}), study(model={"base": str(moved)})
    assert {name for name in there if there[name] != elsewhere[name]} == {
        "report", "final_best_model",
    }  # fmt: skip

    def changed(file: str, content: bytes | str, template: str = "chat") -> set[str]:
        """The artefacts that follow from a changed file, whose time stays."""
        raw = {"model": {"base": str(base)}, "prompt": {"template": template}}
        before, path = study(**raw), base / file
        old, times = (path.read_bytes(), path.stat()) if path.exists() else (None, None)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        if times:
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        after = study(**raw)
        path.unlink() if old is None else path.write_bytes(old)
        made_again = {n.partition("/")[0] for n in before if before[n] != after[n]}
        return made_again - {"final_best_model"}

    tokenizer = json.loads((base / "tokenizer_config.json").read_text())
    written = {"data", "search", "summaries"}  # a template says what ends an answer, too
    assert changed("chat_template.jinja", "{{ 1 }}") == written
    assert changed("chat_template.jinja", "{{ 1 }}", "plain") == written - {"data"}
    assert changed("additional_chat_templates/a.jinja", "{{ 1 }}") == written
    inline = json.dumps(tokenizer | {"chat_template": "{{ 2 }}"})
    assert changed("tokenizer_config.json", inline) == written
    limit = json.dumps(tokenizer | {"model_max_length": 9})
    assert changed("tokenizer_config.json", limit) == written
    for file in ("added_tokens.json", "special_tokens_map.json", "sentencepiece.bpe.model"):
        assert changed(file, "{}") == written, file
    assert changed("generation_config.json", '{"eos_token_id": [2, 5]}') == written - {"data"}
    config = json.loads((base / "config.json").read_text())
    trained = {"search", "models", "summaries"}
    assert changed("config.json", json.dumps(config | {"rope_theta": 5.0})) == trained
    assert changed("config.json", json.dumps(config | {"transformers_version": "9"})) == set()
    assert changed("README.md", "A base.") == set()
    weights = bytearray((base / "model.safetensors").read_bytes())
    weights[-7000] ^= 1  # one bit, between what a sample would read
    assert changed("model.safetensors", bytes(weights)) == trained


def test_a_setting_beside_which_another_has_no_effect_is_named(tmp_path):
    files = {f"data.{split}": f"/{split}.csv" for split in ("train", "validation", "test")}
    cnndm = {"data.source": "abisee/cnn_dailymail", "data.name": "3.0.0"}
    raw = {"data": {name.removeprefix("data."): value for name, value in (files | cnndm).items()}}
    assert list(effects.idle(build_config(raw))) == [
        "data.source abisee/cnn_dailymail has no effect: data.train is given",
        "data.name 3.0.0 has no effect: data.train is given",
    ]
    others = {
        "data.id_column": "key", "model.revision": "main", "model.double_quantization": False,
        "rivals.lead.file": "/lead.csv", "rivals.lead.batch_size": 3,
        "generate.length_penalty": 2.0,
    }  # fmt: skip
    lines = list(effects.idle(load_config_values(None, others)))
    assert [line.split(" has no effect")[0] for line in lines] == [
        "data.id_column key", "model.revision main", "model.double_quantization False",
        "generate.length_penalty 2.0", "rivals.lead.batch_size 3",
    ]  # fmt: skip
    assert list(effects.idle(build_config({}))) == []
    with pytest.raises(ConfigError, match=r"data.source is 'newswire', and data.train, data.val"):
        load_config_values(None, files | {"data.source": "newswire"})


def test_a_file_that_is_not_there_is_not_taken_for_other_data(tmp_path):
    folder = RunFolder(tmp_path)
    (missing,) = artifacts.prepare(build_config({"data": {"source": "/none/rows.csv"}}), folder)
    (newswire,) = artifacts.prepare(build_config({}), folder)
    assert missing.settings == newswire.settings | {"data.source": "/none/rows.csv"}


def test_a_choice_is_fitted_on_a_round_s_candidates_or_on_such_as_a_round_writes() -> None:
    fitted = {"candidates": 3, "choose": "fitted"}
    inputs = {
        rounds: {a.name: a.inputs for a in artifacts.generate(
            build_config({"train": {"rounds": rounds}, "generate": fitted}), RunFolder("run"))}
        for rounds in (0, 1)
    }  # fmt: skip
    assert inputs[0]["choice"] == ("data:train", "models/best")
    assert inputs[1]["choice"] == ("data:train", "models/best_round1", "models/best")
    for rounds, final in ((0, "best"), (1, "best_round1")):
        assert inputs[rounds]["summaries/best_chosen"] == (
            "data:test", f"summaries/{final}", "choice",
        )  # fmt: skip
        assert inputs[rounds]["summaries/best_oracle"] == ("data:test", f"summaries/{final}")
        assert "choice" not in inputs[rounds][f"summaries/{final}"]
    # Nothing that only a round or a fitted choice uses decides what has neither.
    plain, other = study(), study(preference={"articles": 9, "candidates": 4, "temperature": 0.9})
    assert plain == other
    assert study(generate=fitted)["choice"] != study(
        generate=fitted, preference={"articles": 9}
    )["choice"]  # fmt: skip
    notes = "\n".join(
        effects.idle(build_config({"generate": fitted, "preference": {"articles": 9, "beta": 1.0}}))
    )
    assert "preference.beta 1.0 has no effect" in notes
    assert "articles" not in notes


def test_a_choice_cannot_be_fitted_for_a_single_summary() -> None:
    with pytest.raises(ConfigError, match=r"'fitted' and generate\.candidates 1: .* raise the sec"):
        build_config({"generate": {"choose": "fitted"}})
