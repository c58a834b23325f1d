"""Read summaries of other systems (rivals) from a file, or generate them with a checkpoint."""

from __future__ import annotations

import functools
import logging
from collections import Counter
from collections.abc import Container, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForSeq2SeqLM, AutoTokenizer

from nutgraf.config import RivalConfig
from nutgraf.core.errors import Failure, UserError, library_errors
from nutgraf.data import tables
from nutgraf.data.generator_marks import marks_line, without_marks
from nutgraf.data.names import find_column, no_column
from nutgraf.data.rows import Article
from nutgraf.data.text import clean_text
from nutgraf.modeling.batching import length_batches
from nutgraf.modeling.losses import guard_memory
from nutgraf.modeling.suitability import check_no_adapter

Row = dict[str, Any]

logger = logging.getLogger(__name__)
_say_once = functools.cache(logger.info)  # two stages read a file
_NO_LIMIT = 10**6  # a tokenizer without a limit has a larger number


def read_summaries(name: str, rival: RivalConfig, articles: Sequence[Article]) -> list[Row]:
    """Return the summaries that the file of rival `name` has for the articles, joined by id.

    They are in the order of the articles, without the marks of generators. An empty summary is
    one, and scores 0. Raise UserError for a missing column, a summary that is not text, an id with
    two summaries, and articles without one.
    """
    sources = {article.id: f"{article.article} {article.reference}" for article in articles}
    summaries: dict[str, str] = {}
    removed, marked = Counter[str](), 0
    for row in tables.read_rows(Path(str(rival.file))):
        cells = []
        for setting, column in (("id", rival.id), ("summary", rival.summary)):
            if (there := find_column(column, row)) is None:
                raise no_column(rival.file, column, row, f"set rivals.{name}.{setting}")
            cells.append(row[there])
        key, text = clean_text(str(cells[0])), cells[1]
        if key not in sources or text is None:
            continue
        if not isinstance(text, str):
            raise UserError(
                f"{rival.file}: the summary of article {key!r} is {text!r}, not text: correct "
                f"it, or rivals.{name}.summary (now {rival.summary!r})"
            )
        text, marks = without_marks(clean_text(text), sources[key])
        removed.update(marks)
        marked += bool(marks)
        if summaries.setdefault(key, text) != text:
            raise UserError(f"{rival.file} has two summaries of article {key!r}: leave one of them")
    if removed:
        _say_once(marks_line(removed, marked, f"summaries of {rival.file}"))
    missing = [article.id for article in articles if article.id not in summaries]
    if missing:
        raise UserError(
            f"{rival.file} lacks summaries of {len(missing):,} of {len(articles):,} test articles, "
            f"the first {missing[0]!r}: correct rivals.{name}.id, or complete the file"
        )
    return [_row(article, summaries[article.id], None, 0, "file") for article in articles]


class Seq2SeqRival:
    """A sequence-to-sequence checkpoint, which decodes by its own generation settings.

    It computes in fp32 on `device` (`cpu` or `cuda`), since PEGASUS overflows in fp16, and reads
    the beginning of an article, up to its limit of tokens.
    """

    def __init__(self, name: str, rival: RivalConfig, device: str) -> None:
        """Load the tokenizer; the weights are loaded when they are needed.

        Raise UserError for a model of another kind or without a limit of its input, and Failure if
        it cannot be loaded.
        """
        self.name, self.rival, self.device = name, rival, device
        check_no_adapter(f"rivals.{name}.model", str(rival.model), rival.revision)
        config = self._load(AutoConfig)
        if not config.is_encoder_decoder:
            raise UserError(
                f"rivals.{name}.model {rival.model!r} is a {config.model_type}, no "
                "sequence-to-sequence model: give one like facebook/bart-large-cnn, or a file"
            )
        # T5 wants `summarize: ` before an article.
        tasks = getattr(config, "task_specific_params", None) or {}
        self._prefix = str(tasks.get("summarization", {}).get("prefix", ""))
        self._tokenizer = self._load(AutoTokenizer)
        fields = ("max_encoder_position_embeddings", "max_position_embeddings")
        limits = [self._tokenizer.model_max_length, *(getattr(config, f, None) for f in fields)]
        self._limit = int(min(limit for limit in limits if limit))
        if self._limit > _NO_LIMIT:
            raise UserError(
                f"rivals.{name}.model {rival.model!r} does not say how many tokens it reads: set "
                "model_max_length in its tokenizer_config.json"
            )

    @functools.cached_property
    def _model(self) -> Any:
        model = self._load(AutoModelForSeq2SeqLM, dtype="float32", use_safetensors=True)
        return model.to(self.device).eval()

    def _load(self, kind: Any, **options: Any) -> Any:
        """Load a part of the checkpoint with one of transformers' Auto classes."""
        # Named `main`, a repository with pickles only is read from its conversion to safetensors.
        revision = self.rival.revision or "main"
        fact = f"rivals.{self.name}.model {self.rival.model!r} could not be loaded"
        change = (
            "give a folder or a Hub id that this machine reaches or has cached, with weights in "
            "safetensors"
        )
        with library_errors(fact, change, Failure):
            return kind.from_pretrained(
                self.rival.model, revision=revision, trust_remote_code=False, **options
            )

    def summaries(
        self, articles: Sequence[Article], done: Container[int] = ()
    ) -> Iterator[dict[int, Row]]:
        """Yield {index of the article: row} batch by batch; skip batches that are all `done`."""
        for batch in self.batches(articles, done):
            yield dict(zip(batch, self.summarize([articles[i] for i in batch]), strict=True))

    def batches(
        self, articles: Sequence[Article], done: Container[int] = ()
    ) -> Iterator[list[int]]:
        """Yield indices of articles that are summarized together, the longest first."""
        lengths = [len(self._tokenizer(self._prefix + a.article).input_ids) for a in articles]
        return length_batches(lengths, self.rival.batch_size, done)

    def summarize(self, articles: Sequence[Article]) -> list[Row]:
        """Return the rows of one batch, in its order, each with its `decoding` settings."""
        texts = [self._prefix + article.article for article in articles]
        inputs = self._tokenizer(
            texts, truncation=True, max_length=self._limit, padding=True, return_tensors="pt"
        ).to(self.device)
        knob = f"lower rivals.{self.name}.batch_size (now {self.rival.batch_size})"
        with torch.no_grad(), guard_memory(len(articles), self._limit, knob):
            out = self._model.generate(
                input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]
            )
        decoding, rows = self._model.generation_config, []
        for article, source, ids in zip(articles, texts, out.tolist(), strict=True):
            # PEGASUS and ProphetNet write the ends of their lines as text.
            written, reason = _cut(ids, decoding)
            text, _ = without_marks(self._tokenizer.decode(written, skip_special_tokens=True))
            length = len(self._tokenizer(source).input_ids)
            read = min(length, self._limit)
            row = _row(article, text.strip(), read, length - read, reason)
            rows.append({**row, "decoding": decoding.to_diff_dict()})
        return rows


load_rival = functools.lru_cache(maxsize=1)(Seq2SeqRival)


def _cut(ids: list[int], decoding: Any) -> tuple[list[int], str]:
    """Return the tokens before the end; and `stop`, or `length` if the summary was cut.

    A row begins with the token that starts the decoder, in BART the end of sequence itself. An end
    that is forced at the last position counts as cut.
    """
    said = decoding.eos_token_id
    ends = said if isinstance(said, list) else [said]
    end = next((place for place, token in enumerate(ids) if place and token in ends), None)
    if end is None:
        return ids, "length"
    last = decoding.max_new_tokens or (decoding.max_length or 0) - 1
    forced = decoding.forced_eos_token_id is not None and end == last
    return ids[:end], "length" if forced else "stop"


def _row(article: Article, text: str, read: int | None, trimmed: int, reason: str) -> Row:
    return {
        "id": article.id,
        "text": text,
        "prompt_tokens": read,
        "trimmed_tokens": trimmed,
        "finish_reason": reason,
    }
