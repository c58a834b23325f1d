"""How fast nutgraf's engines write summaries of GGUF files, beside transformers' own `generate`.

One article at a time, as `nutgraf summarize` does: article by article, each engine in turn, so that
other work on the machine meets all of them. nutgraf on transformers has the first file, in the
number format that it takes on this machine and in fp32, each with its prompt lookup. `generate` has
the same file, prompt and number format, writes greedily as many tokens as the first line, and
follows no rule of repetition. Loading and one article before the first are not counted. Tokens a
second are those read and written. With `--together` all articles are also written at once, as
`nutgraf serve` does for many clients. Texts that are the same are compared with the first line.

    python bench/engines.py q8_0/model.gguf q4_0/model.gguf --articles FILE.parquet --n 10
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import torch
from transformers import AutoModelForCausalLM

from nutgraf.config.systems import EngineName
from nutgraf.data.new_articles import read_sources
from nutgraf.data.prompts import Renderer
from nutgraf.generation.summarizer import Summarizer, SummaryResult, load_summarizer
from nutgraf.modeling.load import choose_device, load_tokenizer
from nutgraf.modeling.saved_model import SavedModel, read_saved_model
from nutgraf.pocket import newswire


@dataclasses.dataclass(frozen=True)
class Written:
    """A summary, the tokens read and written, and the seconds that it took."""

    summary: str
    read: int
    new: int
    seconds: float


# Write a summary of an article; of so many tokens, if it cannot end by itself as nutgraf does.
Engine: TypeAlias = Callable[[str, int], Written]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="+", help="GGUF files that `nutgraf export` wrote")
    parser.add_argument("--articles", help="a file that summarize reads; the newswire without it")
    parser.add_argument("--n", type=int, default=10, help="articles")
    parser.add_argument("--together", action="store_true", help="all articles at once too")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    articles = [story.article for story in newswire.stories("test", options.n, seed=11)]
    if options.articles:
        rows = read_sources([options.articles])
        articles = [row.text for row, _ in zip(rows, range(options.n), strict=False)]
    with contextlib.ExitStack() as stack:
        engines, summarizers = dict[str, Engine](), dict[str, Summarizer]()

        def add(file: str, engine: EngineName, dtype: str = "auto") -> None:
            saved = read_saved_model(file)
            model = saved.model.model_copy(update={"dtype": dtype})
            saved = dataclasses.replace(saved, model=model)
            device = choose_device(model)
            numbers = device.dtype_name if engine == "transformers" else ""
            name = f"nutgraf, {engine} {file} {numbers}"
            if name not in engines:  # on a CPU without bf16 the first file is in fp32 anyway
                summarizers[name] = stack.enter_context(load_summarizer(saved, engine))
                engines[name] = streamed(summarizers[name])
                if engine == "transformers":
                    engines[f"generate {file} {numbers}"] = plain(saved, Path(file), device.dtype)

        add(options.files[0], "transformers")
        add(options.files[0], "transformers", "fp32")
        for file in options.files:
            add(file, "llama.cpp")
        compare(engines, articles)
        for name, summarizer in summarizers.items() if options.together else ():
            started = time.perf_counter()
            list(summarizer.summarize(articles))
            rate = len(articles) / (time.perf_counter() - started)
            print(f"{name:24} {rate:5.2f} summaries/s")


def compare(engines: dict[str, Engine], articles: list[str]) -> None:
    alone: dict[str, list[Written]] = {name: [] for name in engines}
    for write in engines.values():
        write(articles[0], 60)
    for article in articles:
        length = 0
        for name, write in engines.items():
            alone[name].append(write(article, length))
            length = length or alone[name][-1].new
    first, *_ = alone.values()
    print(f"{len(articles)} articles, {torch.get_num_threads()} threads")
    for name, rows in alone.items():
        seconds = sum(row.seconds for row in rows)
        tokens = sum(row.read + row.new for row in rows)
        same = sum(a.summary == b.summary for a, b in zip(rows, first, strict=True))
        faster = sum(row.seconds for row in first) / seconds
        print(
            f"{name:24} {seconds / len(rows):5.2f} s a summary, {tokens / seconds:5.0f} tokens/s, "
            f"{faster:4.2f} x, {same} of {len(rows)} texts the same"
        )


def streamed(summarizer: Summarizer) -> Engine:
    """Return nutgraf's way to write one summary, which ends where the model ends it."""

    def write(article: str, _: int) -> Written:
        *_pieces, result = summarizer.stream(article)
        assert isinstance(result, SummaryResult)
        return Written(result.summary, result.prompt_tokens, result.new_tokens, result.seconds)

    return write


def plain(saved: SavedModel, file: Path, dtype: torch.dtype) -> Engine:
    """Return transformers' own way, as its documentation has it for a GGUF file."""
    tokenizer = load_tokenizer(saved.model, saved.tokenizer)
    renderer = Renderer(tokenizer, saved.prompt, saved.frame)
    model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=dtype)

    def write(article: str, length: int) -> Written:
        started = time.perf_counter()
        ids = torch.tensor([renderer.prompt(article).ids])
        new = {"min_new_tokens": length, "max_new_tokens": length, "do_sample": False}
        with torch.inference_mode():
            out = model.generate(ids, attention_mask=torch.ones_like(ids), **new)
        text = tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)
        return Written(text, ids.shape[1], length, time.perf_counter() - started)

    return write


if __name__ == "__main__":
    main()
