"""Summarize by sentences of the article: lead-3, TextRank, and the oracle."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from nutgraf.config.evaluation import RougeTokenizer
from nutgraf.data.rouge_tokens import ngram_fmeasure, ngrams, rouge_tokens
from nutgraf.data.sentences import article_sentences
from nutgraf.parallel.process_pool import map_rows

SENTENCES = 3
_DAMPING = 0.85
_RANKED = 500  # sentences: the graph grows with their square
_ROWS_PER_PROCESS = 200  # take as long as starting a process


def extract_many(
    system: str, rows: Sequence[tuple[str, str]], tokenizer: RougeTokenizer = "rouge-score"
) -> list[str]:
    """Return the summaries of `system` (`lead3`, `textrank`, `oracle`), in order, over all cores.

    `rows` are pairs of article and reference, which only the oracle reads. Words are those of
    ROUGE's `tokenizer`.
    """
    work = [(system, article, reference, tokenizer) for article, reference in rows]
    return map_rows(_extract, work, rows_per_process=_ROWS_PER_PROCESS)


def _extract(row: tuple[str, str, str, RougeTokenizer]) -> str:
    system, article, reference, tokenizer = row
    if system == "oracle":
        return oracle(article, reference, tokenizer)
    extract = {"lead3": lambda text, _: lead3(text), "textrank": textrank}[system]
    return extract(article, tokenizer)


def lead3(article: str) -> str:
    """Return the first three sentences of an article, one per line."""
    return "\n".join(article_sentences(article)[:SENTENCES])


def textrank(article: str, tokenizer: RougeTokenizer = "rouge-score") -> str:
    """Return the three most central sentences, in the order of the article, one per line.

    Mihalcea & Tarau (2004), "TextRank: Bringing Order into Texts": sentences are the nodes of a
    graph whose edges weigh |words of both| / (log |words of one| + log |words of the other|), and
    the weighted PageRank, damping 0.85, is a sentence's rank. Earlier sentences win ties. Only the
    first 500 sentences are read.
    """
    sentences = article_sentences(article)[:_RANKED]
    words = [Counter(rouge_tokens(sentence, tokenizer)) for sentence in sentences]
    n = len(sentences)
    weights = np.zeros((n, n))
    for i in range(n):
        for j in range(i):
            weights[i, j] = weights[j, i] = _similarity(words[i], words[j])
    out = weights.sum(axis=0)
    share = np.divide(weights, out, out=np.zeros_like(weights), where=out > 0)
    rank = np.ones(n)
    for _ in range(100):
        rank, before = (1 - _DAMPING) + _DAMPING * share @ rank, rank
        if np.abs(rank - before).max(initial=0.0) < 1e-6:
            break
    chosen = sorted(range(n), key=lambda i: (-round(float(rank[i]), 6), i))[:SENTENCES]
    return "\n".join(sentences[i] for i in sorted(chosen))


def oracle(article: str, reference: str, tokenizer: RougeTokenizer = "rouge-score") -> str:
    """Return at most three sentences that share as much as they can with the reference.

    Greedy as in Nallapati et al. (2017), "SummaRuNNer": add the sentence that raises the sum of the
    F-measures of ROUGE-1 and ROUGE-2 the most, until none does. It shows about how far extraction
    can go. If no sentence shares a word, it is the first one.
    """
    sentences = article_sentences(article)
    tokens = [rouge_tokens(sentence, tokenizer) for sentence in sentences]
    targets = [ngrams(rouge_tokens(reference, tokenizer), n) for n in (1, 2)]
    chosen: list[int] = []
    best = 0.0
    while len(chosen) < SENTENCES:
        scored = [
            (_overlap([t for k in sorted([*chosen, i]) for t in tokens[k]], targets), -i)
            for i in range(len(sentences))
            if i not in chosen
        ]
        score, place = max(scored, default=(0.0, 0))
        if score <= best:
            break
        best = score
        chosen.append(-place)
    return "\n".join(sentences[i] for i in sorted(chosen or [0]))


def _similarity(one: Counter[str], other: Counter[str]) -> float:
    lengths = math.log(max(1, one.total())) + math.log(max(1, other.total()))
    return (one & other).total() / lengths if lengths else 0.0


def _overlap(tokens: Sequence[str], targets: Sequence[Counter[tuple[str, ...]]]) -> float:
    """Return the sum over n of the F-measure of the n-grams."""
    return sum(ngram_fmeasure(ngrams(tokens, n), target) for n, target in enumerate(targets, 1))
