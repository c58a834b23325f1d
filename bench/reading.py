"""Read sentences with a language model, and judge by a small network how they were read.

A reading has, for each token of a sentence, its log-likelihood (nats) behind passages of the
article, the same without them, that of the likeliest token there, the entropy there, and log(1 +
rank). Nothing of the language model is trained; the network over the tokens is.
"""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import Conv1d, Module, Parameter, functional

from nutgraf.config import ModelConfig
from nutgraf.data.sentences import split_tokens, token_spans
from nutgraf.evaluation.indicators import extractive_fragments
from nutgraf.evaluation.name_words import FUNCTION_WORDS
from nutgraf.modeling.load import choose_device, load_base, load_tokenizer

MAX_PASSAGES, MAX_SENTENCE = 160, 96  # tokens
BEFORE = "<|im_start|>user\nSummarize this article.\n\n"
BETWEEN = "<|im_end|>\n<|im_start|>assistant\n"
ALONE = "<|im_start|>assistant\n"

Pair = tuple[str, str]  # passages, sentence
Reading = tuple[np.ndarray, np.ndarray]  # spans [tokens, 2] in characters, values [tokens, 5]

NEGATIONS = frozenset(("not", "never", "n't", "no", "without"))
WIDTH = 15  # values of a token: six of its reading, nine of its word
NETWORKS, CHANNELS, KERNEL, DROPOUT = 3, 24, 5, 0.2
EPOCHS, BATCH, LEARNING_RATE, WEIGHT_DECAY = 25, 64, 3e-3, 0.01


class Reader:
    """A base with a ChatML template that reads; what it has read is kept in a Parquet file."""

    def __init__(self, base: str, file: Path) -> None:
        self.base, self.file = base, file
        self.known: dict[Pair, Reading] = {}
        if file.exists():
            for row in pd.read_parquet(file).itertuples():
                values = np.array(row.values_, dtype=np.float32).reshape(-1, 5)
                spans = np.array(row.spans, dtype=np.int64).reshape(-1, 2)
                self.known[row.passages, row.sentence] = (spans, values)
        self.model: Any = None
        self.alone: dict[str, np.ndarray] = {}

    def read(self, pairs: Sequence[Pair], seconds: float) -> float:
        """Read what is not known yet, in order, until the seconds are over; return those taken."""
        started, new = time.perf_counter(), [p for p in dict.fromkeys(pairs) if p not in self.known]
        for pair in new:
            if time.perf_counter() - started > seconds:
                break
            self.known[pair] = self._read(*pair)
        took = time.perf_counter() - started
        if new:
            self._save()
        return took

    def _read(self, passages: str, sentence: str) -> Reading:
        if self.model is None:
            config = ModelConfig(base=self.base)
            self.device = choose_device(config)
            self.model, self.tokenizer = load_base(config), load_tokenizer(config)
        encoded = self.tokenizer(sentence, add_special_tokens=False, return_offsets_mapping=True)
        ids = encoded.input_ids[:MAX_SENTENCE]
        head = self._ids(BEFORE) + self._ids(passages)[:MAX_PASSAGES] + self._ids(BETWEEN)
        values = self._values(head, ids)
        if sentence not in self.alone:
            self.alone[sentence] = self._values(self._ids(ALONE), ids)[:, 0]
        spans = np.array(encoded.offset_mapping[:MAX_SENTENCE]).reshape(-1, 2)
        return spans, np.insert(values, 1, self.alone[sentence], axis=1)

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False).input_ids

    @torch.inference_mode()
    def _values(self, head: list[int], ids: list[int]) -> np.ndarray:
        with self.device.autocast():
            tokens = torch.tensor([head + ids], device=self.device.name)
            hidden = self.model.base_model(input_ids=tokens, use_cache=False).last_hidden_state
            states = hidden[:, len(head) - 1 : len(head) + len(ids) - 1]
            logits = self.model.get_output_embeddings()(states)[0].float()
        likely = logits.log_softmax(-1)
        of_token = likely.gather(1, torch.tensor(ids, device=likely.device)[:, None])
        rank = torch.log1p((likely > of_token).sum(1, keepdim=True))
        entropy = -(likely.exp() * likely).sum(1, keepdim=True)
        highest = likely.max(1, keepdim=True).values
        return torch.cat([of_token, highest, entropy, rank], dim=1).cpu().numpy()

    def _save(self) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        rows = [
            (passages, sentence, spans.ravel().tolist(), values.ravel().tolist())
            for (passages, sentence), (spans, values) in self.known.items()
        ]
        table = pd.DataFrame(rows, columns=["passages", "sentence", "spans", "values_"])
        table.to_parquet(self.file, index=False)


def whole_sentence(reading: Reading) -> dict[str, float]:
    """Return what a reading shows without training: the higher, the better supported.

    `explained` is the share of the sentence's nats that the passages take away, `likely` the mean
    log-likelihood of a token, `rank` the mean of -log(1 + rank).
    """
    values = reading[1]
    return {
        "explained": 1 - values[:, 0].sum() / min(values[:, 1].sum(), -1e-3),
        "likely": values[:, 0].mean(),
        "rank": -values[:, 4].mean(),
    }


def token_values(passages: str, sentence: str, reading: Reading) -> np.ndarray:
    """Return [tokens, WIDTH]: how each token was read, and what its word is to the passages."""
    spans = token_spans(sentence)
    words, source = [word for word, _, _ in spans], split_tokens(passages)
    known, pairs = set(source), set(itertools.pairwise(source))
    copied, begins = np.zeros(len(words) + 1), np.zeros(len(words) + 1)
    for start, _, length in extractive_fragments(source, words):
        copied[start : start + length] = np.log1p(length)
        begins[start] = 1
    ends = [end for _, _, end in spans]
    rows, last = [], -1
    for (start, end), (likely, alone, highest, entropy, rank) in zip(*reading, strict=True):
        at = min(int(np.searchsorted(ends, max(start, end - 1), side="right")), len(words) - 1)
        word = words[at] if words else ""
        capital = bool(words) and sentence[spans[at][1]].isupper() and at > 0
        gain = float(np.clip(likely - alone, -6, 10))
        of_token = [likely, alone, gain, highest - likely, entropy, rank, at != last]
        of_word = [
            word[:1].isalnum() and word not in FUNCTION_WORDS,
            any(c.isdigit() for c in word),
            capital,
            word in NEGATIONS,
            word in known,
            copied[at],
            begins[at],
            at < 1 or (words[at - 1], word) in pairs,
        ]
        rows.append([*of_token, *of_word])
        last = at
    return np.array(rows, dtype=np.float32).reshape(-1, WIDTH)


class Network(Module):
    """A convolution over the tokens: each gets a logit of being wrong, a sentence their softened
    maximum."""

    def __init__(self) -> None:
        super().__init__()
        self.first = Conv1d(WIDTH, CHANNELS, KERNEL, padding=KERNEL // 2)
        self.second = Conv1d(CHANNELS, 1, 1)
        self.bias = Parameter(torch.zeros(1))

    def forward(self, values: Tensor, mask: Tensor) -> Tensor:
        hidden = functional.dropout(functional.gelu(self.first(values)), DROPOUT, self.training)
        logits = self.second(hidden)[:, 0].masked_fill(~mask, -1e4)
        return torch.logsumexp(logits, 1) + self.bias


class Head:
    """Several networks, trained on `token_values` of sentences that are supported or not."""

    def __init__(self, sentences: Sequence[np.ndarray], supported: Sequence[bool], seed: int):
        every = np.concatenate(sentences)
        self.mean, self.deviation = every.mean(0), every.std(0) + 1e-3
        wrong = 1 - torch.tensor([float(one) for one in supported])
        self.networks = [self._train(sentences, wrong, seed + n) for n in range(NETWORKS)]

    def _train(self, sentences: Sequence[np.ndarray], wrong: Tensor, seed: int) -> Network:
        torch.manual_seed(seed)
        rng, network, order = random.Random(seed), Network(), list(range(len(sentences)))
        optimizer = torch.optim.AdamW(
            network.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY
        )
        steps = EPOCHS * -(-len(order) // BATCH)
        decay = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
        for _ in range(EPOCHS):
            rng.shuffle(order)
            for start in range(0, len(order), BATCH):
                batch = order[start : start + BATCH]
                logits = network(*self._padded([sentences[i] for i in batch]))
                loss = functional.binary_cross_entropy_with_logits(logits, wrong[batch])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                decay.step()
        return network.eval()

    @torch.inference_mode()
    def logits(self, sentences: Sequence[np.ndarray]) -> np.ndarray:
        """Return a logit for each sentence: the higher, the better supported."""
        out = []
        for start in range(0, len(sentences), 256):
            padded = self._padded(sentences[start : start + 256])
            out.append(-torch.stack([network(*padded) for network in self.networks]).mean(0))
        return torch.cat(out).numpy()

    def _padded(self, sentences: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
        longest = max(map(len, sentences))
        values = torch.zeros(len(sentences), longest, WIDTH)
        mask = torch.zeros(len(sentences), longest, dtype=torch.bool)
        for row, sentence in enumerate(sentences):
            values[row, : len(sentence)] = torch.tensor((sentence - self.mean) / self.deviation)
            mask[row, : len(sentence)] = True
        return values.transpose(1, 2), mask
