"""What each lever of the recipe brings: one training or decoding each, against the same baseline.

Rows are drawn once, by a seed: the last ones are held out, and every lever is measured on the same
of them, so that differences are paired. CNN's articles are easy to tell, and are as many as
`--cnn-share` says: in the whole of CNN/DailyMail a third. A lever of the decoder uses the
baseline's adapter. What has been measured stays in the folder, and is not measured again.

    python bench/recipe.py --rows cnndm-train-cased.parquet --out DIR              all levers
    python bench/recipe.py --rows cnndm-train-cased.parquet --out DIR --only zero-shot EVA
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
from levers import LEVERS, Lever

from nutgraf.config import Config
from nutgraf.config.load import load_config, with_overrides
from nutgraf.data.prompts import Renderer
from nutgraf.evaluation.indicators import SummaryJudge
from nutgraf.evaluation.rouge import score_rouge
from nutgraf.evaluation.significance import paired_difference
from nutgraf.generation.decoding import generate
from nutgraf.generation.draft import cut_sentences
from nutgraf.generation.extractive import extract_many
from nutgraf.modeling.adapters import with_adapter
from nutgraf.modeling.load import choose_device, load_base, load_tokenizer
from nutgraf.training.fit import fit_adapter
from nutgraf.training.job import TrainingJob

SHIPPED = Path(__file__).parents[1] / "configs" / "smollm2.yaml"
METRICS = ("rouge1", "rouge2", "rougeLsum")


class Arguments(argparse.Namespace):
    """The command line, and the rows and configurations that follow from it."""

    rows: Path
    out: Path
    config: Path
    examples: int
    held_out: int
    cnn_share: float
    seed: int
    table: bool

    def split(self) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
        """Return rows to train on, held-out rows, and all but these as the file has them."""
        file = pd.read_parquet(self.rows)
        rows = with_share(file, self.cnn_share).sample(frac=1, random_state=self.seed)
        held_out, training = rows[-self.held_out :], rows[: -self.held_out]
        is_held_out = file["article"].isin(held_out["article"])
        return training, held_out, file[~is_held_out].sample(frac=1, random_state=self.seed)

    def config_of(self, lever: Lever, seed: int) -> Config:
        """Return the configuration with a lever's settings and `--examples`."""
        examples = {
            "train.max_examples": self.examples,
            "train.eval_every": self.examples,
            "train.seeds": [seed],
        }
        return with_overrides(load_config(self.config, {}), examples | lever.settings)


def command_line(description: str | None, needs_rows: bool = True) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--rows", type=Path, required=needs_rows, help="Parquet: article, highlights"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of adapters and scores")
    parser.add_argument(
        "--config", type=Path, default=SHIPPED, help="configuration of the baseline"
    )
    parser.add_argument("--examples", type=int, default=640, help="articles of each training")
    parser.add_argument("--held-out", type=int, default=217, help="articles that are summarized")
    parser.add_argument("--cnn-share", type=float, default=0.3, help="of articles that CNN wrote")
    parser.add_argument("--seed", type=int, default=1, help="of adapter, order and split")
    parser.add_argument("--table", action="store_true", help="measure nothing, print the table")
    return parser


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--write", type=Path, help="write the rows with that share here, and end")
    parser.add_argument("--only", nargs="+", choices=LEVERS, default=list(LEVERS), metavar="LEVER")
    options = parser.parse_args(namespace=Arguments())
    if options.write:
        with_share(pd.read_parquet(options.rows), options.cnn_share).to_parquet(options.write)
        return
    training, held_out, others = options.split()
    for name in () if options.table else options.only:
        if not (options.out / f"{name}.json").exists():
            lever = LEVERS[name]
            config = options.config_of(lever, options.seed)
            rows = lever.rows(others if lever.as_they_are else training)
            measure(name, lever, config, rows, held_out, options.out)
    print_table(options.out, held_out)


def with_share(rows: pd.DataFrame, share: float) -> pd.DataFrame:
    """Return all rows that are not CNN's, and as many of CNN's as make up this share."""
    is_cnn = rows["article"].str[:200].str.contains(r"\(CNN|CNN\)")
    others = rows[~is_cnn]
    cnn = rows[is_cnn].sample(round(len(others) * share / (1 - share)), random_state=1)
    drawn = pd.concat([others, cnn]).sample(frac=1, random_state=1)
    return drawn.reset_index(drop=True)


def measure(
    name: str,
    lever: Lever,
    config: Config,
    training: pd.DataFrame,
    held_out: pd.DataFrame,
    out: Path,
) -> None:
    """Write what a lever gives on each held-out article to `out`/NAME.json."""
    renderer = Renderer(load_tokenizer(config.model), config.prompt)
    decodes = [key.startswith("generate.") for key in lever.settings]
    folder = out / ("baseline" if decodes and all(decodes) else name)
    folder.mkdir(parents=True, exist_ok=True)
    record: dict[str, Any] = {}
    if not name.startswith("zero-shot"):
        record = _train(config, renderer, lever, training, held_out, folder)
    adapter = folder / "adapter" if record else None
    base = load_base(config.model)
    with with_adapter(base, adapter) if adapter else contextlib.nullcontext(base) as model:
        started = time.perf_counter()
        prompts = [renderer.prompt(article).ids for article in held_out["article"]]
        tokenizer, device = load_tokenizer(config.model), choose_device(config.model)
        written = generate(model, tokenizer, prompts, config.generate, device)
        summaries = {i: candidates.written[0] for i, candidates in written}
        record["writing_seconds"] = time.perf_counter() - started
    rows = [summaries[i] for i in range(len(prompts))]
    cut = [cut_sentences(renderer.text(s.ids), s.finish_reason, config.generate) for s in rows]
    texts = [text for text, _ in cut]
    record |= {
        "texts": texts,
        "ended": float(np.mean([s.finish_reason == "stop" for s in summaries.values()])),
        "words": float(np.mean([len(text.split()) for text in texts])),
        "scores": _scores(held_out, texts),
    }
    (out / f"{name}.json").write_text(json.dumps(record), encoding="utf-8")
    print(_line(name, record, None, held_out), flush=True)


def _train(
    config: Config,
    renderer: Renderer,
    lever: Lever,
    training: pd.DataFrame,
    held_out: pd.DataFrame,
    folder: Path,
) -> dict[str, Any]:
    """Train an adapter into `folder`, or read what its training gave if it is there."""
    path = folder / "training.json"
    if not path.exists():
        encode = lambda part: [*map(renderer.example, part["article"], part["highlights"])]  # noqa: E731
        rows = encode(training)
        job = TrainingJob(config, rows, encode(held_out), folder / "adapter", "recipe")
        with lever.patch(rows):
            result = fit_adapter(job)
        seconds = result.history.seconds
        path.write_text(json.dumps({"loss": result.best.loss, "training_seconds": seconds}))
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return record


def _scores(held_out: pd.DataFrame, texts: Sequence[str]) -> list[list[float]]:
    """Return ROUGE-1, -2 and -Lsum of each text."""
    scores = map(score_rouge, held_out["highlights"], texts)
    return [[row[metric] for metric in METRICS] for row in scores]


def indicators_of(held_out: pd.DataFrame, texts: Sequence[str]) -> pd.DataFrame:
    """Return the indicators of each text, and `unsupported`: names and numbers together."""
    rows = zip(held_out["article"], held_out["highlights"], texts, strict=True)
    marks = pd.DataFrame([SummaryJudge(a, r).indicators(text) for a, r, text in rows])
    return marks.assign(unsupported=marks["unsupported_names"] + marks["unsupported_numbers"])


def print_table(out: Path, held_out: pd.DataFrame) -> None:
    """Print a line of Markdown for lead-3 and for each lever that has been measured."""
    pairs = zip(held_out["article"], held_out["highlights"], strict=True)
    lead = extract_many("lead3", list(pairs))
    records = {"lead-3": {"scores": _scores(held_out, lead)}}
    paths = {lever: out / f"{lever}.json" for lever in LEVERS}
    records |= {n: json.loads(p.read_text("utf-8")) for n, p in paths.items() if p.exists()}
    print(f"\nn = {len(held_out)} held-out articles; the difference is in ROUGE-Lsum, paired\n")
    columns = "lever|ROUGE-1/2/Lsum|against the baseline|loss|words|ended|repeat|unsupported|s"
    print(f"| {columns.replace('|', ' | ')} |\n|" + "---|" * (columns.count("|") + 1))
    for lever, record in records.items():
        print(_line(lever, record, records.get("baseline"), held_out))


def _line(
    lever: str,
    record: dict[str, Any],
    baseline: dict[str, Any] | None,
    held_out: pd.DataFrame,
) -> str:
    means = " / ".join(f"{mean:.2f}" for mean in np.mean(record["scores"], axis=0))
    against = ""
    if baseline and lever != "baseline":
        own, others = (np.array(r["scores"])[:, 2] for r in (record, baseline))
        d = paired_difference(own, others, resamples=10_000, seed=1)
        against = f"{d.mean:+.2f} ({d.low:+.2f} to {d.high:+.2f})"
    if lever == "lead-3":
        return f"| {lever} | {means} | {against} | | | | | | |"
    marks = indicators_of(held_out, record["texts"]) > 0
    repeat, unsupported = (marks[name].mean() for name in ("repeated_sentences", "unsupported"))
    loss = f"{record['loss']:.4f}" if "loss" in record else ""
    seconds = f"{record.get('training_seconds', 0):.0f} + {record['writing_seconds']:.0f}"
    shares = f"{record['words']:.1f} | {record['ended']:.0%} | {repeat:.1%} | {unsupported:.0%}"
    return f"| {lever} | {means} | {against} | {loss} | {shares} | {seconds} |"


if __name__ == "__main__":
    main()
