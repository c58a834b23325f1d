"""Show a summary while its tokens come, and cut it at sentences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from nutgraf.config import GenerateConfig
from nutgraf.data.prompts import Renderer, summary_text
from nutgraf.data.sentences import article_sentences, sentence_spans

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Characters behind a full stop that can show it to be none, as in `5 p.m. Wednesday`.
_LOOK_AHEAD = 20


class Draft:
    """A summary while its tokens come; it shows nothing that `cut_sentences` may cut later.

    `cut` says that enough sentences have come.
    """

    def __init__(self, renderer: Renderer, settings: GenerateConfig) -> None:
        self._renderer, self._settings, self._shown = renderer, settings, ""
        self.ids: list[int] = []
        self.text, self.finish_reason, self.cut = "", "", False

    def add(self, token: int) -> str:
        """Add a token; return the piece that can be shown now, which ends in no character."""
        self.ids.append(token)
        # A character that is not whole yet is decoded as U+FFFD.
        text = self._renderer.text(self.ids).rstrip("\ufffd").rstrip()
        limit = self._settings.max_sentences
        if limit or self._settings.whole_sentences:
            ends = _sentence_ends(text)
            sure = [e for e in ends if "\n" in text[e:] or len(text) - e > _LOOK_AHEAD][:limit]
            self.cut = len(sure) == limit and len(ends) > len(sure)
            text = text[: sure[-1]] if sure else ""
        return self._show(text)

    def end(self, finish_reason: str) -> str:
        """Return the rest of the summary, whose last token has come for this reason."""
        text = self._renderer.text(self.ids)
        text, self.finish_reason = cut_sentences(text, finish_reason, self._settings)
        return self._show(text)

    def _show(self, text: str) -> str:
        self.text, shown = text, self._shown
        if not text.startswith(shown):
            return ""
        self._shown = text
        return text[len(shown) :]


def at_most(sentences: int | None, settings: GenerateConfig) -> GenerateConfig:
    """Return settings with the smaller of their own limit and so many `sentences`."""
    limits = [limit for limit in (sentences, settings.max_sentences) if limit]
    return settings.model_copy(update={"max_sentences": min(limits, default=None)})


def within(max_new_tokens: int | None, settings: GenerateConfig) -> GenerateConfig:
    """Return settings with the smaller of their own limit and so many tokens."""
    limit = min(max_new_tokens or settings.max_new_tokens, settings.max_new_tokens)
    least = min(settings.min_new_tokens, limit)
    return settings.model_copy(update={"max_new_tokens": limit, "min_new_tokens": least})


def decode_summary(
    tokenizer: PreTrainedTokenizerBase,
    ids: Sequence[int],
    finish_reason: str,
    settings: GenerateConfig,
) -> tuple[str, str]:
    """Return the text of a summary's new tokens and its `finish_reason`, as `cut_sentences`."""
    return cut_sentences(summary_text(tokenizer, ids), finish_reason, settings)


def cut_sentences(text: str, finish_reason: str, settings: GenerateConfig) -> tuple[str, str]:
    """Return what the settings leave of a summary, and its `finish_reason`: `sentences` if cut.

    It is cut after `max_sentences`, and with `whole_sentences` after the last whole one if it
    reached the limit of tokens (`length`). A line ends a sentence.
    """
    limit, to_whole = settings.max_sentences, settings.whole_sentences and finish_reason == "length"
    if not (limit or to_whole):
        return text, finish_reason
    ends = _sentence_ends(text)
    wanted = len(ends)
    if to_whole and ends and not _ends_a_sentence(text):
        wanted -= 1
    if limit:
        wanted = min(wanted, limit)
    if not wanted or (wanted == len(ends) and not to_whole):
        return text, finish_reason
    return text[: ends[wanted - 1]], "sentences"


def _sentence_ends(text: str) -> list[int]:
    """Return where each sentence ends."""
    return [end for _, _, end in sentence_spans(text, article_sentences)]


def _ends_a_sentence(text: str) -> bool:
    """Return whether a name that follows begins a sentence, as it does not behind `Mr.`."""
    return article_sentences(f"{text} Lee")[-1] == "Lee"
