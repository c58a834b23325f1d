"""What several candidates of each article cost and bring, by rule of choice.

Articles are drawn with each `--seed`; the table is of all draws together, each article once.
Candidates are written once, into a file a draw, and not again. The first of an article is the
greedy summary. Rules that are fitted are fitted on one half of the articles and judged on the
other, both ways round.

    python bench/candidates.py --model RUN --rows FILE.parquet --out DIR --examples 200
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import torch

from nutgraf.data.prompts import Renderer
from nutgraf.evaluation.indicators import SummaryJudge
from nutgraf.evaluation.rouge import score_rouge
from nutgraf.evaluation.significance import paired_difference
from nutgraf.generation.choose import rate
from nutgraf.generation.decoding import ends_of, generation_config
from nutgraf.generation.rules import repetition_rule
from nutgraf.generation.summarizer import Summarizer, SummaryResult, load_summarizer
from nutgraf.modeling.adapters import with_adapter
from nutgraf.modeling.batching import length_batches
from nutgraf.modeling.inference import fast_inference
from nutgraf.modeling.load import choose_device, load_base, load_tokenizer
from nutgraf.modeling.losses import pad_left
from nutgraf.modeling.saved_model import SavedModel, read_saved_model

Row = dict[str, Any]
# Gets an article's row, and returns the value of each candidate.
Rule: TypeAlias = Callable[[Row], Sequence[float]]

KINDS = ("rouge1", "rouge2", "rougeLsum")
ALONE = 4  # articles that are summarized one by one
CHARACTERS = 6  # the longest sequences of chrF


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="run folder or exported model")
    parser.add_argument("--rows", type=Path, required=True, help="Parquet: article, highlights")
    parser.add_argument("--out", type=Path, required=True, help="folder of candidates")
    parser.add_argument("--examples", type=int, default=200, help="articles of each draw")
    parser.add_argument("--candidates", type=int, default=8)
    parser.add_argument("--temperature", type=float, default=0.7)
    parser.add_argument("--top-p", type=float, default=0.95)
    parser.add_argument("--beams", action="store_true", help="as many beams in place of samples")
    parser.add_argument("--batch-size", type=int, default=20, help="articles decoded together")
    parser.add_argument("--seed", type=int, nargs="+", default=[1], help="of the draws")
    options = parser.parse_args()
    drawn = "beams" if options.beams else f"t{options.temperature:g}-p{options.top_p:g}"
    options.out.mkdir(parents=True, exist_ok=True)
    draws = []
    for seed in options.seed:
        path = options.out / f"k{options.candidates}-{drawn}-seed{seed}.json"
        if not path.exists():
            write(options, seed, path)
        draws.append(json.loads(path.read_text("utf-8")))
    rows = {row["article"]: row for draw in draws for row in draw["rows"]}
    for seed, draw in zip(options.seed, draws, strict=True):
        print(f"seed {seed}: {_seconds(draw['seconds'], len(draw['rows']))}")
    print_table(list(rows.values()))


def write(options: argparse.Namespace, seed: int, path: Path) -> None:
    """Write the articles' candidates to `path`, with the seconds that they and greedy took."""
    file = pd.read_parquet(options.rows).sample(options.examples, random_state=seed)
    saved = read_saved_model(options.model)
    one = saved.generate.model_copy(
        update={"candidates": 1, "batch_size": options.batch_size, "num_beams": 1}
    )
    several = one.model_copy(
        update={
            "candidates": options.candidates,
            "temperature": options.temperature,
            "top_p": options.top_p,
        }
    )
    articles, seconds, results = file["article"].tolist(), {}, []
    for label, settings in (("greedy", one), ("candidates", several)):
        if label == "candidates" and options.beams:
            break
        with load_summarizer(dataclasses.replace(saved, generate=settings)) as summarizer:
            list(summarizer.summarize(articles[:2]))  # compiles
            seconds[label], results = _timed(summarizer, articles)
            alone = [_timed(summarizer, [article])[0] for article in articles[:ALONE]]
            seconds[f"one, {label}"] = float(np.mean(alone))
    texts = [[candidate.text for candidate in result.candidates] for result in results]
    if options.beams:
        started = time.perf_counter()
        beams = _beams(saved, articles, options)
        seconds["candidates"] = seconds["greedy"] + time.perf_counter() - started
        texts = [[result.summary, *others] for result, others in zip(results, beams, strict=True)]
    rows = [
        {"article": article, "reference": reference, "texts": of_article}
        for article, reference, of_article in zip(
            file["article"], file["highlights"], texts, strict=True
        )
    ]
    path.write_text(json.dumps({"seconds": seconds, "rows": rows}), encoding="utf-8")


def _timed(summarizer: Summarizer, articles: Sequence[str]) -> tuple[float, list[SummaryResult]]:
    started = time.perf_counter()
    results = list(summarizer.summarize(articles))
    return time.perf_counter() - started, results


def _beams(
    saved: SavedModel, articles: Sequence[str], options: argparse.Namespace
) -> list[list[str]]:
    """Return the last beams of each article, the likeliest first, without the one too many."""
    base, tokenizer = load_base(saved.model), load_tokenizer(saved.model, saved.tokenizer)
    renderer, beams = Renderer(tokenizer, saved.prompt, saved.frame), options.candidates - 1
    prompts = [renderer.prompt(article).ids for article in articles]
    device, written = choose_device(saved.model), {}
    with with_adapter(base, saved.adapter) if saved.adapter else nullcontext(base) as model:
        settings = saved.generate.model_copy(update={"num_beams": beams, "candidates": 1})
        config = generation_config(tokenizer, settings, ends_of(model))
        config.num_return_sequences = beams
        for batch in length_batches([len(ids) for ids in prompts], options.batch_size):
            ids, mask = pad_left([prompts[i] for i in batch], tokenizer.pad_token_id, device)
            with torch.no_grad(), device.autocast(), fast_inference(model, device) as cache:
                out = model.generate(
                    input_ids=ids,
                    attention_mask=mask,
                    generation_config=config,
                    logits_processor=repetition_rule(settings, tokenizer, ids.shape[1]),
                    past_key_values=cache,
                )
            new = [renderer.text(row) for row in out[:, ids.shape[1] :].tolist()]
            written |= {i: new[n * beams : (n + 1) * beams] for n, i in enumerate(batch)}
    return [written[i] for i in range(len(articles))]


def print_table(rows: Sequence[Row]) -> None:
    """Print a line of Markdown for each rule of choice."""
    for row in rows:
        scores = [score_rouge(row["reference"], text) for text in row["texts"]]
        row["scores"] = np.array([[score[kind] for kind in KINDS] for score in scores])
        judge = SummaryJudge(row["article"], row["reference"])
        row["indicators"] = [judge.indicators(text) for text in row["texts"]]
        row["ratings"] = [dataclasses.asdict(r) for r in rate(row["article"], row["texts"])]
    n, k = len(rows), len(rows[0]["texts"])
    print(f"n = {n} articles, {k} candidates\n")
    columns = "choice|ROUGE-1/2/Lsum|R-Lsum against greedy|words|unsupported|repeat|novel 2-grams"
    print(f"| {columns.replace('|', ' | ')} |\n|" + "---|" * (columns.count("|") + 1))
    greedy = [0] * n
    _line("greedy", rows, greedy, greedy)
    for name, rule in RULES.items():
        _line(name, rows, [_best(rule(row)) for row in rows], greedy)
    _line("fitted mix", rows, _fitted(rows), greedy)
    _line("oracle", rows, [_best(row["scores"][:, 2]) for row in rows], greedy)
    means = np.mean([row["scores"][1:].mean(0) for row in rows], axis=0)
    print(f"| mean of samples | {_figures(means)} | | | | | |")


def _seconds(seconds: Row, n: int) -> str:
    each = {name: value / n for name, value in seconds.items() if not name.startswith("one")}
    share = each["candidates"] / each["greedy"]
    line = (
        f"greedy {each['greedy']:.2f} an article, candidates {each['candidates']:.2f} "
        f"({share:.2f} times)"
    )
    if (several := seconds.get("one, candidates")) is None:
        return line
    one = seconds["one, greedy"]
    return f"{line}; one article alone {one:.2f} and {several:.2f} ({several / one:.2f} times)"


def _line(name: str, rows: Sequence[Row], chosen: Sequence[int], greedy: Sequence[int]) -> None:
    scores = np.array([row["scores"][i] for row, i in zip(rows, chosen, strict=True)])
    marks = [row["indicators"][i] for row, i in zip(rows, chosen, strict=True)]
    against = ""
    if name != "greedy":
        others = np.array([row["scores"][i, 2] for row, i in zip(rows, greedy, strict=True)])
        d = paired_difference(scores[:, 2], others, resamples=10_000, seed=1)
        against = f"{d.mean:+.2f} ({d.low:+.2f} to {d.high:+.2f})"
    unsupported = np.mean([m["unsupported_names"] + m["unsupported_numbers"] for m in marks])
    repeated = np.mean([m["repeated_sentences"] > 0 for m in marks])
    words, novel = (np.mean([m[key] for m in marks]) for key in ("words", "novel_2grams"))
    print(
        f"| {name} | {_figures(scores.mean(0))} | {against} | {words:.1f} | {unsupported:.2f} | "
        f"{repeated:.1%} | {novel:.1%} |"
    )


def _figures(means: Any) -> str:
    return " / ".join(f"{mean:.2f}" for mean in means)


def _best(values: Sequence[float]) -> int:
    return max(range(len(values)), key=lambda i: (values[i], -i))


def _agreement(row: Row) -> Sequence[float]:
    return [rating["agreement"] for rating in row["ratings"]]


def _support(row: Row) -> Sequence[float]:
    return [-1000.0 * rating["unsupported"] + rating["agreement"] for rating in row["ratings"]]


def _finished(row: Row) -> Sequence[float]:
    """Return the agreement of those that are not broken off."""
    pairs = zip(row["ratings"], row["indicators"], strict=True)
    return [r["agreement"] - 1000 * m["unfinished"] for r, m in pairs]


def _rouge_lsum(row: Row) -> Sequence[float]:
    texts = row["texts"]
    pairs = [[score_rouge(o, t)["rougeLsum"] if o.strip() else 0.0 for o in texts] for t in texts]
    return list((np.sum(pairs, 1) - np.diag(pairs)) / (len(texts) - 1))


def _chrf(row: Row) -> Sequence[float]:
    """Return the agreement by sequences of characters (Popović 2015, "chrF")."""
    bags = [
        [Counter(t[i : i + n] for i in range(len(t) - n + 1)) for n in range(1, CHARACTERS + 1)]
        for t in ("".join(text.split()) for text in row["texts"])
    ]
    values = np.array([[np.mean(list(map(_f1, a, b))) for b in bags] for a in bags])
    return list((values.sum(1) - values.diagonal()) / (len(bags) - 1))


def _f1(one: Counter[str], other: Counter[str]) -> float:
    total = one.total() + other.total()
    return 2 * (one & other).total() / total if total else 0.0


RULES: dict[str, Rule] = {
    "longest": lambda row: [m["words"] for m in row["indicators"]],
    "consensus (ROUGE-1 and -2)": _agreement,
    "consensus of finished ones": _finished,
    "consensus (ROUGE-Lsum)": _rouge_lsum,
    "consensus (chrF)": _chrf,
    "support, then consensus": _support,
}
FEATURES = ("words", "unfinished", "density", "least_support", "copied_from", "novel_2grams")


def _fitted(rows: Sequence[Row]) -> list[int]:
    """Choose by a linear mix of agreement and indicators, fitted on the other half (ridge).

    Both sides are centred in each article, so that only differences between its candidates count.
    """
    inputs = [_centred(_features(row)) for row in rows]
    scale = np.std(np.concatenate(inputs), axis=0) + 1e-9
    inputs = [x / scale for x in inputs]
    wanted = [_centred(row["scores"][:, 2]) for row in rows]
    chosen = [0] * len(rows)
    for own in (0, 1):
        x = np.concatenate(inputs[1 - own :: 2])
        y = np.concatenate(wanted[1 - own :: 2])
        weights = np.linalg.solve(x.T @ x + 10 * np.eye(x.shape[1]), x.T @ y)
        for i in range(own, len(rows), 2):
            chosen[i] = _best(list(inputs[i] @ weights))
    return chosen


def _features(row: Row) -> Any:
    ratings, marks = row["ratings"], row["indicators"]
    first = [float(i == 0) for i in range(len(ratings))]
    return np.array(
        [
            [r["agreement"], r["unsupported"], is_first, *(m[name] for name in FEATURES)]
            for r, m, is_first in zip(ratings, marks, first, strict=True)
        ]
    )


def _centred(values: Any) -> Any:
    return values - values.mean(0)


if __name__ == "__main__":
    main()
