"""How fast a training is: nutgraf against a notebook's recipe, TRL's quick start and a plain loop.

Each contestant trains in a process of its own on the same articles, from the same checkpoint, and
reports rows with a loss a second, without the loading. Three comparisons, since rows differ in
length: at the notebook's 256 tokens, at TRL's 1,024, and at 480. In the first two nutgraf trains
the adapter of its rival, for the ratio, and then its own larger one (all linear layers, rank 16).
At 480 tokens articles are cut so that every row fits, and the plain loop trains nutgraf's adapter.

    python bench/train.py                               pocket model, newswire, about 3 minutes
    python bench/train.py --base DIR --articles FILE.parquet [--nf4] --examples 8 --micro 1
    python bench/train.py --base DIR --articles FILE.parquet --tokens 480 --examples 48

DIR is a checkpoint of any shape; bench/shape.py writes one of TinyLlama's.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

CONTESTANTS = {
    "original, 256 tokens": "original",
    "nutgraf, 256 tokens, that adapter": "ours-256-original",
    "nutgraf, 256 tokens, its own": "ours-256-shipped",
    "TRL quick start, 1,024 tokens": "quick_start",
    "nutgraf, 1,024 tokens, that adapter": "ours-1024-quick_start",
    "nutgraf, 1,024 tokens, its own": "ours-1024-shipped",
    "plain loop, 480 tokens": "plain_loop",
    "TRL quick start, 480 tokens": "quick_start_480",
    "nutgraf, 480 tokens, its own": "ours-480-shipped",
}


def contest(name: str, options: argparse.Namespace) -> None:
    """One contestant, in this process; the last line printed is its cost."""
    import peers
    from rows import cut_pairs, read_pairs

    pairs = read_pairs(options.articles, 200)
    if "480" in name or name == "plain_loop":
        pairs = cut_pairs(pairs[: options.examples], options.base, 480)
    with tempfile.TemporaryDirectory() as scratch:
        out, base = Path(scratch) / "out", Path(options.base)
        if name == "original":
            cost, _, _ = peers.original(base, pairs, options.examples, out, options.nf4)
        elif name.startswith("quick_start"):
            cost = peers.quick_start(base, pairs, options.examples, out, options.nf4)
        elif name == "plain_loop":
            loop = peers.PlainLoop(base, options.nf4)
            cost = loop.run(loop.rows(pairs, options.examples))
        else:
            _, limit, adapter = name.split("-")
            cost = _ours(int(limit), adapter, pairs, options, out)
    print(json.dumps(asdict(cost)))


def _ours(  # type: ignore[no-untyped-def]
    limit: int, adapter: str, pairs: list[tuple[str, str]], options: argparse.Namespace, out: Path
):
    import peers

    from nutgraf.config import Config, LoraSettings, ModelConfig, PromptConfig, TrainConfig
    from nutgraf.data.prompts import Renderer
    from nutgraf.modeling.load import load_tokenizer
    from nutgraf.training.fit import fit_adapter
    from nutgraf.training.job import TrainingJob

    model = ModelConfig(base=options.base, quantization="nf4" if options.nf4 else "none")
    tokenizer = load_tokenizer(model)
    renderer = Renderer(tokenizer, PromptConfig(max_tokens=limit, max_article_tokens=limit - 1))
    rows = [renderer.example(article, summary) for article, summary in pairs]
    batch = min(8, options.examples)
    micro = min(batch, options.micro * (2 if limit == 256 else 1))  # short rows: twice as many
    settings = TrainConfig(
        max_examples=options.examples,
        micro_batch_size=micro,
        gradient_accumulation_steps=batch // micro,
        eval_every=10 * options.examples,
        eval_examples=1,
    )
    attention = ("q_proj", "v_proj")
    lora = {
        "original": LoraSettings(r=8, alpha=16, dropout=0.1, target_modules=attention),
        "quick_start": LoraSettings(r=8, alpha=8, target_modules=attention),  # peft's defaults
        "shipped": LoraSettings(),
    }[adapter]
    config = Config(model=model, lora=lora, train=settings)
    history = fit_adapter(TrainingJob(config, rows, rows[:1], out)).history
    examples = history.evaluations[-1].examples
    length = sum(len(row.input_ids) for row in rows) / len(rows)
    return peers.Cost(
        examples, round(examples * length), history.seconds, history.peak_memory_bytes
    )


def matrix_product_peak() -> float:
    """Floating-point operations a second of this machine in one large bf16 product."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    n = 8192 if device == "cuda" else 2048
    a, b = (torch.randn(n, n, device=device, dtype=torch.bfloat16) for _ in range(2))
    best = 0.0
    for _ in range(6):
        started = time.perf_counter()
        a @ b
        if device == "cuda":
            torch.cuda.synchronize()
        best = max(best, 2 * n**3 / (time.perf_counter() - started))
    return best


def operations(base: str, tokens: int) -> float:
    """Of a LoRA training on `tokens` tokens: two products with each frozen weight, times two.

    Attention, adapters, norms and the output layer are left out: a lower bound.
    """
    from transformers import AutoConfig

    shape = AutoConfig.from_pretrained(base)
    width, head = shape.hidden_size, shape.hidden_size // shape.num_attention_heads
    attention = 2 * width * head * (shape.num_attention_heads + shape.num_key_value_heads)
    weights = shape.num_hidden_layers * (attention + 3 * width * shape.intermediate_size)
    return 4.0 * weights * tokens


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", help="checkpoint folder (default: the pocket model)")
    parser.add_argument("--articles", help="Parquet with article and highlights")
    parser.add_argument("--examples", type=int, default=320, help="rows with a loss")
    parser.add_argument(
        "--micro",
        type=int,
        default=4,
        help="rows of nutgraf's forward pass, twice as many of 256 tokens",
    )
    parser.add_argument(
        "--tokens", type=int, choices=(256, 480, 1024), help="one comparison (default: all)"
    )
    parser.add_argument("--nf4", action="store_true", help="4-bit base, for all")
    parser.add_argument("--only", choices=sorted(CONTESTANTS.values()), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.base:
        from nutgraf.config import ModelConfig
        from nutgraf.modeling.base_files import base_source

        options.base = base_source(ModelConfig())
    if options.only:
        contest(options.only, options)
        return
    costs = {}
    for title, name in CONTESTANTS.items():
        if options.tokens and f"{options.tokens:,} tokens" not in title:
            continue
        print(f"{title} ...", flush=True)
        command = [sys.executable, *sys.argv, "--base", options.base, "--only", name]
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        costs[title] = json.loads(printed.strip().splitlines()[-1])
    _print(costs, options)


def _print(costs: dict[str, dict[str, float]], options: argparse.Namespace) -> None:
    best = matrix_product_peak()
    print(f"\n{'':<37}{'examples/s':>11}{'tokens/s':>10}{'times':>7}{'peak MB':>9}{'of peak':>9}")
    result = {}
    rates = {title: cost["examples"] / cost["seconds"] for title, cost in costs.items()}
    rival = 1.0
    for title, cost in costs.items():
        rate = rates[title]
        rival = rival if title.startswith("nutgraf") else rate
        share = operations(options.base, int(cost["tokens"])) / cost["seconds"] / best
        print(
            f"{title:<37}{rate:11.2f}{cost['tokens'] / cost['seconds']:10.0f}{rate / rival:7.2f}"
            f"{cost['peak_bytes'] / 1e6:9.0f}{share:9.0%}"
        )
        result[title] = {"examples_per_second": round(rate, 3), "times": round(rate / rival, 3)}
        result[title] |= {"peak_mb": round(cost["peak_bytes"] / 1e6), "share": round(share, 3)}
    if own := rates.get("nutgraf, 480 tokens, its own"):
        for rival_title in ("plain loop, 480 tokens", "TRL quick start, 480 tokens"):
            print(f"nutgraf is {own / rates[rival_title]:.2f} times {rival_title}")
    print(f"peak: a bf16 product of this machine, {best / 1e9:,.0f} GFLOP/s")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
