"""How long a search takes: nutgraf against the original recipe and a process for each trial.

Eight trials of the pocket model on the embedded newswire, all with the same number of articles and
none stopped early. The original's trials are processes of their own that load the model, train row
by row, evaluate twice and sample twenty summaries one by one; `a process a trial` is Ray Tune with
our own training and no worker used again.

    python bench/search.py [--trials 8] [--examples 48]
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
from typing import Any

PAIRS = 200
SAMPLED = 20


def original_trial(examples: int) -> None:
    """One trial as in the notebook, in this process."""
    import peers
    import torch

    from nutgraf.config import ModelConfig
    from nutgraf.modeling.base_files import base_source
    from nutgraf.pocket import newswire

    pairs = [(s.article, s.reference) for s in newswire.stories("train", PAIRS, seed=1)]
    with tempfile.TemporaryDirectory() as scratch:
        _, model, tokenizer = peers.original(
            Path(base_source(ModelConfig())), pairs, examples, Path(scratch) / "out"
        )
    model.eval()
    with torch.no_grad():
        for _ in range(2):
            for article, summary in pairs[:SAMPLED]:
                ids = tokenizer(
                    f"Summarize: {article}\n\nSummary: {summary}",
                    truncation=True,
                    padding="max_length",
                    max_length=peers.PADDED,
                    return_tensors="pt",
                    return_token_type_ids=False,
                )
                model(**ids, labels=ids["input_ids"])
        for article, _ in pairs[:SAMPLED]:
            ids = tokenizer(
                f"Summarize: {article}\n\nSummary:",
                truncation=True,
                max_length=peers.PADDED,
                return_tensors="pt",
                return_token_type_ids=False,
            )
            model.generate(
                **ids, max_new_tokens=100, do_sample=True, temperature=0.7, top_p=0.9,
                pad_token_id=tokenizer.pad_token_id,
            )  # fmt: skip


def original(trials: int, examples: int) -> float:
    """Seconds of the original's search: its trials one after the other."""
    command = [sys.executable, __file__, "--examples", str(examples), "--original-trial"]
    started = time.perf_counter()
    for _ in range(trials):
        subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - started


def ours(trials: int, examples: int, reuse: bool = True) -> float:
    """Seconds of nutgraf's search, from rows to trials; without `reuse` a process a trial."""
    from nutgraf.config import load
    from nutgraf.search import ray_tune

    tune = ray_tune.tune
    study = _study(trials, examples)
    train, validation = _rows(study)
    plain_config = tune.TuneConfig

    def without_reuse(**settings: Any) -> tune.TuneConfig:
        return plain_config(**{**settings, "reuse_actors": reuse})

    tune.TuneConfig = without_reuse  # type: ignore[assignment,misc]
    try:
        with tempfile.TemporaryDirectory() as scratch:
            started = time.perf_counter()
            results = ray_tune.run_search(
                load.build_config(study), train, validation, Path(scratch) / "trials"
            )
            seconds = time.perf_counter() - started
    finally:
        tune.TuneConfig = plain_config  # type: ignore[misc]
    assert [trial.status for trial in results] == ["completed"] * trials, results
    return seconds


def _study(trials: int, examples: int) -> dict[str, Any]:
    cores = os.cpu_count() or 1
    return {
        "train": {"max_examples": examples, "eval_every": examples, "eval_examples": SAMPLED},
        "search": {
            "trials": trials,
            "concurrent": cores,
            "cpus_per_trial": 1,
            "space": {"train.learning_rate": {"low": 1e-3, "high": 1e-2, "log": True}},
        },
    }


def _rows(study: dict[str, Any]) -> tuple[list[Any], list[Any]]:
    from nutgraf.config import load
    from nutgraf.data.prompts import Renderer
    from nutgraf.modeling.load import load_tokenizer
    from nutgraf.pocket import newswire

    settings = load.build_config(study)
    renderer = Renderer(load_tokenizer(settings.model), settings.prompt)
    train, validation = (
        [renderer.example(s.article, s.reference) for s in newswire.stories(split, n, seed=1)]
        for split, n in (("train", PAIRS), ("validation", SAMPLED))
    )
    return train, validation


def main() -> None:
    from nutgraf.core.console import show_log

    show_log()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--examples", type=int, default=48, help="articles of a trial")
    parser.add_argument("--original-trial", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.original_trial:
        original_trial(options.examples)
        return
    few = max(1, options.trials // 4)
    timed = {
        "original recipe": original(options.trials, options.examples),
        "Ray Tune, a process a trial": ours(options.trials, options.examples, reuse=False),
        "nutgraf": ours(options.trials, options.examples),
    }
    fewer = ours(few, options.examples)
    further = (timed["nutgraf"] - fewer) / (options.trials - few)
    print(f"\n{options.trials} trials of {options.examples} articles")
    print(f"{'':<30}{'seconds':>9}{'share':>8}")
    for name, seconds in timed.items():
        print(f"{name:<30}{seconds:9.1f}{seconds / timed['original recipe']:8.2f}")
    print(f"nutgraf, each further trial {further:.1f} s, start-up {fewer - few * further:.1f} s")
    result = {name: round(seconds, 2) for name, seconds in timed.items()}
    print(json.dumps({"seconds": result, "further_trial_seconds": round(further, 2)}))


if __name__ == "__main__":
    main()
