"""The articles that speeds are measured on: a Parquet file's, or the embedded newswire's."""

from __future__ import annotations

Pair = tuple[str, str]  # article, summary


def read_pairs(articles: str | None, n: int) -> list[Pair]:
    """Return all pairs of a file with `article` and `highlights`; without one, n stories."""
    if articles:
        import pandas as pd

        rows = pd.read_parquet(articles)
        return list(zip(rows["article"], rows["highlights"], strict=True))
    from nutgraf.pocket import newswire

    return [(s.article, s.reference) for s in newswire.stories("train", n, seed=1)]


def long_pairs(n: int, stories: int) -> list[Pair]:
    """Return n articles of so many stories of the newswire each, with the first one's summary."""
    pairs = read_pairs(None, n * stories)
    groups = (pairs[start : start + stories] for start in range(0, len(pairs), stories))
    return [("\n\n".join(article for article, _ in group), group[0][1]) for group in groups]


def cut_pairs(pairs: list[Pair], base: str, tokens: int) -> list[Pair]:
    """Return the pairs with articles so short that prompt and summary have so many tokens."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    cut = []
    for article, summary in pairs:
        others = tokenizer(f"Summarize: \n\nSummary: {summary}").input_ids
        ids = tokenizer(article, add_special_tokens=False).input_ids[: tokens - len(others) - 3]
        cut.append((tokenizer.decode(ids), summary))
    return cut
