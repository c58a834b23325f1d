"""Show a summary while its tokens come, and cut it at sentences."""

from __future__ import annotations

import itertools

from nutgraf.data.prompts import Renderer
from nutgraf.data.sentences import article_sentences, sentence_spans


class Draft:
    """A summary while its tokens come, cut after so many `sentences`, None for all."""

    def __init__(self, renderer: Renderer, sentences: int | None = None) -> None:
        self._renderer, self._sentences, self._shown = renderer, sentences, ""
        self.ids: list[int] = []
        self.text, self.cut = "", False

    def add(self, token: int) -> str:
        """Add a token; return the piece that can be shown now, which ends in no character."""
        self.ids.append(token)
        # A character that is not whole yet is decoded as U+FFFD.
        text = self._renderer.text(self.ids).rstrip("\ufffd").rstrip()
        if self._sentences is not None:
            ends = _sentence_ends(text, self._sentences + 1)
            self.cut = len(ends) > self._sentences
            text = text[: ends[-2]] if len(ends) > 1 else ""  # the last one may go on
        return self._show(text)

    def end(self) -> str:
        """Return the rest of the summary, whose last token has come."""
        return "" if self.cut else self._show(self._renderer.text(self.ids))

    def _show(self, text: str) -> str:
        self.text, shown = text, self._shown
        if not text.startswith(shown):
            return ""
        self._shown = text
        return text[len(shown) :]


def truncate_sentences(summary: str, sentences: int | None) -> tuple[str, bool]:
    """Return the first `sentences` of a summary (None for all), and whether that cut it."""
    if sentences is None:
        return summary, False
    ends = _sentence_ends(summary, sentences + 1)
    return (summary[: ends[-2]], True) if len(ends) > sentences else (summary, False)


def _sentence_ends(text: str, limit: int) -> list[int]:
    """Return where the first `limit` sentences end."""
    spans = sentence_spans(text, article_sentences)
    return [end for _, _, end in itertools.islice(spans, limit)]
