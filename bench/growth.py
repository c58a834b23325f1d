"""How time and memory grow with the number of articles, of trials, and with the articles' length.

Each measurement is a process of its own on the embedded newswire and the pocket model. Articles are
cut short where there are many (128 tokens, summaries of 24), so that 10,000 take minutes.

    python bench/growth.py articles      100, 1,000 and 10,000, stage by stage; about 8 minutes
    python bench/growth.py trials        1 to 32 trials of 8 articles; about 6 minutes
    python bench/growth.py length        rows of 256 to 2,048 tokens; about 3 minutes
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SIZES = {
    "articles": (100, 1_000, 10_000),
    "trials": (1, 2, 4, 8, 16, 32),
    "length": (256, 512, 1_024, 2_048),
}
STAGES = {
    "articles": ("prepare", "train", "generate", "score"),
    "trials": ("search",),
    "length": ("train", "generate"),
}
SHORT, SHORT_SUMMARY = 128, 24  # tokens
LONG_ROWS = 32


def prepare(articles: int, tokens: int) -> float:
    from nutgraf.config import load
    from nutgraf.pipeline.runner import run_stage
    from nutgraf.storage.run_folder import RunFolder

    with tempfile.TemporaryDirectory() as scratch:
        settings = load.build_config({"data": {"train_examples": articles}})
        started = time.perf_counter()
        run_stage("prepare", settings, RunFolder(scratch))
        return time.perf_counter() - started


def train(articles: int, tokens: int) -> float:
    from nutgraf.config import Config, TrainConfig
    from nutgraf.training.fit import fit_adapter
    from nutgraf.training.job import TrainingJob

    rows = [example for _, example in _rows(articles, tokens)]
    settings = TrainConfig(max_examples=articles, eval_every=10 * articles, eval_examples=1)
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "out"
        job = TrainingJob(Config(train=settings), rows, rows[:1], out)
        return fit_adapter(job).history.seconds


def generate(articles: int, tokens: int) -> float:
    from nutgraf.config import GenerateConfig, ModelConfig
    from nutgraf.generation import decoding
    from nutgraf.modeling.load import choose_device, load_base, load_tokenizer

    model = ModelConfig()
    prompts = [prompt.ids for prompt, _ in _rows(articles, tokens)]
    base, tokenizer, device = load_base(model), load_tokenizer(model), choose_device(model)
    settings = GenerateConfig(max_new_tokens=SHORT_SUMMARY)
    started = time.perf_counter()
    assert len(dict(decoding.generate(base, tokenizer, prompts, settings, device))) == articles
    return time.perf_counter() - started


def score(articles: int, tokens: int) -> float:
    from nutgraf.evaluation import indicators, rouge
    from nutgraf.generation import extractive
    from nutgraf.pocket import newswire

    stories = newswire.stories("test", articles, seed=1)
    texts = extractive.extract_many("lead3", [(s.article, s.reference) for s in stories])
    started = time.perf_counter()
    rouge.score_rouge_many([s.reference for s in stories], texts)
    indicators.indicators_many(
        [(s.article, s.reference, t, "extract") for s, t in zip(stories, texts, strict=True)]
    )
    return time.perf_counter() - started


def search(trials: int, tokens: int) -> float:
    from nutgraf.config import load
    from nutgraf.search import ray_tune

    settings = load.build_config(
        {
            "train": {"max_examples": 8, "eval_every": 8, "eval_examples": 4},
            "search": {
                "trials": trials,
                "concurrent": 2,
                "space": {"train.learning_rate": {"low": 1e-3, "high": 1e-2, "log": True}},
            },
        }
    )
    rows = [example for _, example in _rows(16, 512)]
    with tempfile.TemporaryDirectory() as scratch:
        started = time.perf_counter()
        trials_run = ray_tune.run_search(settings, rows, rows[:4], Path(scratch) / "trials")
        seconds = time.perf_counter() - started
    assert [trial.status for trial in trials_run] == ["completed"] * trials, trials_run
    return seconds


def _rows(articles: int, tokens: int) -> list[tuple[Any, Any]]:
    """Prompts and training rows; long ones are filled with the stories that follow."""
    from nutgraf.config import ModelConfig, PromptConfig
    from nutgraf.data.prompts import Renderer
    from nutgraf.modeling.load import load_tokenizer
    from nutgraf.pocket import newswire

    config = PromptConfig(max_tokens=tokens, max_article_tokens=tokens - SHORT // 2)
    renderer = Renderer(load_tokenizer(ModelConfig()), config)
    stories = newswire.stories("train", articles, seed=1)
    joined = 1 + tokens // 200  # a story is over 200 tokens
    rows = []
    for i, story in enumerate(stories):
        text = "\n".join(stories[(i + k) % articles].article for k in range(joined))
        rows.append((renderer.prompt(text), renderer.example(text, story.reference)))
    return rows


def measure(stage: str, by: str, size: int) -> dict[str, float]:
    """Seconds of one stage, and the most memory of this process and of those it started."""
    work = {f.__name__: f for f in (prepare, train, generate, score, search)}[stage]
    articles, tokens = (LONG_ROWS, size) if by == "length" else (size, SHORT)
    seconds = work(articles, tokens)
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    peaks = [resource.getrusage(kind).ru_maxrss * 1024 for kind in kinds]
    return {"seconds": seconds, "peak_mb": max(peaks) / 1e6}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("by", choices=SIZES)
    parser.add_argument("--only", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        print(json.dumps(measure(options.only[0], options.by, int(options.only[1]))))
        return
    result: dict[str, dict[int, dict[str, float]]] = {}
    unit = {"articles": "article", "trials": "trial", "length": "1,000 tokens"}[options.by]
    print(f"{'stage':<10}{options.by:>10}{'seconds':>10}{f'ms a {unit}':>20}{'peak MB':>9}")
    for stage in STAGES[options.by]:
        for size in SIZES[options.by]:
            command = [sys.executable, __file__, options.by, "--only", stage, str(size)]
            printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            measured = json.loads(printed.strip().splitlines()[-1])
            result.setdefault(stage, {})[size] = measured
            each = LONG_ROWS * size / 1_000 if options.by == "length" else size
            print(
                f"{stage:<10}{size:>10,}{measured['seconds']:10.1f}"
                f"{1_000 * measured['seconds'] / each:20.1f}{measured['peak_mb']:9.0f}",
                flush=True,
            )
    print(json.dumps(result))


if __name__ == "__main__":
    main()
