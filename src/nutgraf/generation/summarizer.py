"""Summarize new articles with a saved model, and the base, prompt and decoding of its study."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Sequence

from transformers import PreTrainedTokenizerBase

from nutgraf.config import GenerateConfig
from nutgraf.config.systems import EngineName
from nutgraf.core.errors import UserError
from nutgraf.data.examples import Prompt
from nutgraf.data.prompts import Renderer
from nutgraf.data.sentences import article_sentences
from nutgraf.generation.candidate_features import FEATURES
from nutgraf.generation.choose import choose, rate
from nutgraf.generation.decoding import Candidates, Generated
from nutgraf.generation.draft import Draft, at_most, cut_sentences, within
from nutgraf.generation.engine import Engine, Transformers
from nutgraf.generation.llama_cpp import ROWS, LlamaCpp, uses_llama_cpp
from nutgraf.generation.result import RatedSummary, SummaryResult
from nutgraf.modeling.adapters import with_adapter
from nutgraf.modeling.batching import length_batches
from nutgraf.modeling.load import choose_device, load_base, load_tokenizer
from nutgraf.modeling.saved_model import SavedModel

# Batches whose articles are sorted by length together: less padding, and results come in between.
_BATCHES_SORTED = 4


@contextlib.contextmanager
def load_summarizer(
    saved: SavedModel, engine: EngineName = "transformers", articles: int = ROWS
) -> Iterator[Summarizer]:
    """Yield the summarizer of a saved model, loaded until the end of the block.

    llama.cpp has room for so many `articles` at once, ROWS at most. Raises as `uses_llama_cpp`,
    `LlamaCpp` and `Summarizer`.
    """
    tokenizer = load_tokenizer(saved.model, saved.tokenizer)
    if uses_llama_cpp(saved, engine):
        yield Summarizer(LlamaCpp(saved, tokenizer, articles), tokenizer, saved)
        return
    base = load_base(saved.model)
    adapted = with_adapter(base, saved.adapter) if saved.adapter else contextlib.nullcontext(base)
    with adapted as model:
        transformers = Transformers(model, tokenizer, choose_device(saved.model), saved.ends)
        yield Summarizer(transformers, tokenizer, saved)


class Summarizer:
    """Summarizes articles: texts that `text.usable_text` accepts.

    Raises UserError if the model's choice goes by other features than this version measures.
    """

    def __init__(
        self, engine: Engine, tokenizer: PreTrainedTokenizerBase, saved: SavedModel
    ) -> None:
        if saved.choice is not None and saved.choice.keys() != set(FEATURES):
            raise UserError(
                f"{saved.folder} chooses among candidates by {', '.join(saved.choice)}, and this "
                f"version measures {', '.join(FEATURES)}: run its study again with `nutgraf run`"
            )
        self._engine, self._settings, self._weights = engine, saved.generate, saved.choice
        self._renderer = Renderer(tokenizer, saved.prompt, saved.frame)

    @property
    def can_stream(self) -> bool:
        """Return whether it can decode one summary piece by piece: without beams or candidates."""
        return self._settings.num_beams == self._settings.candidates == 1

    def stream(self, article: str, sentences: int | None = None) -> Iterator[str | SummaryResult]:
        """Yield the pieces of one summary as they are decoded, and at the end the result.

        No piece ends inside a character. With `sentences`, or as many in the study, decoding ends
        after them.
        """
        started = time.perf_counter()
        prompt = self._renderer.prompt(article)
        draft = Draft(self._renderer, at_most(sentences, self._settings))
        for token in self._engine.stream(prompt.ids, self._settings):
            if piece := draft.add(token):
                yield piece
            if draft.cut:
                break
        reason = "length" if len(draft.ids) == self._settings.max_new_tokens else "stop"
        if piece := draft.end(reason):
            yield piece
        yield _draft_result(draft, prompt, time.perf_counter() - started)

    def write(
        self,
        articles: Sequence[str],
        streamed: Sequence[bool],
        on_event: Callable[[int, str | SummaryResult], bool],
        candidates: int = 1,
        max_new_tokens: int | None = None,
    ) -> None:
        """Summarize articles in one batch, and hand on each summary as it is written.

        `on_event` gets the index of the article with a piece of its summary (empty if there is
        nothing to show, or if it is not `streamed`), and last with the result. It returns whether
        the summary is still wanted; if not, its decoding ends. One of `candidates` is chosen as in
        the study; several are drawn without beams. No summary gets more than `max_new_tokens`, or
        the study's limit.
        """
        beams = self._settings.num_beams if candidates == 1 else 1
        changes = {"candidates": candidates, "num_beams": beams}
        settings = within(max_new_tokens, self._settings).model_copy(update=changes)
        if settings.candidates > 1:
            self._write_candidates(articles, streamed, on_event, settings)
            return
        started = time.perf_counter()
        prompts = [self._renderer.prompt(article) for article in articles]
        drafts = [Draft(self._renderer, settings) for _ in prompts]
        unfinished = set(range(len(prompts)))

        def finish(i: int, reason: str) -> None:
            unfinished.remove(i)
            rest = drafts[i].end(reason)
            if streamed[i]:
                on_event(i, rest)
            seconds = (time.perf_counter() - started) / len(prompts)
            on_event(i, _draft_result(drafts[i], prompts[i], seconds))

        def on_token(i: int, token: int | None) -> bool:
            if token is None:
                finish(i, "stop")
                return False
            if streamed[i] and settings.num_beams == 1:
                wanted = on_event(i, drafts[i].add(token))
                if drafts[i].cut:
                    finish(i, "stop")
                return wanted and not drafts[i].cut
            drafts[i].ids.append(token)
            return on_event(i, "")

        ids = [prompt.ids for prompt in prompts]
        generated = self._engine.generate(ids, settings, on_token)
        for i in sorted(unfinished):
            (new,) = generated[i].written
            drafts[i].ids = new.ids
            finish(i, new.finish_reason)

    def _write_candidates(
        self,
        articles: Sequence[str],
        streamed: Sequence[bool],
        on_event: Callable[[int, str | SummaryResult], bool],
        settings: GenerateConfig,
    ) -> None:
        """Do what `write` does if one of several candidates is chosen: each is one piece."""
        started, copies = time.perf_counter(), settings.candidates
        prompts = [self._renderer.prompt(article) for article in articles]
        ids = [prompt.ids for prompt in prompts]
        candidates = self._engine.generate(
            ids, settings, lambda row, token: on_event(row // copies, "")
        )
        seconds = (time.perf_counter() - started) / len(prompts)
        for i, article in enumerate(articles):
            result = self._chosen(article, prompts[i], candidates[i].written, seconds, settings)
            if streamed[i]:
                on_event(i, result.summary)
            on_event(i, result)

    def summarize(
        self, articles: Sequence[str], sentences: int | None = None
    ) -> Iterator[SummaryResult]:
        """Yield the summary of each article, in order, decoded in batches.

        A summary is cut after so many `sentences`, or as many in the study, an article at the
        prompt's limit of tokens.
        """
        settings = at_most(sentences, self._settings)
        size = _BATCHES_SORTED * self._settings.batch_size
        for start in range(0, len(articles), size):
            started = time.perf_counter()
            prompts = [self._renderer.prompt(text) for text in articles[start : start + size]]
            ids = [prompt.ids for prompt in prompts]
            generated = dict[int, Candidates]()
            for batch in length_batches([len(row) for row in ids], settings.batch_size):
                written = self._engine.generate([ids[i] for i in batch], settings)
                generated |= zip(batch, written, strict=True)
            seconds = (time.perf_counter() - started) / len(prompts)
            for i, article in enumerate(articles[start : start + size]):
                yield self._chosen(article, prompts[i], generated[i].written, seconds, settings)

    def _chosen(
        self,
        article: str,
        prompt: Prompt,
        written: Sequence[Generated],
        seconds: float,
        settings: GenerateConfig,
    ) -> SummaryResult:
        """Return the summary that is chosen of those that were written of an article."""
        cut = [
            cut_sentences(self._renderer.text(new.ids), new.finish_reason, settings)
            for new in written
        ]
        rated = rate(article, [text for text, _ in cut], self._weights) if len(cut) > 1 else []
        index = choose(rated, settings.choose) if rated else 0
        text, reason = cut[index]
        result = _result(text, prompt, written[index].ids, reason, seconds)
        endings = [(reason, len(new.ids)) for (_, reason), new in zip(cut, written, strict=True)]
        candidates = tuple(
            RatedSummary(row.text, row.agreement, row.unsupported, row.expected, *ending)
            for row, ending in zip(rated, endings if rated else [], strict=True)
        )
        return dataclasses.replace(result, candidates=candidates)

    def summarize_in_parts(self, article: str, sentences: int | None = None) -> SummaryResult:
        """Return the summary of an article that is read to its end, however long it is.

        If it is too long for the prompt, its parts are summarized, and their joined summaries are
        summarized as an article, in parts again if need be. `parts` are the summaries of the first
        round.
        """
        started = time.perf_counter()
        first: tuple[str, ...] = ()
        unread = 0
        while len(parts := self.parts(article)) > 1:
            results = list(self.summarize(parts))
            joined = "\n".join(result.summary for result in results if result.summary)
            if not 0 < len(joined) < len(article):
                break  # a model that does not shorten: the end is cut, as trimmed_tokens shows
            first = first or tuple(result.summary for result in results)
            unread += sum(result.trimmed_tokens for result in results)
            article = joined
        (result,) = self.summarize([article], sentences)
        return dataclasses.replace(
            result,
            trimmed_tokens=unread + result.trimmed_tokens,
            parts=first,
            seconds=time.perf_counter() - started,
        )

    def mean_loss(self, rows: Sequence[tuple[str, str]]) -> float:
        """Return the mean loss of (article, reference) pairs, in nats per reference token.

        Only transformers computes losses.
        """
        if not isinstance(self._engine, Transformers):
            raise TypeError(f"{type(self._engine).__name__} computes no losses")
        examples = [self._renderer.example(article, reference) for article, reference in rows]
        return self._engine.mean_loss(examples, self._settings.batch_size)

    def parts(self, article: str) -> list[str]:
        """Cut an article at sentences into as few parts as the prompt takes, about equally long.

        A sentence that is too long by itself is cut between words.
        """
        prompt = self._renderer.prompt(article)
        if not prompt.trimmed_tokens:
            return [article]
        pieces = [piece for sentence in article_sentences(article) for piece in self._fit(sentence)]
        lengths = [self._renderer.prompt(piece).article_tokens for piece in pieces]
        limit = prompt.article_tokens  # it was trimmed to it
        room = max(limit - max(lengths), limit // 2)  # a part may end a sentence later
        even = sum(lengths) / math.ceil(sum(lengths) / room)
        parts: list[list[str]] = [[]]
        before = filled = 0
        for piece, length in zip(pieces, lengths, strict=True):
            if parts[-1] and (before + filled >= len(parts) * even or filled + length > limit):
                parts.append([])
                before, filled = before + filled, 0
            parts[-1].append(piece)
            filled += length
        # Between spaces a piece has the same tokens as alone.
        return [" ".join(part) for part in parts]

    def _fit(self, sentence: str) -> Iterator[str]:
        words = sentence.split()
        if len(words) == 1 or not self._renderer.prompt(sentence).trimmed_tokens:
            yield sentence
        else:
            for half in (words[: len(words) // 2], words[len(words) // 2 :]):
                yield from self._fit(" ".join(half))


def _draft_result(draft: Draft, prompt: Prompt, seconds: float) -> SummaryResult:
    return _result(draft.text, prompt, draft.ids, draft.finish_reason, seconds)


def _result(
    text: str, prompt: Prompt, new: Sequence[int], reason: str, seconds: float
) -> SummaryResult:
    return SummaryResult(text, len(prompt.ids), prompt.trimmed_tokens, len(new), reason, seconds)
