"""Rivals: summaries of the same articles by someone else, from a file or from a checkpoint."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Container, Iterator, Sequence
from pathlib import Path
from typing import Any

from nutgraf.config import RivalConfig
from nutgraf.core.errors import Failure, UserError, did_you_mean
from nutgraf.data import tables
from nutgraf.data.rows import Article
from nutgraf.data.text import clean_text
from nutgraf.modeling.batching import length_batches

Row = dict[str, Any]

# A tokenizer without a limit says so with a number larger than any.
_NO_LIMIT = 10**6


def from_file(name: str, rival: RivalConfig, articles: Sequence[Article]) -> list[Row]:
    """The summaries that the file has for the articles, joined by id, in the order of the articles.

    An empty summary is one, and scores 0. Raises UserError for a column that is not there, a
    summary that is not text, an id that stands twice with other summaries, and articles without a
    summary.
    """
    wanted = {article.id for article in articles}
    found: dict[str, str] = {}
    for row in tables.read_rows(Path(str(rival.file))):
        for setting, column in (("id", rival.id), ("summary", rival.summary)):
            if column not in row:
                raise UserError(
                    f"{rival.file} has no column {column!r}{did_you_mean(column, row)} (it has "
                    f"{tables.listed(row)}): set rivals.{name}.{setting}"
                )
        key, text = str(row[rival.id]), row[rival.summary]
        if key not in wanted or text is None:
            continue
        if not isinstance(text, str):
            raise UserError(
                f"{rival.file}: the summary of article {key!r} is {text!r}, not text: correct "
                f"it, or rivals.{name}.summary (now {rival.summary!r})"
            )
        if found.setdefault(key, clean_text(text)) != clean_text(text):
            raise UserError(f"{rival.file} has two summaries of article {key!r}: leave one of them")
    lacking = [article.id for article in articles if article.id not in found]
    if lacking:
        raise UserError(
            f"{rival.file} lacks summaries of {len(lacking):,} of {len(articles):,} test articles, "
            f"the first {lacking[0]!r}: correct rivals.{name}.id, or complete the file"
        )
    return [_row(article, found[article.id], "file") for article in articles]


def from_checkpoint(
    name: str,
    rival: RivalConfig,
    articles: Sequence[Article],
    device: str,
    done: Container[int] = (),
) -> Iterator[dict[int, Row]]:
    """Summaries by a sequence-to-sequence model, {index of the article: its row}, batch by batch.

    They are decoded as the model's own generation settings say; each row has these as `decoding`.
    Batches whose articles are all `done` are left out. In fp32, since PEGASUS overflows in fp16.
    Articles are cut at their end to what the model reads. Raises UserError for a model of another
    kind or without a limit of its input, Failure where it cannot be loaded.
    """
    for batch in batches_of(name, rival, articles, done):
        rows = summaries_of(name, rival, [articles[i] for i in batch], device)
        yield dict(zip(batch, rows, strict=True))


def batches_of(
    name: str, rival: RivalConfig, articles: Sequence[Article], done: Container[int] = ()
) -> Iterator[list[int]]:
    """Indices of articles that are summarized together, the longest first, whatever is done."""
    tokenizer, config = _reader(name, rival)
    prefix = _prefix(config)
    whole = [len(tokenizer(prefix + a.article).input_ids) for a in articles]
    return length_batches(whole, rival.batch_size, done)


def summaries_of(
    name: str, rival: RivalConfig, articles: Sequence[Article], device: str
) -> list[Row]:
    """The summaries of one batch, in its order."""
    import torch

    tokenizer, config = _reader(name, rival)
    model = _model(name, rival, device)
    prefix, limit = _prefix(config), _limit(name, rival, tokenizer, config)
    whole = [len(tokenizer(prefix + a.article).input_ids) for a in articles]
    inputs = tokenizer(
        [prefix + a.article for a in articles],
        truncation=True,
        max_length=limit,
        padding=True,
        return_tensors="pt",
    ).to(device)
    with torch.no_grad():
        out = model.generate(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
    rows = []
    for article, length, ids in zip(articles, whole, out.tolist(), strict=True):
        # PEGASUS writes the ends of its lines as text.
        text = tokenizer.decode(ids, skip_special_tokens=True).replace("<n>", "\n").strip()
        reason, kept = _finish_reason(ids, model.generation_config), min(length, limit)
        row = _row(article, text, reason, kept, length - kept)
        rows.append({**row, "decoding": model.generation_config.to_diff_dict()})
    return rows


@functools.lru_cache(maxsize=1)
def _reader(name: str, rival: RivalConfig) -> tuple[Any, Any]:
    """Tokenizer and configuration."""
    from transformers import AutoConfig, AutoTokenizer

    with _plain_errors(name, rival):
        config = AutoConfig.from_pretrained(**_where(rival))
        if not config.is_encoder_decoder:
            raise UserError(
                f"rivals.{name}.model {rival.model!r} is a {config.model_type}, no "
                "sequence-to-sequence model: give one like facebook/bart-large-cnn, or a file"
            )
        return AutoTokenizer.from_pretrained(**_where(rival)), config


@functools.lru_cache(maxsize=1)
def _model(name: str, rival: RivalConfig, device: str) -> Any:
    from transformers import AutoModelForSeq2SeqLM

    with _plain_errors(name, rival):
        model = AutoModelForSeq2SeqLM.from_pretrained(
            dtype="float32", use_safetensors=True, **_where(rival)
        )
    return model.to(device).eval()


def _where(rival: RivalConfig) -> dict[str, Any]:
    # Named `main`, a repository with pickles only is read from the Hub's conversion to safetensors.
    return {
        "pretrained_model_name_or_path": rival.model,
        "revision": rival.revision or "main",
        "trust_remote_code": False,
    }


@contextlib.contextmanager
def _plain_errors(name: str, rival: RivalConfig) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise Failure(
            f"rivals.{name}.model {rival.model!r} could not be loaded ({reason}): give a folder or "
            "a Hub id that this machine reaches or has cached, with weights in safetensors"
        ) from error


def _limit(name: str, rival: RivalConfig, tokenizer: Any, config: Any) -> int:
    """Tokens that the model reads at most."""
    places = ("max_encoder_position_embeddings", "max_position_embeddings")
    known = [tokenizer.model_max_length, *(getattr(config, place, None) for place in places)]
    limit = min(length for length in known if length)
    if limit > _NO_LIMIT:
        raise UserError(
            f"rivals.{name}.model {rival.model!r} does not say how many tokens it reads: set "
            "model_max_length in its tokenizer_config.json"
        )
    return int(limit)


def _finish_reason(ids: list[int], decoding: Any) -> str:
    """`stop` where the model ended the summary, `length` where it was cut.

    A row begins with the token that starts the decoder, in BART the end of sequence itself. An end
    that is forced in the last place there is counts as cut.
    """
    if decoding.eos_token_id not in ids[1:]:
        return "length"
    end = ids.index(decoding.eos_token_id, 1)
    forced = decoding.forced_eos_token_id is not None and end + 1 == decoding.max_length
    return "length" if forced else "stop"


def _prefix(config: Any) -> str:
    """What the model wants before an article; T5 wants `summarize: `."""
    tasks = getattr(config, "task_specific_params", None) or {}
    return str(tasks.get("summarization", {}).get("prefix", ""))


def _row(
    article: Article, text: str, reason: str, prompt: int | None = None, trimmed: int = 0
) -> Row:
    return {
        "id": article.id,
        "text": text,
        "prompt_tokens": prompt,
        "trimmed_tokens": trimmed,
        "finish_reason": reason,
    }
