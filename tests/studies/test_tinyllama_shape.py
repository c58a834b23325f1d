"""configs/tinyllama-cnndm.yaml on a checkpoint of TinyLlama's form, in 4 bits, on real articles."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from helpers import command
from helpers.places import ROOT
from shape import TINYLLAMA, write_checkpoint


def test_the_shipped_configuration_runs_on_the_real_shape(shared: Path, tmp_path: Path) -> None:
    base, run = tmp_path / "base", tmp_path / "run"
    write_checkpoint(base, shared / "llama-tokenizer", {**TINYLLAMA, "num_hidden_layers": 1})
    real = str(shared / "cnndm-train-100.parquet")
    settings = {
        "model.base": str(base),
        "model.revision": "null",
        "model.device": "cpu",
        "data.train": real,
        "data.validation": real,
        "data.test": real,
        "data.train-examples": "2",
        "data.validation-examples": "1",
        "data.test-examples": "2",
        "train.max-examples": "2",
        "train.micro-batch-size": "2",
        "train.gradient-accumulation-steps": "1",
        "train.eval-every": "2",
        "train.eval-examples": "1",
        "train.rounds": "0",  # nothing tells candidates of random weights apart
        "generate.candidates": "1",
        "generate.choose": "consensus",
        "search.trials": "1",
        "search.concurrent": "1",
        "search.finalists": "1",
        "search.rouge-examples": "1",
        "search.cpus-per-trial": "1",
        "search.gpus-per-trial": "0",
        "search.space": "{train.learning_rate: {low: 1.0e-4, high: 1.0e-3, log: true}}",
        "prompt.max-tokens": "320",
        "prompt.max-article-tokens": "128",
        "generate.max-new-tokens": "2",
    }
    words = [word for name, value in settings.items() for word in (f"--{name}", value)]
    config = str(ROOT / "configs" / "tinyllama-cnndm.yaml")
    command.run("run", config, "--run", str(run), *words)
    table = pd.read_csv(run / "model_comparison_results.csv").set_index("system")
    assert table.loc["baseline", "lora_r"] == 16
    assert table.loc["best", "loss"] > 0
    # Random weights know nothing: their perplexity is near the size of the vocabulary.
    assert table.loc["zero_shot", "perplexity"] > 5_000
