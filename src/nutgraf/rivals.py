"""Rivals: summaries of the same articles by someone else, from a file or from a checkpoint."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from pathlib import Path
from typing import Any

from nutgraf import tables
from nutgraf.articles import Article
from nutgraf.problems import Failure, UserError
from nutgraf.section import did_you_mean
from nutgraf.settings import Rival
from nutgraf.text import clean

Row = dict[str, Any]

# A tokenizer without a limit says so with a number larger than any.
_NO_LIMIT = 10**6


def from_file(name: str, rival: Rival, articles: Sequence[Article]) -> list[Row]:
    """The summaries that the file has for the articles, joined by id, in the order of the articles.

    An empty summary is one, and scores 0. Raises UserError for a column that is not there, a
    summary that is not text, an id that stands twice with other summaries, and articles without a
    summary.
    """
    wanted = {article.id for article in articles}
    found: dict[str, str] = {}
    for row in tables.rows(Path(str(rival.file))):
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
        if found.setdefault(key, clean(text)) != clean(text):
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
    rival: Rival,
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
    import torch

    tokenizer, model = _load(name, rival)
    model = model.to(device).eval()
    prefix = _prefix(model.config)
    limit = _limit(name, rival, tokenizer, model.config)
    decoding = model.generation_config.to_diff_dict()
    whole = [len(tokenizer(prefix + a.article).input_ids) for a in articles]
    order = sorted(range(len(articles)), key=lambda i: -whole[i])
    for start in range(0, len(order), rival.batch_size):
        batch = order[start : start + rival.batch_size]
        if all(i in done for i in batch):
            continue
        rows: dict[int, Row] = {}
        inputs = tokenizer(
            [prefix + articles[i].article for i in batch],
            truncation=True,
            max_length=limit,
            padding=True,
            return_tensors="pt",
        ).to(device)
        with torch.no_grad():
            out = model.generate(
                input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]
            )
        for i, ids in zip(batch, out.tolist(), strict=True):
            # PEGASUS writes the ends of its lines as text.
            text = tokenizer.decode(ids, skip_special_tokens=True).replace("<n>", "\n").strip()
            kept = min(whole[i], limit)
            reason = _finish_reason(ids, model.generation_config)
            rows[i] = _row(articles[i], text, reason, kept, whole[i] - kept)
            rows[i]["decoding"] = decoding
        yield rows


def _load(name: str, rival: Rival) -> tuple[Any, Any]:
    from transformers import AutoConfig, AutoModelForSeq2SeqLM, AutoTokenizer

    assert rival.model is not None
    # Named `main`, a repository with pickles only is read from the Hub's conversion to safetensors.
    where: dict[str, Any] = {"revision": rival.revision or "main", "trust_remote_code": False}
    try:
        config = AutoConfig.from_pretrained(rival.model, **where)
        if not config.is_encoder_decoder:
            raise UserError(
                f"rivals.{name}.model {rival.model!r} is a {config.model_type}, no "
                "sequence-to-sequence model: give one like facebook/bart-large-cnn, or a file"
            )
        tokenizer = AutoTokenizer.from_pretrained(rival.model, **where)
        model = AutoModelForSeq2SeqLM.from_pretrained(
            rival.model, dtype="float32", use_safetensors=True, **where
        )
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise Failure(
            f"rivals.{name}.model {rival.model!r} could not be loaded ({reason}): give a folder or "
            "a Hub id that this machine reaches or has cached, with weights in safetensors"
        ) from error
    return tokenizer, model


def _limit(name: str, rival: Rival, tokenizer: Any, config: Any) -> int:
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
