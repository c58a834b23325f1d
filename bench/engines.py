"""How fast transformers and llama.cpp write summaries of GGUF files, and how alike.

One article at a time, as `nutgraf summarize` does: article by article, each engine in turn, so that
other work on the machine meets all of them. transformers has the first file, in the number format
that it takes on this machine and in fp32, each with its prompt lookup. Loading and one article
before the first are not counted. Tokens a second are those read and written. With `--together` all
articles are also written at once, as `nutgraf serve` does for many clients. Texts that are the same
are compared with the first line.

    python bench/engines.py q8_0/model.gguf q4_0/model.gguf --articles FILE.parquet --n 10
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import time
from collections.abc import Iterator

import torch

from nutgraf.config.systems import EngineName
from nutgraf.data.new_articles import read_sources
from nutgraf.generation.summarizer import Summarizer, SummaryResult, load_summarizer
from nutgraf.modeling.load import choose_device
from nutgraf.modeling.saved_model import read_saved_model
from nutgraf.pocket import newswire


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
        engines = dict[str, Summarizer]()

        def add(file: str, engine: EngineName, dtype: str = "auto") -> None:
            saved = read_saved_model(file)
            model = saved.model.model_copy(update={"dtype": dtype})
            saved = dataclasses.replace(saved, model=model)
            numbers = choose_device(model).dtype_name if engine == "transformers" else ""
            name = f"{engine} {file} {numbers}"
            if name not in engines:  # on a CPU without bf16 the first file is in fp32 anyway
                engines[name] = stack.enter_context(load_summarizer(saved, engine))

        add(options.files[0], "transformers")
        add(options.files[0], "transformers", "fp32")
        for file in options.files:
            add(file, "llama.cpp")
        compare(engines, articles, options.together)


def compare(engines: dict[str, Summarizer], articles: list[str], together: bool) -> None:
    alone: dict[str, list[SummaryResult]] = {name: [] for name in engines}
    for summarizer in engines.values():
        list(streamed(summarizer, articles[0]))
    for article in articles:
        for name, summarizer in engines.items():
            alone[name] += streamed(summarizer, article)
    first, *_ = alone.values()
    print(f"{len(articles)} articles, {torch.get_num_threads()} threads")
    for name, rows in alone.items():
        seconds = sum(row.seconds for row in rows)
        tokens = sum(row.prompt_tokens + row.new_tokens for row in rows)
        same = sum(a.summary == b.summary for a, b in zip(rows, first, strict=True))
        faster = sum(row.seconds for row in first) / seconds
        print(
            f"{name:24} {seconds / len(rows):5.2f} s a summary, {tokens / seconds:5.0f} tokens/s, "
            f"{faster:4.2f} x, {same} of {len(rows)} texts the same"
        )
    for name, summarizer in engines.items() if together else ():
        started = time.perf_counter()
        list(summarizer.summarize(articles))
        print(f"{name:24} {len(articles) / (time.perf_counter() - started):5.2f} summaries/s")


def streamed(summarizer: Summarizer, article: str) -> Iterator[SummaryResult]:
    for piece in summarizer.stream(article):
        if isinstance(piece, SummaryResult):
            yield piece


if __name__ == "__main__":
    main()
