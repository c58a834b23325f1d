"""What each lever of the recipe brings: one training or decoding each, against the same baseline.

Rows are split once, by a seed: the last ones are held out, and every lever is measured on the same
of them, so that differences are paired. A lever of the decoder uses the baseline's adapter. What
has been measured stays in the folder, and is not measured again.

    python bench/recipe.py --rows cnndm-train-cased.parquet --out DIR              all levers
    python bench/recipe.py --rows cnndm-train-cased.parquet --out DIR --only zero-shot no-repeat-3
    python bench/recipe.py --rows cnndm-train-cased.parquet --out DIR --table      what there is
"""

from __future__ import annotations

import argparse
import contextlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nutgraf.config import Config
from nutgraf.config.load import load_config, with_overrides
from nutgraf.data.prompts import Renderer
from nutgraf.evaluation.indicators import SummaryJudge
from nutgraf.evaluation.rouge import score_rouge
from nutgraf.evaluation.significance import paired_difference
from nutgraf.generation.decoding import generate
from nutgraf.generation.extractive import extract_many
from nutgraf.modeling.adapters import with_adapter
from nutgraf.modeling.load import choose_device, load_base, load_tokenizer
from nutgraf.training.fit import fit_adapter
from nutgraf.training.job import TrainingJob

SHIPPED = Path(__file__).parents[1] / "configs" / "smollm2.yaml"
METRICS = ("rouge1", "rouge2", "rougeLsum")

# What differs from the configuration. Settings of `generate` alone need no training of their own.
LEVERS: dict[str, dict[str, Any]] = {
    "baseline": {},
    "zero-shot": {},
    "zero-shot, plain": {"prompt.template": "plain", "prompt.request": "Summarize:"},
    "zero-shot, chat": {"prompt.request": "Summarize:"},
    "plain prompt": {"prompt.template": "plain", "prompt.request": "Summarize:"},
    "chat, no length asked for": {"prompt.request": "Summarize:"},
    "repetition allowed": {"generate.no_repeat_ngram": 0},
    "no repeated 2-gram": {"generate.no_repeat_ngram": 2},
    "no repeated 4-gram": {"generate.no_repeat_ngram": 4},
    "at least 30 tokens": {"generate.min_new_tokens": 30},
    "at least 50 tokens": {"generate.min_new_tokens": 50},
    "4 beams": {"generate.num_beams": 4},
    "4 beams, length penalty 2": {"generate.num_beams": 4, "generate.length_penalty": 2.0},
    "alpha 128 (rank-stabilized)": {"lora.alpha": 128},
    "r 64, alpha 128": {"lora.r": 64, "lora.alpha": 128},
    "r 64, alpha 512 (rank-stabilized)": {"lora.r": 64, "lora.alpha": 512},
    "learning rate 3e-4": {"train.learning_rate": 3e-4},
    "learning rate 2e-3": {"train.learning_rate": 2e-3},
    "cosine": {"train.schedule": "cosine"},
    "weight decay 0.1": {"train.weight_decay": 0.1},
    "dropout 0.1": {"lora.dropout": 0.1},
    "350 tokens": {"prompt.max_article_tokens": 350, "prompt.max_tokens": 510},
    "736 tokens": {"prompt.max_article_tokens": 736, "prompt.max_tokens": 896},
    "1,024 tokens": {"prompt.max_article_tokens": 1024, "prompt.max_tokens": 1184},
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=Path, required=True, help="Parquet: article, highlights")
    parser.add_argument("--out", type=Path, required=True, help="folder of adapters and scores")
    parser.add_argument(
        "--config", type=Path, default=SHIPPED, help="configuration of the baseline"
    )
    parser.add_argument("--examples", type=int, default=640, help="articles of each training")
    parser.add_argument("--held-out", type=int, default=200, help="articles that are summarized")
    parser.add_argument("--seed", type=int, default=1, help="of adapter, order and split")
    parser.add_argument("--only", nargs="+", choices=LEVERS, default=list(LEVERS), metavar="LEVER")
    parser.add_argument("--table", action="store_true", help="measure nothing, print the table")
    options = parser.parse_args()
    rows = pd.read_parquet(options.rows).sample(frac=1, random_state=options.seed)
    held_out, training = rows[-options.held_out :], rows[: -options.held_out]
    shipped = load_config(options.config, {})
    examples = {
        "train.max_examples": options.examples,
        "train.eval_every": options.examples,
        "train.seeds": [options.seed],
    }
    options.out.mkdir(parents=True, exist_ok=True)
    for lever in () if options.table else options.only:
        if not (options.out / f"{lever}.json").exists():
            config = with_overrides(shipped, examples | LEVERS[lever])
            measure(lever, config, training, held_out, options.out)
    print_table(options.out, held_out)


def measure(
    lever: str, config: Config, training: pd.DataFrame, held_out: pd.DataFrame, out: Path
) -> None:
    """Write what a lever gives on each held-out article to `out`/LEVER.json."""
    renderer = Renderer(load_tokenizer(config.model), config.prompt)
    trains_alike = all(name.startswith("generate.") for name in LEVERS[lever])
    folder = out / ("baseline" if trains_alike else lever)
    record: dict[str, Any] = {}
    if not lever.startswith("zero-shot"):
        record = _train(config, renderer, training, held_out, folder)
    adapter = folder / "adapter" if record else None
    base = load_base(config.model)
    with with_adapter(base, adapter) if adapter else contextlib.nullcontext(base) as model:
        started = time.perf_counter()
        prompts = [renderer.prompt(article).ids for article in held_out["article"]]
        tokenizer, device = load_tokenizer(config.model), choose_device(config.model)
        summaries = dict(generate(model, tokenizer, prompts, config.generate, device))
        record["writing_seconds"] = time.perf_counter() - started
    texts = [renderer.text(summaries[i].ids) for i in range(len(prompts))]
    record |= {
        "texts": texts,
        "ended": float(np.mean([s.finish_reason == "stop" for s in summaries.values()])),
        "words": float(np.mean([len(text.split()) for text in texts])),
        "repeating": _share_repeating(held_out, texts),
        "scores": _scores(held_out, texts),
    }
    (out / f"{lever}.json").write_text(json.dumps(record), encoding="utf-8")
    print(_line(lever, record, None), flush=True)


def _train(
    config: Config, renderer: Renderer, training: pd.DataFrame, held_out: pd.DataFrame, folder: Path
) -> dict[str, Any]:
    """Train an adapter into `folder`, or read what its training gave if it is there."""
    path = folder / "training.json"
    if not path.exists():
        encode = lambda part: [*map(renderer.example, part["article"], part["highlights"])]  # noqa: E731
        job = TrainingJob(config, encode(training), encode(held_out), folder / "adapter", "recipe")
        result = fit_adapter(job)
        seconds = result.history.seconds
        path.write_text(json.dumps({"loss": result.best.loss, "training_seconds": seconds}))
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return record


def _scores(held_out: pd.DataFrame, texts: Sequence[str]) -> list[list[float]]:
    """Return ROUGE-1, -2 and -Lsum of each text."""
    scores = map(score_rouge, held_out["highlights"], texts)
    return [[row[metric] for metric in METRICS] for row in scores]


def _share_repeating(held_out: pd.DataFrame, texts: Sequence[str]) -> float:
    """Return the share of summaries that repeat a sentence."""
    rows = zip(held_out["article"], held_out["highlights"], texts, strict=True)
    repeated = [SummaryJudge(a, r).indicators(t)["repeated_sentences"] > 0 for a, r, t in rows]
    return float(np.mean(repeated))


def print_table(out: Path, held_out: pd.DataFrame) -> None:
    """Print a line of Markdown for lead-3 and for each lever that has been measured."""
    pairs = zip(held_out["article"], held_out["highlights"], strict=True)
    lead = extract_many("lead3", list(pairs))
    records = {"lead-3": {"scores": _scores(held_out, lead)}}
    paths = {lever: out / f"{lever}.json" for lever in LEVERS}
    records |= {n: json.loads(p.read_text("utf-8")) for n, p in paths.items() if p.exists()}
    print(f"\nn = {len(held_out)} held-out articles; the difference is in ROUGE-Lsum, paired\n")
    print("| lever | ROUGE-1/2/Lsum | against the baseline | loss | words | ended | repeat | s |")
    print("|---|---|---|---|---|---|---|---|")
    for lever, record in records.items():
        print(_line(lever, record, records.get("baseline")))


def _line(lever: str, record: dict[str, Any], baseline: dict[str, Any] | None) -> str:
    means = " / ".join(f"{mean:.2f}" for mean in np.mean(record["scores"], axis=0))
    against = ""
    if baseline and lever != "baseline":
        own, others = (np.array(r["scores"])[:, 2] for r in (record, baseline))
        d = paired_difference(own, others, resamples=10_000, seed=1)
        against = f"{d.mean:+.2f} ({d.low:+.2f} to {d.high:+.2f})"
    if lever == "lead-3":
        return f"| {lever} | {means} | {against} | | | | | |"
    loss = f"{record['loss']:.4f}" if "loss" in record else ""
    seconds = f"{record.get('training_seconds', 0):.0f} + {record['writing_seconds']:.0f}"
    shares = f"{record['words']:.1f} | {record['ended']:.0%} | {record['repeating']:.1%}"
    return f"| {lever} | {means} | {against} | {loss} | {shares} | {seconds} |"


if __name__ == "__main__":
    main()
