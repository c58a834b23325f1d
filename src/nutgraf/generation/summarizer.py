"""A saved model that summarizes new articles, with the base, prompt and decoding of its study."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from nutgraf.data.prompts import Renderer
from nutgraf.data.sentences import article_sentences, sentence_spans
from nutgraf.generation.decoding import generate, stream_tokens
from nutgraf.modeling.adapters import with_adapter
from nutgraf.modeling.load import Device, choose_device, load_base, load_tokenizer
from nutgraf.modeling.losses import mean_loss, summary_losses
from nutgraf.modeling.saved_model import SavedModel

# Batches whose articles are sorted by length together: saves padding, and results come in between.
_SORTED_TOGETHER = 4


@dataclass(frozen=True)
class Written:
    """A summary, and how it came about.

    `trimmed_tokens` are those cut off the article's end unread, `new_tokens` those decoded, without
    the end of sequence. `finish_reason` is `stop` where the model ended the summary, `length` where
    it was cut at the limit of tokens, `sentences` where it was cut at the number asked for.
    `seconds` are of the wall clock, an equal share where several were decoded together. `parts` are
    the summaries of its parts, where it was read in parts.
    """

    summary: str
    prompt_tokens: int
    trimmed_tokens: int
    new_tokens: int
    finish_reason: str
    seconds: float
    parts: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.summary


@contextlib.contextmanager
def opened(recipe: SavedModel) -> Iterator[Summarizer]:
    """The model of a recipe, loaded, until the end of the block."""
    base, tokenizer = load_base(recipe.model), load_tokenizer(recipe.model)
    loaded = with_adapter(base, recipe.adapter) if recipe.adapter else contextlib.nullcontext(base)
    with loaded as model:
        yield Summarizer(model, tokenizer, choose_device(recipe.model), recipe)


class Summarizer:
    """Writes summaries of articles: texts that `text.usable` takes."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        device: Device,
        recipe: SavedModel,
    ) -> None:
        self._model, self._tokenizer, self._device = model, tokenizer, device
        self._decoding = recipe.generate
        self._renderer = Renderer(tokenizer, recipe.prompt)

    @property
    def streams(self) -> bool:
        """Whether it can write one summary piece by piece, which a beam search cannot."""
        return self._decoding.num_beams == 1

    def stream(self, article: str, sentences: int | None = None) -> Iterator[str | Written]:
        """The pieces of one summary as they are written, and last of all the whole of it.

        No piece ends inside a character. With `sentences` the writing ends behind so many.
        """
        started = time.perf_counter()
        prompt = self._renderer.prompt(article)
        ids: list[int] = []
        text, shown, cut = "", "", False
        for token in stream_tokens(
            self._model, self._tokenizer, prompt.ids, self._decoding, self._device
        ):
            ids.append(token)
            # A character that is not whole yet is decoded as U+FFFD.
            text = self._renderer.text(ids).rstrip("\ufffd").rstrip()
            if sentences is not None:
                ends = _ends(text, sentences + 1)
                cut = len(ends) > sentences
                text = text[: ends[-2]] if len(ends) > 1 else ""  # the last one may go on
            if text != shown and text.startswith(shown):
                yield text[len(shown) :]
                shown = text
            if cut:
                break
        if not cut:
            text = self._renderer.text(ids)
            if text != shown:
                yield text[len(shown) :]
        ended = "length" if len(ids) == self._decoding.max_new_tokens else "stop"
        yield Written(
            text,
            len(prompt.ids),
            prompt.trimmed_tokens,
            len(ids),
            "sentences" if cut else ended,
            time.perf_counter() - started,
        )

    def write(self, articles: Sequence[str], sentences: int | None = None) -> Iterator[Written]:
        """The summary of each article, in order, decoded in batches.

        A summary of more than `sentences` is cut behind so many, an article beyond the limit of the
        prompt at its end.
        """
        size = _SORTED_TOGETHER * self._decoding.batch_size
        for start in range(0, len(articles), size):
            started = time.perf_counter()
            prompts = [self._renderer.prompt(text) for text in articles[start : start + size]]
            ids = [prompt.ids for prompt in prompts]
            batches = generate(self._model, self._tokenizer, ids, self._decoding, self._device)
            generated = dict(batches)
            seconds = (time.perf_counter() - started) / len(prompts)
            for i, prompt in enumerate(prompts):
                text, cut = at_most(self._renderer.text(generated[i].ids), sentences)
                yield Written(
                    text,
                    len(prompt.ids),
                    prompt.trimmed_tokens,
                    len(generated[i].ids),
                    "sentences" if cut else generated[i].finish_reason,
                    seconds,
                )

    def write_in_parts(self, article: str, sentences: int | None = None) -> Written:
        """The summary of an article that is read to its end, however long it is.

        Where it is beyond the limit of the prompt, its parts are summarized, their summaries
        joined, and what they make summarized as an article is: in parts again, where that is still
        too long. `parts` are the summaries of the first round.
        """
        started = time.perf_counter()
        first: tuple[str, ...] = ()
        unread = 0
        while len(parts := self.parts(article)) > 1:
            rows = list(self.write(parts))
            joined = "\n".join(row.summary for row in rows if row.summary)
            if not 0 < len(joined) < len(article):
                break  # a model that does not shorten: the end is cut, and told in trimmed_tokens
            first = first or tuple(row.summary for row in rows)
            unread += sum(row.trimmed_tokens for row in rows)
            article = joined
        (written,) = self.write([article], sentences)
        return dataclasses.replace(
            written,
            trimmed_tokens=unread + written.trimmed_tokens,
            parts=first,
            seconds=time.perf_counter() - started,
        )

    def loss(self, rows: Sequence[tuple[str, str]]) -> float:
        """Mean loss of the references in pairs of article and reference, in nats a token."""
        examples = [self._renderer.example(article, reference) for article, reference in rows]
        pad, size = self._tokenizer.pad_token_id, self._decoding.batch_size
        return mean_loss(summary_losses(self._model, examples, pad, self._device, size))

    def parts(self, article: str) -> list[str]:
        """The article in as few parts of about equal length as the prompt takes, cut at sentences.

        A sentence that is too long by itself is cut between words.
        """
        whole = self._renderer.prompt(article)
        if not whole.trimmed_tokens:
            return [article]
        pieces = [piece for sentence in article_sentences(article) for piece in self._fit(sentence)]
        tokens = [self._renderer.prompt(piece).article_tokens for piece in pieces]
        limit = whole.article_tokens  # it was trimmed to it
        room = max(limit - max(tokens), limit // 2)  # a part may end a sentence later
        even = sum(tokens) / math.ceil(sum(tokens) / room)
        parts: list[list[str]] = [[]]
        before = filled = 0
        for piece, more in zip(pieces, tokens, strict=True):
            if parts[-1] and (before + filled >= len(parts) * even or filled + more > limit):
                parts.append([])
                before, filled = before + filled, 0
            parts[-1].append(piece)
            filled += more
        # Between spaces a piece is the same tokens as alone.
        return [" ".join(part) for part in parts]

    def _fit(self, sentence: str) -> Iterator[str]:
        words = sentence.split()
        if len(words) == 1 or not self._renderer.prompt(sentence).trimmed_tokens:
            yield sentence
        else:
            for half in (words[: len(words) // 2], words[len(words) // 2 :]):
                yield from self._fit(" ".join(half))


def at_most(summary: str, sentences: int | None) -> tuple[str, bool]:
    """The first `sentences` of a summary, and whether that cut it; all of it for None."""
    if sentences is None:
        return summary, False
    ends = _ends(summary, sentences + 1)
    return (summary[: ends[-2]], True) if len(ends) > sentences else (summary, False)


def _ends(text: str, most: int) -> list[int]:
    """Where the first `most` sentences end."""
    placed = sentence_spans(text, article_sentences)
    return [end for _, _, end in itertools.islice(placed, most)]
