"""Baseline, best and further seeds, trained together, are what they are alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from safetensors.torch import load_file

from nutgraf.config import Config, load
from nutgraf.core.errors import Failure
from nutgraf.core.files import write_json
from nutgraf.pipeline import artifacts
from nutgraf.pipeline.runner import run_stage
from nutgraf.planning.packing import Choice
from nutgraf.storage.run_folder import RunFolder

NAMES = ("baseline", "best", "baseline-seed-8", "best-seed-8")
STORY = "On day {0} the council of town {0} met and spoke of {1}. It went on. It went on."


@pytest.fixture
def study(tiny_base: Path, tmp_path: Path) -> Any:
    """Settings, and a folder where all is done up to the search."""
    for split, rows in (("train", 40), ("validation", 8), ("test", 4)):
        lines = [
            {"article": STORY.format(f"{split}-{n}", "roads" * (1 + n % 3)), "highlights": f"{n}!"}
            for n in range(rows)
        ]
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))

    def prepared(name: str, best: dict[str, Any], **search: Any) -> tuple[Config, RunFolder]:
        settings = load.build_config(
            {
                "data": {s: str(tmp_path / f"{s}.jsonl") for s in ("train", "validation", "test")}
                | {"train_examples": 40, "validation_examples": 8, "test_examples": 4},
                "model": {"base": str(tiny_base), "dtype": "fp32", "device": "cpu"},
                "prompt": {"max_tokens": 200, "max_article_tokens": 120},
                "lora": {"r": 4, "alpha": 8, "dropout": 0.1},
                "train": {
                    "max_examples": 32, "micro_batch_size": 2, "gradient_accumulation_steps": 2,
                    "learning_rate": 5e-3, "eval_every": 16, "eval_examples": 8, "seeds": [3, 8],
                },
                "search": search,
                "tracking": {"to": []},
            }
        )  # fmt: skip
        folder = RunFolder(tmp_path / name)
        run_stage("prepare", settings, folder)
        (artefact,) = artifacts.search(settings, folder)
        with artefact.writing() as scratch:
            (scratch / "search").mkdir()
            (scratch / "search" / "best.yaml").write_text(yaml.safe_dump(best))
            (scratch / "search" / "trials.csv").write_text("trial,chosen\n1,True\n")
            write_json(scratch / "search" / "together.json", Choice(True, "measured", 2).record())
        return settings, folder

    return prepared


BEST = {"lora.r": 2, "train.learning_rate": 1e-2, "train.gradient_accumulation_steps": 4}


@pytest.mark.parametrize("asked", ["on", "auto"])
def test_all_of_them_are_what_they_are_alone(study: Any, asked: str, capsys: Any) -> None:
    """`auto` does what the search found."""
    alone, there = study("alone", BEST, together="off", concurrent=1)
    run_stage("train", alone, there)
    assert "trained together" not in capsys.readouterr().err
    settings, folder = study("together", BEST, together=asked)
    assert run_stage("train", settings, folder)
    assert "baseline, best, baseline-seed-8, best-seed-8: trained tog" in capsys.readouterr().err
    for name in NAMES:
        one, other = (f / "models" / name for f in (there, folder))
        tables = [pd.read_csv(x / "history.csv").drop(columns="seconds") for x in (one, other)]
        pd.testing.assert_frame_equal(*tables, atol=1e-4)
        weights = [load_file(x / "adapter_model.safetensors") for x in (one, other)]
        assert weights[0].keys() == weights[1].keys()
        for key, weight in weights[0].items():
            assert (weight - weights[1][key]).abs().max() < 1e-4
        records = [json.loads((x / "train.json").read_text()) for x in (one, other)]
        for record in records:
            for measured in ("seconds", "peak_memory_bytes", "peak_memory_gb"):
                record.pop(measured, None)
        assert records[0]["lora_r"] == (2 if name.startswith("best") else 4)
    assert not run_stage("train", settings, folder)


def test_one_that_fails_takes_nothing_of_the_others(study: Any) -> None:
    wild = {"train.learning_rate": 1e30}
    settings, folder = study("a", wild, together="on")
    with pytest.raises(Failure, match=r"lower train\.learning_rate"):
        run_stage("train", settings, folder)
    adapter_file = Path("models", "baseline", "adapter_model.safetensors")
    before = (folder / ".making" / "models.baseline" / adapter_file).stat()
    settings, folder = study("a", BEST, together="on")
    assert run_stage("train", settings, folder)
    assert (folder / adapter_file).stat().st_mtime_ns == before.st_mtime_ns
    assert all((folder / "models" / name / "train.json").exists() for name in NAMES)
