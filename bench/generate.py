"""How fast summaries are written: nutgraf's batches against one by one, and the wait for one.

The model of a finished run folder summarizes articles of the embedded newswire, greedily. `one by
one` is transformers' `generate` on one article at a time, the way of the notebook that the project
grew from (there with sampling). For the wait of a single article that is plain greedy decoding;
beside it stand transformers' prompt lookup and nutgraf's stream, with several lengths of guesses,
on that model, which writes in words of its own, and on its untrained base, whose summaries copy
sentences; the texts that come out the same are counted.

    python bench/generate.py [--model runs/pocket] [--articles 100]
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import torch
from transformers import GenerationConfig

from nutgraf.data.prompts import Renderer
from nutgraf.generation.decoding import generate, stream_tokens
from nutgraf.modeling.adapters import with_adapter
from nutgraf.modeling.load import choose_device, load_base, load_tokenizer
from nutgraf.modeling.saved_model import read_saved_model
from nutgraf.pocket import newswire

SINGLE = 12
GUESSES = (0, 2, 4, 8)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="runs/pocket")
    parser.add_argument("--articles", type=int, default=100)
    options = parser.parse_args()
    recipe = read_saved_model(str(options.model))
    tokenizer, device = load_tokenizer(recipe.model), choose_device(recipe.model)
    renderer = Renderer(tokenizer, recipe.prompt)
    stories = newswire.stories("test", options.articles, seed=11)
    prompts = [renderer.prompt(story.article).ids for story in stories]

    def plainly(model: Any, ids: list[int], lookup: int | None = None) -> list[int]:
        prompt = torch.tensor([ids], device=device.name)
        decoding = GenerationConfig(
            max_new_tokens=recipe.generate.max_new_tokens,
            do_sample=False,
            prompt_lookup_num_tokens=lookup,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        with torch.no_grad(), device.autocast():
            out = model.generate(
                input_ids=prompt,
                attention_mask=torch.ones_like(prompt),
                generation_config=decoding,
            )
        return out[0, len(ids) :].tolist()

    def ways(model: Any) -> tuple[Callable[..., list[int]], Callable[..., list[int]]]:
        def streamed(i: int, guesses: int) -> list[int]:
            tokens = stream_tokens(model, tokenizer, prompts[i], recipe.generate, device, guesses)
            return list(tokens)

        return lambda i, n=None: plainly(model, prompts[i], n), streamed

    with with_adapter(load_base(recipe.model), recipe.folder) as model:
        plainly(model, prompts[0])
        one, single = _timed(lambda: [plainly(model, ids) for ids in prompts])
        many, batched = _timed(
            lambda: dict(generate(model, tokenizer, prompts, recipe.generate, device))
        )
        waits = {"its own words": _waits(*ways(model))}
    waits["copies"] = _waits(*ways(load_base(recipe.model)))
    n = len(prompts)
    texts = [renderer.text(ids) for ids in single]
    same = sum(texts[i] == renderer.text(batched[i].written[0].ids) for i in range(n))
    print(f"{n} articles\n{'':<48}{'seconds':>9}{'a second':>10}{'times':>7}")
    print(f"{'one by one':<48}{one:9.1f}{n / one:10.2f}{1:7.2f}")
    print(
        f"{f'nutgraf, {same} of {n} the same text':<48}{many:9.1f}{n / many:10.2f}{one / many:7.2f}"
    )
    for kind, seconds in waits.items():
        print(f"\n{f'the wait for one summary, {kind}':<48}{'seconds':>9}{'times':>17}")
        for name, took in seconds.items():
            print(f"{name:<48}{took:9.2f}{seconds['plain'] / took:17.2f}")
    print(json.dumps({"one_by_one": one, "batched": many, "times": one / many, "waits": waits}))


def _waits(
    transformers: Callable[..., list[int]], streamed: Callable[..., list[int]]
) -> dict[str, float]:
    """Seconds for one summary: plain greedy decoding, and both ways to guess ahead."""
    took, first = _timed(lambda: [transformers(i) for i in range(SINGLE)])
    waits = {"plain": took / SINGLE}
    for guesses in GUESSES:
        for name, way in (("transformers' lookup", transformers), ("nutgraf", streamed)):
            if guesses or way is streamed:
                took, written = _timed(lambda n=guesses, w=way: [w(i, n) for i in range(SINGLE)])
                same = sum(b in (a, a[:-1]) for a, b in zip(first, written, strict=True))
                title = f"{name}, {guesses} tokens, {same} of {SINGLE} the same"
                waits[title] = took / SINGLE
    return waits


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    result = work()
    return time.perf_counter() - started, result


if __name__ == "__main__":
    main()
